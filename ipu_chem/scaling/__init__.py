"""How good a run will be before it ends, and how loss falls with size, data and compute."""
