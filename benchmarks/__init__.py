"""Benchmarks: one script per claim, each against its peers in the same run."""
