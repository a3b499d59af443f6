"""A model of text and random rows of its shape, before any corpus is read.

On data's way: RunConfig -> `text_model`, `text_packs` -> TokenPack or TextPropertyPack -> checks and estimates. The
symbols are no molecules: numbers at random, in sequences as long as those of drug-like molecules.
"""

from typing import Any, List, Tuple, Union

import numpy as np
import torch

from ipu_chem.backends.options import Batching
from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.batches.types import TextPropertyPack, TokenPack
from ipu_chem.config import RunConfig
from ipu_chem.losses import Loss, loss_by_name, token_cross_entropy
from ipu_chem.metrics import Target
from ipu_chem.models.chemgpt import ChemGPT, width_of
from ipu_chem.tasks.kinds import TEXT_PROPERTY, kind_of, learns_classes, target_names
from ipu_chem.tasks.language import make_language_model
from ipu_chem.tasks.text_labels import fresh_arguments, with_head
from ipu_chem.tasks.text_rows import usual_row
from packing import Budget, Ragged, make_plan

# The published vocabulary; one made of a corpus and the symbols that any molecule may need has about 200.
VOCABULARY = 684
_LENGTHS = (20, 60)  # of the sequences
_TOKENS_PER_MOLECULE = 8  # where molecules have slots: small ones fill rows of which large ones need few


def text_budget(config: RunConfig) -> Tuple[Budget, List[str]]:
    """Symbols of a row, slots for molecules if they have labels, and a sentence for every size that was assumed."""
    assumed = [f"vocabulary: {VOCABULARY} symbols assumed, a run takes those of its molecules"]
    row = config.pack.tokens
    if not row:
        row = usual_row(width_of(config.model.size, config.model.hidden_features))
        assumed.append(f"pack.tokens: {row} assumed, a run chooses them from its molecules")
    if kind_of(config) != TEXT_PROPERTY:
        return Budget(tokens=row), assumed
    segments = config.pack.graphs or max(row // _TOKENS_PER_MOLECULE, 1)
    if not config.pack.graphs:
        assumed.append(f"pack.graphs: {segments} assumed, a run takes what its fullest row holds")
    if config.training.start_from:
        assumed.append("model: sizes of the configuration assumed, a run takes those of training.start_from")
    return Budget(tokens=row, segments=segments), assumed


def example_targets(config: RunConfig) -> List[Target]:
    """As many targets as data.target names, 1 where it names none."""
    names, classes = target_names(config) or ["label"], learns_classes(config)
    return [Target(name, "", getattr(config.data, "extensive", True) and not classes, classes) for name in names]


def text_model(config: RunConfig, device: str) -> Any:
    """The model as training builds it.

    Raises:
        ValueError: a size that it refuses.
    """
    torch.manual_seed(config.training.seed)
    row = text_budget(config)[0]["tokens"]
    with torch.device(device):
        if kind_of(config) == TEXT_PROPERTY:
            targets = example_targets(config)
            return with_head(config, ChemGPT(**fresh_arguments(config, VOCABULARY, row)), targets)
        return make_language_model(config, VOCABULARY, row)


def text_loss(config: RunConfig) -> Loss:
    """The loss as training takes it.

    Raises:
        ValueError: unknown name.
    """
    if kind_of(config) != TEXT_PROPERTY:
        return token_cross_entropy
    return loss_by_name(config.loss, learns_classes(config))


def text_packs(config: RunConfig, packs: int, seed: int) -> Union[TokenPack, TextPropertyPack]:
    """Rows of several sequences each, padding at the end; weights as of `example_packs`."""
    budget, _ = text_budget(config)
    rng = np.random.default_rng(seed)
    shortest, longest = (min(length, budget["tokens"]) for length in _LENGTHS)
    lengths = rng.integers(shortest, longest + 1, 2 * packs * -(-budget["tokens"] // longest))
    ids = Ragged(rng.integers(0, VOCABULARY, lengths.sum()), np.append(0, np.cumsum(lengths)))
    step = config.batching.packs_per_step if packs % config.batching.packs_per_step == 0 else packs
    batching = Batching(step, device_iterations=packs // step)
    plan = make_plan(lengths, budget)
    if kind_of(config) == TEXT_PROPERTY:
        labels = rng.normal(size=(len(ids), len(example_targets(config))))
        labels[rng.random(labels.shape) < 0.1] = np.nan  # some are missing
        labels[0] = 0.0
        batch, _ = next(TextPropertyLoader(ids, plan, labels, budget, batching, VOCABULARY).epoch(seed, 0))
    else:
        batch, _ = next(TokenLoader(ids, plan, budget, batching, VOCABULARY).epoch(seed, 0))
    return batch
