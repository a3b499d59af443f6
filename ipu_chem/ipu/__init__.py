"""What can be known about a run on IPUs without one: operators, memory, and how a model is cut over IPUs."""
