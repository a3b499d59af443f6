"""New molecules from a language model, what they are, and how they compare with known ones.

Rdkit, scipy and selfies are imported by the functions that need them.
"""
