"""New molecules from a language model, their description, and their comparison with known ones.

Rdkit, scipy and selfies are imported by the functions that need them.
"""
