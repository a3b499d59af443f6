"""Languages in which molecules are written as tokens, their vocabularies, and encoded stores."""
