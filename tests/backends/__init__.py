"""Tests of the backends, one folder each; a package, so that no folder called poptorch is ever on the path."""
