"""Trained runs as force fields: a calculator for ASE, many structures in packs, dynamics, relaxation."""
