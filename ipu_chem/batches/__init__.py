"""Batches of fixed shape: their types, and the loaders that make them from stores and plans."""
