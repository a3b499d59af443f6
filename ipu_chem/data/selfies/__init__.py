"""SELFIES: symbols, vocabularies, encoded stores."""
