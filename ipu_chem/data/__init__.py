"""Molecules in: from SMILES, xyz, SDF and published data sets to a store, its edges, its split, its scale.

Numpy only at import; rdkit, ase, scipy and torch_geometric are imported by the functions that need them.
"""
