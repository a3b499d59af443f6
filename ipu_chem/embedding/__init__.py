"""Molecules as vectors from a trained language model: in memory, from file to file, in a scikit-learn pipeline."""

from ipu_chem.embedding.embed import Embedder, Embeddings, embed, log_likelihoods
from ipu_chem.embedding.files import embed_file
from ipu_chem.embedding.options import EmbeddingOptions

__all__ = ["Embedder", "Embeddings", "EmbeddingOptions", "embed", "embed_file", "log_likelihoods"]
