"""Both sides of the benchmark of a training step compute the same thing, on molecules like the real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch_geometric")

from benchmarks import molecules, schnet_peers, schnet_step
from benchmarks.ablation import rows
from benchmarks.schnet_step import FIXED, OURS, SETTINGS, load, ours, peers
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.models.pyg import schnet_to_pyg
from ipu_chem.models.schnet import SchNet

SMALL = dict(hidden_features=16, num_filters=16, num_interactions=2, num_gaussians=8, cutoff=4.0)
SETTING = SETTINGS["paper"]._replace(sizes=SMALL, step=12)


@pytest.fixture(scope="module")
def data():
    return load(SETTING, Path("nowhere"), 2)


def weights():
    torch.manual_seed(0)
    model = SchNet(**SMALL)
    torch.nn.init.normal_(model.head[2].weight)
    return model


@pytest.mark.parametrize("name", [name for name in OURS if "compiled" not in name])
def test_a_step_has_the_loss_that_pyg_has_on_the_same_molecules(data, name):
    from torch_geometric.data import Batch

    contestant = ours(SETTING, data, *OURS[name])
    contestant.backend.load_state_dict({"model": weights().state_dict()})
    pyg = schnet_peers.Pyg(SMALL, 0, flush=True)
    pyg.model.load_state_dict(schnet_to_pyg(weights()))

    batch, count = next(contestant.batches)
    mine = contestant.step(batch, count)
    everything = schnet_peers.graphs(data.both)
    labels = batch.y[batch.graph_mask][:, 0].numpy()
    chosen = [int(np.argmin(np.abs(data.both.fields["y"][:, 0] - label))) for label in labels]
    assert len(set(chosen)) == count
    theirs = pyg.step(Batch.from_data_list([everything[item] for item in chosen]), count)
    assert mine == pytest.approx(theirs, rel=2e-4)  # positions in 16 bits


def test_every_peer_trains(data):
    for name, contestant in peers(SETTING, data).items():
        before = contestant()
        contestant()
        assert 1 <= before <= 2 * SETTING.step and np.isfinite(contestant.losses).all(), name


def test_the_search_of_the_peer_finds_the_edges_there_are(data):
    """No molecule here has more neighbors than the search has slots, so both kinds of batch have one loss."""
    model = schnet_peers.Pyg(SMALL, 0, flush=True)
    model.model.load_state_dict(schnet_to_pyg(weights()))
    batch, count = next(schnet_peers.packed_with_search(data.both, 12, 29, SMALL["cutoff"], model))
    with torch.no_grad():
        found = model.model(batch.z, batch.pos, batch.batch)[:count, 0]
    given = schnet_peers.Pyg(SMALL, 0, flush=True)
    given.model.load_state_dict(model.model.state_dict())
    labels = batch.y[:count].numpy()
    everything = schnet_peers.graphs(data.both)
    for row, label in enumerate(labels):
        one = everything[int(np.argmin(np.abs(data.both.fields["y"][:, 0] - label)))]
        given._edges = one.edge_index
        with torch.no_grad():
            alone = given.model(one.z, one.pos, torch.zeros(len(one.z), dtype=torch.int64))[0, 0]
        assert found[row] == pytest.approx(float(alone), rel=1e-3, abs=1e-4)


def test_water_clusters_are_as_dense_as_water():
    store, origin = molecules.water_clusters(40)
    assert "SYNTHETIC" in origin and set(np.unique(store.fields["z"])) == {1, 8}
    pairs = radius_pairs(store.fields["pos"], store.axes["nodes"], 6.0)
    assert 1_500 < 2 * len(pairs.values) / 40 < 2_300  # real ones have about 1,950 within 6 Å
    assert len(radius_pairs(store.fields["pos"][::3], store.axes["nodes"] // 3, 2.49).values) == 0  # oxygens


def test_every_row_of_the_ablation_has_one_thing_more():
    table = list(rows().values())
    for before, after in zip(table, table[1:]):
        assert sum(a != b for a, b in zip(before, after)) == 1


def test_goals_are_those_of_contestants_there_are():
    names = {FIXED, schnet_step.BEST, *OURS}
    assert all(set(setting.goals) <= names for setting in SETTINGS.values())
