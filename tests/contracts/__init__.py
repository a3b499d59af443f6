"""Contracts as suites of tests."""
