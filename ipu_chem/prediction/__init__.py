"""Predictions of trained runs."""

SUFFIXES = (".csv", ".extxyz")  # of files that they are written to
