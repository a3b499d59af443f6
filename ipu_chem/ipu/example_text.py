"""A language model and random rows of its shape, before any corpus is read.

On data's way: RunConfig -> `text_model`, `text_packs` -> TokenPack -> checks and estimates. The symbols are no
molecules: numbers at random, in sequences as long as those of drug-like molecules.
"""

from typing import Any, List, Tuple

import numpy as np
import torch

from ipu_chem.backends.options import Batching
from ipu_chem.batch import TokenPack
from ipu_chem.config import RunConfig
from ipu_chem.models.chemgpt import width_of
from ipu_chem.token_loader import TokenLoader
from ipu_chem.training.text_rows import usual_row
from ipu_chem.training.text_run import make_language_model
from packing import Budget, Ragged, make_plan

# The published vocabulary; one made of a corpus and the symbols that any molecule may need has about 200.
VOCABULARY = 684
_LENGTHS = (20, 60)  # of the sequences


def text_budget(config: RunConfig) -> Tuple[Budget, List[str]]:
    """Symbols of a row, and a sentence for every size that was assumed."""
    assumed = [f"vocabulary: {VOCABULARY} symbols assumed, a run takes those of its molecules"]
    row = config.pack.tokens
    if not row:
        row = usual_row(width_of(config.model.size, config.model.hidden_features))
        assumed.append(f"pack.tokens: {row} assumed, a run chooses them from its molecules")
    return Budget(tokens=row), assumed


def text_model(config: RunConfig, device: str) -> Any:
    """The model as training builds it.

    Raises:
        ValueError: a size that it refuses.
    """
    torch.manual_seed(config.training.seed)
    with torch.device(device):
        return make_language_model(config, VOCABULARY, text_budget(config)[0]["tokens"])


def text_packs(config: RunConfig, packs: int, seed: int) -> TokenPack:
    """Rows of several sequences each, padding at the end; weights as of `example_packs`."""
    budget, _ = text_budget(config)
    rng = np.random.default_rng(seed)
    shortest, longest = (min(length, budget["tokens"]) for length in _LENGTHS)
    lengths = rng.integers(shortest, longest + 1, 2 * packs * -(-budget["tokens"] // longest))
    ids = Ragged(rng.integers(0, VOCABULARY, lengths.sum()), np.append(0, np.cumsum(lengths)))
    step = config.batching.packs_per_step if packs % config.batching.packs_per_step == 0 else packs
    batching = Batching(step, device_iterations=packs // step)
    batch, _ = next(TokenLoader(ids, make_plan(lengths, budget), budget, batching, VOCABULARY).epoch(seed, 0))
    return batch
