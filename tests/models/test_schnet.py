"""SchNet: its parts, real molecules, and PyTorch Geometric's; the rest is in the contract of graph models."""

import numpy as np
import pytest
import torch
from support import (
    assert_packed_equals_one_by_one,
    pack_store,
    random_store,
)

from ipu_chem.losses import LOSSES
from ipu_chem.models.layers import GaussianBasis, cosine_cutoff
from ipu_chem.models.pyg import schnet_from_pyg, schnet_to_pyg
from ipu_chem.models.schnet import SchNet
from packing import Budget

BUDGET = Budget(nodes=24, edges=220, graphs=7)


def small_schnet(dtype=torch.float64, **options):
    torch.manual_seed(0)
    sizes = dict(hidden_features=12, num_filters=10, num_interactions=2, num_gaussians=9, cutoff=4.0)
    model = SchNet(**{**sizes, **options}).to(dtype)
    for parameter in model.parameters():  # zero biases would hide a leak through padding
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_gaussian_basis_has_no_denormals_and_follows_the_formula():
    basis = GaussianBasis(50, 10.0)
    distance = torch.linspace(0, 10, 4001)
    values = basis(distance)
    assert values.min() > torch.finfo(torch.float32).tiny
    width = 10.0 / 49
    exact = torch.exp(-0.5 * ((distance[:, None] - torch.linspace(0, 10, 50)) / width) ** 2)
    torch.testing.assert_close(values, exact, rtol=1e-4, atol=1e-20)


def test_cosine_cutoff_ends_at_zero():
    values = cosine_cutoff(torch.tensor([0.0, 2.5, 5.0, 7.0], dtype=torch.float64), 5.0)
    torch.testing.assert_close(values, torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-15)


def test_blocks_are_submodules_in_order():
    model = small_schnet()
    names = dict(model.named_modules())
    assert model.blocks() == ["embedding", "interactions.0", "interactions.1", "head"]
    assert all(name in names for name in model.blocks())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"readout": "max"}, "readout='max'"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
        ({"num_interactions": 0}, "num_interactions=0: give an integer from 1 to 1,000"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_schnet(**options)


def pyg_schnet(cutoff=4.0, **options):
    """PyG's SchNet with edges by its own rule, computed without its optional compiled packages."""
    nn = pytest.importorskip("torch_geometric.nn")

    def interaction_graph(pos, batch):
        distance = torch.linalg.norm(pos[:, None] - pos[None], dim=-1)
        apart = (batch[:, None] == batch[None]) & (distance <= cutoff) & ~torch.eye(len(pos), dtype=torch.bool)
        target, source = torch.nonzero(apart, as_tuple=True)
        return torch.stack([source, target]), distance[source, target]

    torch.manual_seed(1)
    model = nn.SchNet(cutoff=cutoff, interaction_graph=interaction_graph, **options)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("readout", ["add", "mean"])
@pytest.mark.parametrize("references", [False, True])
def test_pyg_weights_give_pyg_outputs(readout, references):
    table = torch.randn(100, 1) if references else None
    sizes = dict(hidden_channels=16, num_filters=24, num_interactions=2, num_gaussians=11)
    theirs = pyg_schnet(readout=readout, atomref=table, **sizes)
    ours = schnet_from_pyg(theirs.state_dict(), readout)
    store = random_store(np.random.default_rng(3), 20)
    pack, order = pack_store(store, BUDGET)
    expected = [theirs(torch.from_numpy(store["z"][i]).long(), torch.from_numpy(store["pos"][i])) for i in order]
    error = (ours(*pack.inputs)[pack.graph_mask] - torch.cat(expected)).abs().max()
    assert error <= 1e-5
    back = schnet_to_pyg(ours)
    assert set(back) == set(theirs.state_dict())
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items() if "initial" not in name)


def test_other_state_dicts_are_refused():
    with pytest.raises(ValueError, match="not the state dict of a PyG SchNet"):
        schnet_from_pyg({"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="nothing in it gives"):
        schnet_from_pyg({"embedding.weight": torch.zeros(100, 8)})


def test_pyg_agrees_on_200_real_molecules(shared):
    from ipu_chem.data.neighbors import radius_edges

    data = np.load(shared / "data" / "qm9" / "qm9_geometries.npz")
    chosen = np.sort(np.random.default_rng(0).choice(len(data["N"]), 200, replace=False))
    starts = np.concatenate([[0], np.cumsum(data["N"], dtype=np.int64)])
    rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
    pos = ((data["R_hi"].astype(np.int32) << 16) | data["R_lo"].astype(np.int32)).reshape(-1, 3)[rows] / 1e4
    offsets = np.concatenate([[0], np.cumsum(data["N"][chosen], dtype=np.int64)])
    edges = radius_edges(pos, offsets, 5.0)
    from packing.store import Store

    fields = {"z": data["Z"][rows], "pos": pos.astype(np.float32), "edge_index": edges.values}
    axis_of = {"z": "nodes", "pos": "nodes", "edge_index": "edges"}
    store = Store({"nodes": offsets, "edges": edges.offsets}, {**fields, "y": np.zeros((200, 1))}, axis_of)
    theirs = pyg_schnet(5.0, hidden_channels=64, num_filters=64, num_interactions=3, num_gaussians=50)
    ours = schnet_from_pyg(theirs.state_dict())
    pack, order = pack_store(store, Budget(nodes=128, edges=2304, graphs=16))
    with torch.no_grad():
        expected = [theirs(torch.from_numpy(store["z"][i]).long(), torch.from_numpy(store["pos"][i])) for i in order]
        error = (ours(*pack.inputs)[pack.graph_mask] - torch.cat(expected)).abs().max()
    assert error <= 1e-5


def test_packs_of_real_molecules_equal_them_one_by_one():
    """Rings, chains and 30-atom molecules with the edges of a 5 Å cutoff, in float64."""
    from ipu_chem.data.edges import edges_in_memory
    from ipu_chem.data.molecule import molecules_to_store
    from ipu_chem.data.smiles import embed_many

    texts = ["C", "O", "CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CCCCCCCC", "N#CC#N"]
    embeddings, failures = embed_many(texts, progress=False, workers=1)
    assert not failures
    store = edges_in_memory(molecules_to_store([entry.molecule for entry in embeddings]), 5.0)
    budget = Budget(nodes=64, edges=1400, graphs=6)
    pack, _ = pack_store(store, budget)
    assert pack.z.shape[0] > 1 and (pack.graph_mask.sum(1) > 1).any()
    assert_packed_equals_one_by_one(small_schnet(), store, budget, LOSSES["mse"])
