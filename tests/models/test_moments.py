"""Moments of charges on atoms: formulas, PyTorch Geometric's, and how they begin; the rest is in the contract."""

import numpy as np
import pytest
import torch
from support import as_dtype, one_by_one, pack_store, random_store

from ipu_chem.models.base import zero_padded
from ipu_chem.models.moments import MOMENTS, Moment, Owners
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.pyg import schnet_from_pyg
from ipu_chem.models.schnet import MAX_Z, SchNet
from packing import Budget

BUDGET = Budget(nodes=24, edges=220, graphs=7)


def packed(seed=0, count=6):
    store = random_store(np.random.default_rng(seed), count)
    pack, order = pack_store(store, BUDGET)
    return store, as_dtype(pack, torch.float64), order


def test_masses_are_those_of_ase():
    ase_data = pytest.importorskip("ase.data")
    masses = Moment("dipole", 1).masses.reshape(-1).double().numpy()
    assert masses.shape == (MAX_Z,)
    # The longest-lived isotopes are given to the nearest unit.
    np.testing.assert_allclose(masses[1:], ase_data.atomic_masses[1:MAX_Z], rtol=1e-3)
    np.testing.assert_allclose(masses[1:36], ase_data.atomic_masses[1:36], rtol=5e-5)


@pytest.mark.parametrize("vectors", [False, True])
def test_dipoles_and_extents_are_those_of_the_formulas(vectors):
    store, pack, order = packed()
    graph, rng = zero_padded(pack.graph), np.random.default_rng(1)
    owners = Owners(graph.graph_index, graph.node_mask, graph.graph_mask)
    dipole, extent = Moment("dipole", 2).double(), Moment("extent", 2).double()
    atoms = pack.z.numel()
    charges, own = (torch.from_numpy(rng.normal(size=(atoms, 2))) for _ in range(2))
    local = torch.from_numpy(rng.normal(size=(atoms, 3, 2))) if vectors else None
    arms = dipole.arms(graph)
    lengths = dipole(charges, arms, owners, local)
    extents = extent(torch.cat([charges, own], 1), arms, owners)
    masses = dipole.masses.reshape(-1).numpy()
    found = lengths[pack.graph_mask].numpy(), extents[pack.graph_mask].numpy()
    places = np.flatnonzero(pack.node_mask.reshape(-1))
    owner = (pack.graph_index + torch.arange(len(pack.z)).unsqueeze(1) * pack.graph_mask.shape[1]).reshape(-1)
    for row, slot in enumerate(np.flatnonzero(pack.graph_mask.reshape(-1))):
        mine = places[owner[places].numpy() == slot]
        z, pos = pack.z.reshape(-1)[mine].long().numpy(), pack.pos.reshape(-1, 3)[mine].numpy()
        r = pos - masses[z] @ pos / masses[z].sum()
        vector = r.T @ charges[mine].numpy() + (0 if local is None else local[mine].numpy().sum(0))
        np.testing.assert_allclose(found[0][row], np.linalg.norm(vector, axis=0), atol=2e-6)
        area = (r * r).sum(1) / 50
        np.testing.assert_allclose(found[1][row], area @ charges[mine].numpy() + own[mine].numpy().sum(0), atol=1e-10)
    assert (lengths[~pack.graph_mask] == 0).all() and (extents[~pack.graph_mask] == 0).all()


def test_pyg_weights_of_a_dipole_give_pyg_outputs():
    nn = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(1)
    edges = {}
    theirs = nn.SchNet(
        hidden_channels=16, num_filters=24, num_interactions=2, num_gaussians=11, cutoff=4.0, dipole=True,
        interaction_graph=lambda pos, batch: (edges["index"], edges["length"]),
    ).double()  # fmt: skip
    for parameter in theirs.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    ours = schnet_from_pyg(theirs.state_dict(), "dipole")
    for pack in one_by_one(random_store(np.random.default_rng(3), 12)):
        pack = as_dtype(pack, torch.float64)
        source, target = edges["index"] = pack.edge_index[0].long()[:, pack.edge_mask[0]]
        edges["length"] = (pack.pos[0, source] - pack.pos[0, target]).norm(dim=-1)
        expected = theirs(pack.z[0].long(), pack.pos[0])
        # The masses of the two differ in the fifth digit.
        torch.testing.assert_close(ours(*pack.inputs)[0], expected, rtol=1e-3, atol=1e-4)


READOUTS = [(SchNet, "dipole"), (SchNet, "extent"), *((PaiNN, moment) for moment in MOMENTS)]


@pytest.mark.parametrize("model, readout", READOUTS)
def test_fresh_models_learn_moments(model, readout):
    """A length has no derivative at 0: dipoles must not begin there; predictions begin small."""
    torch.manual_seed(0)
    fresh = model(hidden_features=16, num_interactions=2, readout=readout)
    _, pack, _ = packed(2, 8)
    pack = as_dtype(pack, torch.float32)
    predicted = fresh(*pack.inputs)[pack.graph_mask]
    assert predicted.abs().max() < 5
    (predicted - 1).square().mean().backward()
    last = [part for part in fresh.head.modules() if isinstance(part, torch.nn.Linear)][-1]
    assert last.weight.grad is not None and last.weight.grad.norm() > 1e-3


def test_what_a_moment_does_not_have_is_refused():
    with pytest.raises(ValueError, match="readout='dipole': a moment has no references of elements; leave"):
        SchNet(readout="dipole", atom_references=torch.zeros(100, 1))
    with pytest.raises(ValueError, match="readout='dipole_vectors': choose 'sum', 'mean', 'dipole' or 'extent'"):
        SchNet(readout="dipole_vectors")
