"""Tasks: what a run learns."""
