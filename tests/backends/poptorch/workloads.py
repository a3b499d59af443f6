"""What the planner is asked to place: ChemGPT, SchNet and PaiNN in their published sizes, without values."""

from typing import Any, Dict, Tuple

import torch
from support import example_model, example_packs, model_values

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.planner import Workload
from ipu_chem.batches.types import TokenPack
from ipu_chem.config import ModelConfig, PackConfig, RunConfig
from ipu_chem.losses import mse, token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT

_KNOWN: Dict[Tuple[Any, ...], Workload] = {}  # profiles are measured once for all tests


def chemgpt_workload(size: str, tokens: int = 128, tied: bool = True) -> Workload:
    """Training of ChemGPT on packs of so many symbols, 512 of them to a step."""
    key = (size, tokens, tied)
    if key not in _KNOWN:
        with torch.device("meta"):
            model = ChemGPT(size, vocab_size=684, max_positions=tokens, tie_embeddings=tied)
        ids = torch.zeros(1, tokens, dtype=torch.int16)
        example = TokenPack(ids, ids, ids, torch.ones(1, tokens))
        _KNOWN[key] = Workload(model, token_cross_entropy, example, packs_per_step=512)
    return _KNOWN[key]


def graph_config(name: str, batching: Batching, nodes: int = 36, **sizes: Any) -> RunConfig:
    """A model in the sizes of the published IPU SchNet study, with 28 neighbors of every atom."""
    usual = dict(hidden_features=100, num_filters=100, num_interactions=4)
    model = ModelConfig(**model_values(name, **{**usual, **sizes}))
    return RunConfig(pack=PackConfig(nodes=nodes, edges=28 * nodes, graphs=8), model=model, batching=batching)


SCHNET = dict(num_gaussians=25, cutoff=6.0)


def graph_workload(config: RunConfig) -> Workload:
    """What a graph configuration trains."""
    model, batching = example_model(config, "meta"), config.batching
    return Workload(model, mse, example_packs(config, 1), config.optimizer, batching.packs_per_step)
