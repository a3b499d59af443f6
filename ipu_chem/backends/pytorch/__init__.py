"""CPUs and CUDA devices through PyTorch."""
