"""IPUs through PopTorch, and what can be known about a run on them without one."""
