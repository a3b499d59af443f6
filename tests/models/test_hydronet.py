"""Weights of networks for HydroNet: the same energies as by their own formulas, written out here."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from ipu_chem.data.neighbors import knn_edges
from ipu_chem.models.base import Graph
from ipu_chem.models.pyg import schnet_from_hydronet, schnet_to_pyg
from ipu_chem.models.schnet import SchNet

FEATURES, GAUSSIANS, BLOCKS, CUTOFF = 12, 9, 3, 6.0


def state_of_its_own_names(seed=0):
    """Drawn weights by the names of pnnl/downstream_mol_gnn, with what PyG's blocks hold twice."""
    torch.manual_seed(seed)
    state = {
        "atom_embedding.weight": torch.randn(100, FEATURES, dtype=torch.float64),
        "basis_expansion.offset": torch.linspace(0, CUTOFF, GAUSSIANS, dtype=torch.float64),
    }
    sizes = {"mlp.0": (GAUSSIANS, FEATURES), "mlp.2": (FEATURES, FEATURES), "lin": (FEATURES, FEATURES)}
    sizes.update({"conv.lin1": (FEATURES, FEATURES), "conv.lin2": (FEATURES, FEATURES)})
    layers = {f"interactions.{block}.{name}": size for block in range(BLOCKS) for name, size in sizes.items()}
    layers.update(lin1=(FEATURES, FEATURES // 2), lin2=(FEATURES // 2, 1))
    for name, (inputs, outputs) in layers.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, dtype=torch.float64) / inputs**0.5
        if not name.endswith("conv.lin1"):
            state[f"{name}.bias"] = torch.randn(outputs, dtype=torch.float64)
    repeated = {name.replace("mlp.", "conv.nn."): value for name, value in state.items() if ".mlp." in name}
    return {**state, **repeated}


def energy_by_hand(state, z, pos, source, target):
    """The network's forward pass for one cluster."""

    def linear(name, x):
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def activation(x):
        return functional.softplus(x) - math.log(2)

    centers = state["basis_expansion.offset"]
    distance = (pos[source] - pos[target]).norm(dim=1)
    basis = torch.exp(-0.5 / (centers[1] - centers[0]) ** 2 * (distance[:, None] - centers) ** 2)
    wave = 0.5 * (torch.cos(distance * math.pi / CUTOFF) + 1)
    h = state["atom_embedding.weight"][z]
    for block in (f"interactions.{number}" for number in range(BLOCKS)):
        filters = linear(f"{block}.mlp.2", activation(linear(f"{block}.mlp.0", basis))) * wave[:, None]
        messages = linear(f"{block}.conv.lin1", h)[source] * filters
        received = torch.zeros_like(h).index_add(0, target, messages)
        h = h + linear(f"{block}.lin", activation(linear(f"{block}.conv.lin2", received)))
    return linear("lin2", activation(linear("lin1", h))).sum()


def energy_by_model(model, z, pos, source, target):
    atoms, edges = len(z), len(source)
    masks = [torch.ones((1, size), dtype=torch.bool) for size in (atoms, edges, 1)]
    index = torch.zeros((1, atoms), dtype=torch.int64)
    return model(Graph(z[None], pos[None], index, torch.stack([source, target])[None], *masks)).squeeze()


def cluster(waters, spread):
    """Water molecules at random places of a box."""
    rng = np.random.default_rng(waters)
    middle = rng.permutation(np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3))[:waters] * spread
    water = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    pos = (middle[:, None] + water).reshape(-1, 3) + rng.normal(0, 0.05, (3 * waters, 3))
    edges = knn_edges(pos, np.array([0, 3 * waters]), 28, CUTOFF).values.astype(np.int64)
    return torch.tensor([8, 1, 1] * waters), torch.from_numpy(pos), *torch.from_numpy(edges).unbind(1)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("waters", [2, 20])
def test_energies_are_those_of_the_formulas(prefix, waters):
    state = state_of_its_own_names()
    model = schnet_from_hydronet({prefix + name: value for name, value in state.items()})
    inputs = cluster(waters, 2.5)
    if waters == 20:  # as many neighbors as that code takes, not in both directions
        counts = torch.bincount(inputs[3])
        assert counts.max() == 28 and not torch.equal(counts, torch.bincount(inputs[2], minlength=60))
    expected = energy_by_hand(state, *inputs)
    torch.testing.assert_close(energy_by_model(model, *inputs), expected, rtol=1e-12, atol=1e-12)
    assert model.cutoff == CUTOFF and model.readout == "sum"


def test_a_wrapped_schnet_of_pyg_is_taken_as_it_is():
    torch.manual_seed(0)
    ours = SchNet(FEATURES, FEATURES, BLOCKS, GAUSSIANS, CUTOFF)
    again = schnet_from_hydronet({f"model.{name}": value for name, value in schnet_to_pyg(ours).items()})
    for name, value in ours.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_other_networks_are_refused():
    state = state_of_its_own_names()
    for change, sentence in (
        ({"interactions.1.gate.weight": torch.zeros(3)}, r"it holds interactions\.1\.gate\.weight"),
        ({"correlation.weight": torch.zeros(1)}, "it holds correlation.weight"),
    ):
        with pytest.raises(ValueError, match=sentence):
            schnet_from_hydronet({**state, **change})
    del state["atom_embedding.weight"]
    with pytest.raises(ValueError, match=r"nothing in it gives embedding\.weight") as error:
        schnet_from_hydronet(state)
    assert "\n" not in str(error.value)
