"""Training of molecular models in fixed-shape packs, on Graphcore IPUs and, with the same semantics, on CPU and GPU."""

__version__ = "0.1.0"
