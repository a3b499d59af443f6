"""Trained runs in other simulation engines than ASE: one module an engine, which loads it when it is used."""
