"""Small models of every kind with random molecules to train on, for comparing PopTorch with the torch backend."""

from functools import lru_cache, partial
from typing import Any, Callable, Dict, NamedTuple

import numpy as np
import torch
from support import pairs_once, random_store, with_random_forces
from torch import nn

from ipu_chem.backends.options import Batching
from ipu_chem.batches.loader import Loader, PackLoader
from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.data.fixed_point import STEP, fixed_point_in_memory
from ipu_chem.losses import bce, mse, token_cross_entropy, with_forces
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.next_token import NextToken
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.property_head import ChemGPTProperty
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.spookynet import SpookyNet
from packing import Budget, Ragged, make_plan
from packing.store import Store

MOLECULES = 260
VOCAB = 30
FORCES = "forces"


class Case(NamedTuple):
    """What is trained; made anew for every backend.

    Attributes:
        name: of the model.
        learns: what its labels are.
        model: makes it, the same each time.
        loss: see `ipu_chem.losses`.
        loader: of batches for a batching.
        stages: parts of a pipeline of two IPUs; 0 for a model that is one block.
    """

    name: str
    learns: str
    model: Callable[[], nn.Module]
    loss: Any
    loader: Callable[[Batching], Loader]
    stages: int = 2


@lru_cache(maxsize=None)
def graph_store(undirected: bool = False) -> Store:
    """Molecules of up to 9 atoms with energies, forces, charges and spins; positions in 16 bits."""
    store = random_store(np.random.default_rng(0), MOLECULES)
    store = pairs_once(store) if undirected else store
    return fixed_point_in_memory(with_random_forces(store))


def graph_loader(batching: Batching, undirected: bool = False, charges: bool = False, forces: bool = False) -> Loader:
    store = graph_store(undirected)
    budget = Budget(nodes=24, edges=80 if undirected else 160, graphs=6)
    plan = make_plan({axis: store.sizes()[axis] for axis in ("nodes", "edges")}, budget)
    return PackLoader(
        store,
        np.arange(MOLECULES),
        plan,
        store.fields["y"],
        budget,
        batching,
        charges=charges,
        forces=store.fields["forces"] if forces else None,
    )


def graph_model(kind: Any, forces: bool = False, **options: Any) -> CompactInputs:
    torch.manual_seed(0)
    model = kind(hidden_features=8, cutoff=4.0, num_interactions=2, **options)
    last = model.head.output if kind is SpookyNet else model.head[2]
    nn.init.normal_(last.weight, std=0.1)  # else nothing before it moves in the first step
    return CompactInputs(EnergyForces(model) if forces else model, graph_store().info[STEP])


def random_ids() -> Ragged:
    """Token ids of molecules of 2 to 13 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 14, MOLECULES)
    return Ragged(rng.integers(0, VOCAB, lengths.sum()), np.append(0, np.cumsum(lengths)))


def token_loader(batching: Batching) -> Loader:
    ids, budget = random_ids(), Budget(tokens=32)
    return TokenLoader(ids, make_plan(ids.lengths, budget), budget, batching, vocab_size=VOCAB)


def property_loader(batching: Batching, classes: bool = False) -> Loader:
    ids, budget = random_ids(), Budget(tokens=32, segments=8)
    targets = np.random.default_rng(1).normal(size=(MOLECULES, 2))
    targets = np.where(targets > 0, 1.0, 0.0) if classes else targets
    return TextPropertyLoader(ids, make_plan(ids.lengths, budget), targets, budget, batching, VOCAB)


def chemgpt(tied: bool) -> ChemGPT:
    sizes: Dict[str, Any] = dict(vocab_size=VOCAB, max_positions=16, hidden_features=16, num_layers=3, num_heads=2)
    torch.manual_seed(0)
    return ChemGPT(tie_embeddings=tied, **sizes)


def with_noise(model: nn.Module) -> nn.Module:
    """Fresh weights attend to everything alike and have no biases, and a fresh head predicts 0: these do not."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def language_model(tied: bool) -> nn.Module:
    """As runs wrap it."""
    return NextToken(with_noise(chemgpt(tied)))


def property_model(pooling: str) -> nn.Module:
    return with_noise(ChemGPTProperty(chemgpt(tied=True), num_targets=2, pooling=pooling))


def of_energies(name: str, kind: Any, undirected: bool = True, charges: bool = False, **options: Any) -> Case:
    model = partial(graph_model, kind, undirected=undirected, **options)
    return Case(name, "energies", model, mse, partial(graph_loader, undirected=undirected, charges=charges))


def of_forces(name: str, kind: Any, charges: bool = False, **options: Any) -> Case:
    model = partial(graph_model, kind, forces=True, undirected=True, **options)
    loader = partial(graph_loader, undirected=True, charges=charges, forces=True)
    return Case(name, FORCES, model, with_forces(mse, 0.8), loader, stages=0)


SCHNET: Dict[str, Any] = dict(num_filters=8, num_gaussians=6)
TABLE: Dict[str, Any] = dict(SCHNET, filter="table", table_points=64)
PAINN: Dict[str, Any] = dict(num_radial=4)
# All terms: charge and spin, nonlocal attention, repulsion, electrostatics, dispersion. Random molecules have atoms at
# 0.9 Å, whose repulsion is tens of eV; the labels are of order one.
SPOOKYNET: Dict[str, Any] = dict(charges=True, num_radial=5, energy_scale=50.0)

CASES = {
    "schnet": of_energies("SchNet", SchNet, undirected=False, **SCHNET),
    "schnet-table": of_energies("SchNet, table", SchNet, **TABLE),
    "painn": of_energies("PaiNN", PaiNN, undirected=False, **PAINN),
    "spookynet": of_energies("SpookyNet", SpookyNet, **SPOOKYNET),
    "schnet-forces": of_forces("SchNet", SchNet, **SCHNET),
    "schnet-table-forces": of_forces("SchNet, table", SchNet, **TABLE),
    "painn-forces": of_forces("PaiNN", PaiNN, **PAINN),
    "spookynet-forces": of_forces("SpookyNet", SpookyNet, **SPOOKYNET),
    "transformer": Case(
        "ChemGPT", "next symbols", partial(language_model, tied=False), token_cross_entropy, token_loader
    ),
    # The head is on the embedding's IPU, behind the layers on the other one: three stages.
    "tied-transformer": Case(
        "ChemGPT, tied",
        "next symbols",
        partial(language_model, tied=True),
        token_cross_entropy,
        token_loader,
        stages=3,
    ),
    "property": Case("property head", "numbers", partial(property_model, "mean"), mse, property_loader),
    "property-classes": Case(
        "property head", "classes", partial(property_model, "max"), bce, partial(property_loader, classes=True)
    ),
}
