"""Intervals that hold: how far a run was off on molecules that it did not train on, and what that says of others."""
