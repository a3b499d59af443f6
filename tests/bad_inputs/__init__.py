"""Bad inputs as people type them, and the answer to each: tables by concept, and answers.txt to read through."""
