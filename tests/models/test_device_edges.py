"""Neighbors found on the device are those that the host finds: outputs and gradients agree."""

from typing import Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import GraphPack, as_dtype, gradients, pack_store, random_store, with_garbage

from ipu_chem.data.neighbors import knn_edges
from ipu_chem.losses import mse
from ipu_chem.models.base import Graph
from ipu_chem.models.device_edges import DeviceEdges, neighbors_in_packs
from ipu_chem.models.schnet import SchNet
from packing import Budget
from packing.store import Store

CUTOFF = 4.0
BUDGET = Budget(nodes=24, edges=260, graphs=7)


def schnet(dtype: torch.dtype = torch.float64) -> SchNet:
    torch.manual_seed(0)
    model = SchNet(hidden_features=8, num_filters=8, num_interactions=2, num_gaussians=6, cutoff=CUTOFF).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def without_edges(pack: GraphPack) -> Graph:
    return pack.graph._replace(edge_index=None, edge_mask=None)


def nearest_only(store: Store, k: int) -> Store:
    """The store with the host's edges from the k nearest neighbors."""
    pos = store.ragged("pos")
    edges = knn_edges(pos.values, pos.offsets, k, CUTOFF)
    return Store(
        {**store.axes, "edges": edges.offsets}, {**store.fields, "edge_index": edges.values}, store.axis_of, store.info
    )


def run(model: torch.nn.Module, batch: GraphPack, edges: bool) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, gradient of the positions, gradients of the parameters."""
    pos = batch.pos.clone().requires_grad_(True)
    batch = batch._replace(pos=pos)
    prediction = model(batch.graph if edges else without_edges(batch))
    model.zero_grad()
    mse(prediction, *batch.targets).backward()
    assert pos.grad is not None
    return prediction.detach(), pos.grad, gradients(model)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 12), k=st.integers(1, 12))
def test_equals_edges_of_the_host(seed: int, count: int, k: int) -> None:
    store = nearest_only(random_store(np.random.default_rng(seed), count), k)
    pack = as_dtype(pack_store(store, BUDGET, seed % 100)[0], torch.float64)
    model = schnet()
    host, device = run(model, pack, True), run(DeviceEdges(model, CUTOFF, k), pack, False)
    for one, other in zip(host, device):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


def test_edges_are_the_hosts_edges() -> None:
    store = random_store(np.random.default_rng(3), 10)
    pack = pack_store(store, BUDGET)[0]
    edge_index, edge_mask = neighbors_in_packs(pack.pos, pack.graph_index, pack.node_mask, CUTOFF, 8)
    assert edge_index.shape == (len(pack.z), 2, 24 * 8) and edge_mask.shape == (len(pack.z), 24 * 8)
    for place in range(len(pack.z)):
        ours = {tuple(edge) for edge in edge_index[place].T[edge_mask[place]].tolist()}
        hosts = {tuple(edge) for edge in pack.edge_index[place].T[pack.edge_mask[place]].tolist()}
        assert ours == hosts and len(ours) == int(edge_mask[place].sum())


def test_garbage_in_padding_changes_no_bit() -> None:
    rng = np.random.default_rng(5)
    pack = pack_store(random_store(rng, 6), Budget(nodes=55, edges=500, graphs=7))[0]
    model = DeviceEdges(schnet(torch.float32), CUTOFF, 8)
    clean, dirty = (model(without_edges(each)) for each in (pack, with_garbage(pack, rng)))
    assert torch.equal(clean, dirty)


def test_blocks_are_modules() -> None:
    wrapped = DeviceEdges(schnet(), CUTOFF, 8)
    assert wrapped.blocks()[0] == "model.embedding"
    assert set(wrapped.blocks()) <= {name for name, _ in wrapped.named_modules()}


def test_nothing_to_look_for_is_refused() -> None:
    with pytest.raises(ValueError, match="max_neighbors=0.*1 or more neighbors"):
        DeviceEdges(schnet(), CUTOFF, 0)
