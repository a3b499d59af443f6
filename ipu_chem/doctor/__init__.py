"""Diagnosis of an installation, and of a run on IPUs before there is one."""
