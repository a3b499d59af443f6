"""Search by early evaluation, and scaling of loss with size, data and compute."""
