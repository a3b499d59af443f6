"""Predictions of trained runs."""
