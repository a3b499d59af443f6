"""New molecules from a language model, their description, and their comparison with known ones.

Rdkit and scipy are imported by the functions that need them.
"""
