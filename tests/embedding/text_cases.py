"""Random molecules as token ids, packs of them, a small model and a tokenizer, for the tests of this folder."""

from typing import Any, List, Tuple

import numpy as np
import torch

from ipu_chem.backends.options import Batching
from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.batches.types import TextPropertyPack
from ipu_chem.models.chemgpt import ChemGPT
from packing import Budget, Ragged, make_plan

VOCAB = 11
SLOTS, SEGMENTS = 24, 7
BUDGET = Budget(tokens=SLOTS, segments=SEGMENTS)


def small_chemgpt(dtype: torch.dtype = torch.float64, **options: Any) -> ChemGPT:
    """Fresh weights attend to everything alike and have no biases: these do not."""
    torch.manual_seed(0)
    sizes = dict(size="", vocab_size=VOCAB, max_positions=32, hidden_features=12, num_layers=2, num_heads=3)
    model = ChemGPT(**{**sizes, **options}).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def sequences(lengths: List[int], seed: int = 0) -> Ragged:
    """Random token ids of given lengths."""
    rng = np.random.default_rng(seed)
    return Ragged(rng.integers(0, VOCAB, sum(lengths)), np.append(0, np.cumsum(lengths)))


def make_loader(
    ids: Ragged, targets: np.ndarray, batching: Batching, budget: Budget = BUDGET, **options: Any
) -> TextPropertyLoader:
    items = options.get("items", np.arange(len(ids)))
    return TextPropertyLoader(
        ids,
        make_plan(ids.lengths[items], budget),
        targets,
        budget,
        batching,
        options.pop("vocab_size", VOCAB),
        **options,
    )


def one_pack(ids: Ragged, targets: np.ndarray, budget: Budget = BUDGET) -> Tuple[TextPropertyPack, np.ndarray]:
    """All molecules in one batch, and which of them stands where ``graph_mask`` is True."""
    plan = make_plan(ids.lengths, budget)
    loader = make_loader(ids, targets, Batching(micro_batch_size=max(plan.num_packs, 1)), budget)
    return next(loader.evaluation())


def alone(ids: Ragged, targets: np.ndarray, item: int, weight: torch.Tensor) -> TextPropertyPack:
    """One molecule in a pack of exactly its size."""
    tokens = torch.from_numpy(np.asarray(ids[item]))[None]
    places = torch.arange(tokens.shape[1])[None]
    y = torch.from_numpy(np.nan_to_num(targets[item]).astype(np.float32))[None, None]
    return TextPropertyPack(tokens, places, torch.tensor([[tokens.shape[1]]]), y, weight[None, None])


def with_garbage(pack: TextPropertyPack, rng: np.random.Generator) -> TextPropertyPack:
    """Nonsense in token slots behind the last molecule, and NaN in labels that do not count."""
    free = torch.arange(pack.ids.shape[1]) >= pack.ends[:, -1:]

    def fill(field: torch.Tensor) -> torch.Tensor:
        limits = torch.iinfo(field.dtype)
        noise = torch.from_numpy(rng.integers(limits.min, limits.max, tuple(field.shape))).to(field.dtype)
        return torch.where(free, noise, field)

    y = torch.where(pack.weight > 0, pack.y, torch.full_like(pack.y, float("nan")))
    return pack._replace(ids=fill(pack.ids), position_ids=fill(pack.position_ids), y=y)
