"""Packed sequences: their length, molecules that are longer, and random ones for checks before a corpus is read."""

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ipu_chem.config import PackConfig, RunConfig
from ipu_chem.data.representations.registry import representation_named
from ipu_chem.models.chemgpt import width_of
from ipu_chem.models.pooling import POOLINGS
from ipu_chem.models.tables import FILTERS
from ipu_chem.ranges import check_choice
from packing import Budget, PackingPlan, Ragged, make_plan
from packing.types import offsets_of

# The published vocabulary; one made of a corpus and the symbols that any molecule may need has about 200.
VOCABULARY = 684
_LENGTHS = (20, 60)  # of the sequences
_TOKENS_PER_MOLECULE = 8  # where molecules have slots: small ones fill packs of which large ones need few
_STEP = 32  # lengths are multiples of it, as devices and matrix products like them
_WIDE = 256  # features above which 256 tokens cost hardly more than fewer


class Fitted(NamedTuple):
    """Molecules as training sees them.

    Attributes:
        ids: of the molecules that are kept.
        kept: [K] which molecules those are.
        counts: {"dropped": ..., "truncated": ...}.
    """

    ids: Ragged
    kept: np.ndarray
    counts: Dict[str, int]


def usual_length(width: int) -> int:
    """The longest packed sequence that is worth it for a width: attention grows with its square."""
    return 128 if width <= _WIDE else 256


def choose_length(lengths: np.ndarray, width: int) -> int:
    """The length that costs least per token: short sequences save attention, long ones are filled better.

    Args:
        lengths: [I] tokens of every molecule, BOS and EOS included.
        width: features of the model.

    Returns:
        A multiple of 32 up to `usual_length`, or above it the first that holds the longest molecule.
    """
    least = -(-int(lengths.max()) // _STEP) * _STEP
    candidates = list(range(least, max(usual_length(width), least) + 1, _STEP))
    # A layer's matrix products take 24 F^2 operations a token, its scores 4 S F.
    # Histogram packing fills them nearly as well as the plan will, and is done at once.
    packs = [make_plan(lengths, Budget(tokens=length), "lpfhp").num_packs for length in candidates]
    costs = [(1 + length / (6 * width)) * length * count for length, count in zip(candidates, packs)]
    return candidates[int(np.argmin(costs))]


def fit_sequences(ids: Ragged, length: int, long: str) -> Fitted:
    """Apply the policy for molecules longer than a packed sequence.

    Args:
        ids: of every molecule, BOS and EOS included.
        length: tokens of a packed sequence.
        long: error, drop, or truncate (the end of such a molecule is lost, EOS with it).

    Raises:
        ValueError: ``long`` is error and there is such a molecule, or none is short enough; names the length that fits.
    """
    over = ids.lengths > length
    everything = np.arange(len(ids))
    if not over.any():
        return Fitted(ids, everything, {"dropped": 0, "truncated": 0})
    longest = int(ids.lengths.max())
    if long == "error":
        raise ValueError(
            f"molecule {int(np.argmax(over))} has {ids.lengths[np.argmax(over)]} tokens with begin and end, as "
            f"{int(over.sum()):,} of {len(ids):,} have more than pack.tokens={length}; set pack.tokens={longest} or "
            "more, 0 to have it chosen, or data.long to drop or truncate."
        )
    if long == "drop":
        if over.all():
            raise ValueError(f"no molecule fits pack.tokens={length}; the longest needs {longest}.")
        return Fitted(ids.take(everything[~over]), everything[~over], {"dropped": int(over.sum()), "truncated": 0})
    short = np.minimum(ids.lengths, length)
    place = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
    kept = Ragged(ids.values[place < length], offsets_of(short))
    return Fitted(kept, everything, {"dropped": 0, "truncated": int(over.sum())})


def check_text_options(config: RunConfig) -> None:
    """Refuse options that no model of text has; filters of a recipe for graphs say nothing to it.

    Raises:
        ValueError: names the option, or the package that a representation needs.
    """
    if config.force_share:
        raise ValueError(
            f"force_share={config.force_share}: a model of text knows no positions, and so no forces; leave it out."
        )
    representation_named(config.data.representation).versions()  # are its libraries there?
    check_choice("model.readout", config.model.readout, ("auto", *POOLINGS))
    check_choice("model.filter", config.model.filter, ("auto", *FILTERS))
    if config.data.unknown == "extend" and not config.training.start_from:
        raise ValueError(
            "data.unknown=extend adds symbols to the vocabulary of an earlier model; name it with "
            "training.start_from, or leave it out."
        )


def assumed_tokens(pack: PackConfig, size: str, hidden_features: int) -> Tuple[int, List[str]]:
    """Tokens of a pack for a model of a size, and a sentence for every size that was assumed."""
    assumed = [f"vocabulary: {VOCABULARY} tokens assumed, a run takes those of its molecules"]
    if pack.tokens:
        return pack.tokens, assumed
    tokens = usual_length(width_of(size, hidden_features))
    return tokens, [*assumed, f"pack.tokens: {tokens} assumed, a run chooses them from its molecules"]


def assumed_segments(pack: PackConfig, tokens: int) -> Tuple[int, List[str]]:
    """Slots for molecules of a pack of so many tokens, and a sentence if they were assumed."""
    if pack.graphs:
        return pack.graphs, []
    segments = max(tokens // _TOKENS_PER_MOLECULE, 1)
    return segments, [f"pack.graphs: {segments} assumed, a run takes what its fullest packed sequence holds"]


def random_tokens(
    packs: int, budget: Budget, seed: int, vocab_size: int, atoms: Optional[float]
) -> Tuple[Ragged, PackingPlan]:
    """Random sequences for so many packs or some more, and a plan for them; other seeds give other contents.

    Raises:
        ValueError: atoms are given.
    """
    if atoms is not None:
        raise ValueError(f"atoms={atoms:g}: this model reads text, in sequences of its own; leave it out.")
    rng = np.random.default_rng(seed)
    shortest, longest = (min(length, budget["tokens"]) for length in _LENGTHS)
    lengths = rng.integers(shortest, longest + 1, 2 * packs * -(-budget["tokens"] // longest))
    ids = Ragged(rng.integers(0, vocab_size, lengths.sum()), offsets_of(lengths))
    return ids, make_plan(lengths, budget)


def random_labels(molecules: int, targets: int, seed: int) -> np.ndarray:
    """[molecules, targets] float64, some missing as NaN."""
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=(molecules, targets))
    labels[rng.random(labels.shape) < 0.1] = np.nan
    labels[0] = 0.0
    return labels
