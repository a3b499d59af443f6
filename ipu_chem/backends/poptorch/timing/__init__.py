"""Time that a program takes on Bow IPUs: predicted, not measured."""
