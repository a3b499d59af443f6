"""Random token sequences in packs of a given shape, for checks and estimates before any corpus is read.

The tokens are no molecules: ids at random, in sequences as long as those of drug-like molecules.
"""

from typing import List, Optional, Tuple

import numpy as np

from ipu_chem.config import PackConfig
from ipu_chem.models.chemgpt import width_of
from ipu_chem.tasks.text_rows import usual_row
from packing import Budget, PackingPlan, Ragged, make_plan

# The published vocabulary; one made of a corpus and the symbols that any molecule may need has about 200.
VOCABULARY = 684
_LENGTHS = (20, 60)  # of the sequences
_TOKENS_PER_MOLECULE = 8  # where molecules have slots: small ones fill packs of which large ones need few


def assumed_tokens(pack: PackConfig, size: str, hidden_features: int) -> Tuple[int, List[str]]:
    """Tokens of a pack for a model of a size, and a sentence for every size that was assumed."""
    assumed = [f"vocabulary: {VOCABULARY} symbols assumed, a run takes those of its molecules"]
    if pack.tokens:
        return pack.tokens, assumed
    tokens = usual_row(width_of(size, hidden_features))
    return tokens, [*assumed, f"pack.tokens: {tokens} assumed, a run chooses them from its molecules"]


def assumed_segments(pack: PackConfig, tokens: int) -> Tuple[int, List[str]]:
    """Slots for molecules of a pack of so many tokens, and a sentence if they were assumed."""
    if pack.graphs:
        return pack.graphs, []
    segments = max(tokens // _TOKENS_PER_MOLECULE, 1)
    return segments, [f"pack.graphs: {segments} assumed, a run takes what its fullest row holds"]


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
    ids = Ragged(rng.integers(0, vocab_size, lengths.sum()), np.append(0, np.cumsum(lengths)))
    return ids, make_plan(lengths, budget)


def random_labels(molecules: int, targets: int, seed: int) -> np.ndarray:
    """[molecules, targets] float64, some missing as NaN."""
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=(molecules, targets))
    labels[rng.random(labels.shape) < 0.1] = np.nan
    labels[0] = 0.0
    return labels
