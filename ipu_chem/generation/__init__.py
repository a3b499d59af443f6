"""New molecules from a language model, what they are, and how they compare with known ones."""
