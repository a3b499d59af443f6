"""Embeddings as a scikit-learn transformer: a step of a pipeline that takes SMILES and gives vectors.

scikit-learn is loaded when the class is first asked for, not when this module is: `ChemGPTEmbedding` is then made
of what stands here and scikit-learn's base classes, so that pipelines, clones and searches take it for their own.
"""

import os
from dataclasses import fields
from typing import Any, Dict, List, Optional

import numpy as np

from ipu_chem.data.files.table import Entry
from ipu_chem.embedding.embed import Embedder, embed_entries, entries_of
from ipu_chem.embedding.options import EmbeddingOptions

INVALID = ("error", "nan")


class _Embedding:
    """Vectors of molecules from a trained ChemGPT; there is nothing to fit."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        pooling: str = "mean",
        special_tokens: bool = False,
        tokens: Optional[int] = None,
        long: str = "error",
        notation: str = "smiles",
        stereo: bool = True,
        invalid: str = "error",
        micro_batch_size: int = 8,
        workers: Optional[int] = 1,
        accelerator: str = "cpu",
    ) -> None:
        """Set parameters; they are checked, and a folder is read, by `fit` or the first `transform`.

        Args:
            model: folder of a run or of Hugging Face weights, a `LanguageModel`, or a `ChemGPT`. Searches copy and send
                parameters to other processes, and a folder's name is the smallest.
            tokenizer: of a `ChemGPT`; the others have theirs.
            pooling, special_tokens, tokens, long, notation, stereo, micro_batch_size, workers, accelerator: see
                `ipu_chem.embedding.EmbeddingOptions`.
            invalid: "error" refuses molecules that cannot be embedded, "nan" gives them a row of NaN.
        """
        self.model, self.tokenizer, self.invalid = model, tokenizer, invalid
        self.pooling, self.special_tokens, self.tokens, self.long = pooling, special_tokens, tokens, long
        self.notation, self.stereo, self.micro_batch_size = notation, stereo, micro_batch_size
        self.workers, self.accelerator = workers, accelerator

    def fit(self, X: Any, y: Any = None) -> Any:
        """Read the model; molecules are not read.

        Raises:
            ValueError: there is no such model, or parameters do not go together.
        """
        self._open().close()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed.

        Args:
            X: n texts: a list, an array [n] or [n, 1], or a column of a table.

        Returns:
            [n, F] float32, NaN in rows that could not be embedded.

        Raises:
            ValueError: as `fit`, or a molecule cannot be embedded and ``invalid`` is error; names the first.
        """
        entries = _entries(X)
        with self._open() as embedder:
            found = embed_entries(embedder, entries)
        if found.failures and self.invalid == "error":
            first, others = found.failures[0], len(found.failures) - 1
            raise ValueError(
                f"row {first.line} ({first.smiles}) cannot be embedded: {first.reason}; {others} others neither. "
                "Take them out, or set invalid='nan' for rows of NaN."
            )
        return found.values

    def __getstate__(self) -> Dict[str, Any]:
        state = dict(super().__getstate__())  # type: ignore[misc]
        # What was read from a folder can be read again.
        return {name: value for name, value in state.items() if name != "_loaded"}

    def _open(self) -> Embedder:
        if self.invalid not in INVALID:
            raise ValueError(f"invalid={self.invalid!r}: choose one of {', '.join(INVALID)}.")
        named = (one.name for one in fields(EmbeddingOptions))
        options = {name: getattr(self, name) for name in named if hasattr(self, name)}
        embedder = Embedder(*self._model_and_tokenizer(), EmbeddingOptions(**options))
        self._n_features_out = embedder.features  # the name by which scikit-learn numbers columns
        return embedder

    def _model_and_tokenizer(self) -> Any:
        if isinstance(self.model, (str, os.PathLike)):
            folder, loaded = getattr(self, "_loaded", (None, None))
            if folder != self.model:
                from ipu_chem.tasks.language_model import load_language_model

                loaded = load_language_model(self.model)
                self._loaded = (self.model, loaded)
            return loaded.model, self.tokenizer or loaded.tokenizer  # type: ignore[union-attr]
        if hasattr(self.model, "tokenizer"):
            return self.model.model, self.tokenizer or self.model.tokenizer
        if self.tokenizer is None:
            raise ValueError("tokenizer=None: a ChemGPT needs the tokenizer that it was trained with.")
        return self.model, self.tokenizer


def _entries(X: Any) -> List[Entry]:
    """Molecules as they stand in lists, arrays and columns; ``line`` is the row, from 0."""
    if isinstance(X, str):
        raise ValueError(f"X={X!r}: give a list of texts, even for one molecule.")
    array = np.asarray(X, object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"X has shape {list(array.shape)}: molecules are one column of texts.")
    return entries_of(array, 0)


def _with_scikit_learn() -> type:
    """`ChemGPTEmbedding` itself.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    except ImportError:
        raise ValueError("ChemGPTEmbedding is a transformer of scikit-learn: pip install scikit-learn.") from None

    class ChemGPTEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Embedding, BaseEstimator):
        __doc__ = _Embedding.__doc__

        # Here again, because scikit-learn wraps what a class defines itself: for set_output.
        def transform(self, X: Any) -> np.ndarray:
            return super().transform(X)

        def __sklearn_tags__(self) -> Any:
            tags = super().__sklearn_tags__()
            tags.requires_fit = False
            tags.input_tags.string, tags.input_tags.two_d_array = True, False
            return tags

    ChemGPTEmbedding.__module__ = __name__
    ChemGPTEmbedding.__qualname__ = "ChemGPTEmbedding"  # where pickle finds it
    return ChemGPTEmbedding


def __getattr__(name: str) -> Any:
    if name != "ChemGPTEmbedding":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = _with_scikit_learn()
    return made
