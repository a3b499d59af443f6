"""Options of embeddings, plain values that are checked before anything heavy is imported."""

from dataclasses import dataclass
from typing import Optional

NOTATIONS = ("smiles", "selfies", "text")
LONG = ("error", "drop", "truncate")
FRAGMENTS = ("keep", "largest", "error")
UNKNOWN = ("error", "map")
_FEWEST_TOKENS = 3  # begin, one of the molecule, end


@dataclass(frozen=True)
class EmbeddingOptions:
    """Options of `Embedder`.

    Attributes:
        pooling: mean, max, sum, last or eos, see `ipu_chem.models.pooling`.
        special_tokens: count the marks of begin and end in means, maxima and sums, as some other programs do.
        likelihoods: log-likelihoods of molecules in place of vectors: one number each, in nats, of all tokens after the
            first and unknown properties; the model as it was trained. There is no pooling then.
        tokens: of a packed sequence, begin and end of every molecule included; None begins with the length that is
            fastest for the model and doubles it where a molecule is longer, up to the longest that the model reads.
        long: policy for molecules longer than that: error, drop (it gets no vector) or truncate.
        notation: of the molecules: smiles, which are written anew as the model reads molecules, or texts that are so
            already, as they are: selfies, or text for any representation.
        stereo: keep stereochemistry; turn it off for a model whose vocabulary has none.
        fragments: of a salt or another molecule of several: keep all, the largest, or error (it gets no vector).
        unknown: policy for symbols that the vocabulary lacks: error (the molecule gets no vector), or map, which reads
            them as the unknown one.
        micro_batch_size: packed sequences that are computed at once.
        chunk: molecules that are encoded, packed and embedded together; decides how much memory it takes.
        workers: processes that translate SMILES; None takes the cores this process may use.
        accelerator: auto, cpu, cuda or ipu.
    """

    pooling: str = "mean"
    special_tokens: bool = False
    likelihoods: bool = False
    tokens: Optional[int] = None
    long: str = "error"
    notation: str = "smiles"
    stereo: bool = True
    fragments: str = "keep"
    unknown: str = "error"
    micro_batch_size: int = 8
    chunk: int = 8192
    workers: Optional[int] = 1
    accelerator: str = "cpu"

    def __post_init__(self) -> None:
        if self.likelihoods and (self.pooling != "mean" or self.special_tokens):
            raise ValueError("likelihoods are of whole molecules: leave pooling and special_tokens out.")
        for name, allowed in (("long", LONG), ("notation", NOTATIONS), ("fragments", FRAGMENTS), ("unknown", UNKNOWN)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if self.tokens is not None and self.tokens < _FEWEST_TOKENS:
            raise ValueError(
                f"tokens={self.tokens}: a sequence holds {_FEWEST_TOKENS} or more, begin and end included."
            )
        for name in ("micro_batch_size", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more.")
