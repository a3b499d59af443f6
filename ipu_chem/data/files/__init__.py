"""Files of molecules: one reader of tables of SMILES, one of 3D structures."""
