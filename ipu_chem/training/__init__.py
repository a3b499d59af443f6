"""Training, evaluation, checkpoints and reports, the same for every backend."""
