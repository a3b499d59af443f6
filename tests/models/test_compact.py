"""Packs through the compact form are their molecules one by one through the plain model."""

from typing import Any, List

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poptorch_helpers import installed_double
from support import as_dtype, gradients, one_by_one, pack_store, random_store, with_compact_garbage

from ipu_chem.batches.types import CompactNodePack, CompactPack
from ipu_chem.data.fixed_point import FIELD, STEP, fixed_point_in_memory
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs, masks_from_ends
from ipu_chem.models.device_edges import DeviceEdges
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from packing import Budget, index_dtype
from packing.collate import expand_masks
from packing.store import Store

CUTOFF = 4.0
BUDGET = Budget(nodes=24, edges=260, graphs=7)


def model_of(kind: Any, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = dict(num_filters=8, num_gaussians=6) if kind is SchNet else dict(num_radial=4)
    model = kind(hidden_features=8, num_interactions=2, cutoff=CUTOFF, **sizes).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def rounded(store: Store) -> Store:
    """The store with the positions, in Å, that its 16-bit ones stand for."""
    pos = store.fields[FIELD].astype(np.float32) * np.float32(store.info[STEP])
    return Store(store.axes, {**store.fields, "pos": pos}, store.axis_of, store.info)


def outcome(model: torch.nn.Module, batches: List[Any]) -> List[torch.Tensor]:
    """Predictions of all molecules, the loss and its gradients, added up over batches."""
    model.zero_grad()
    predictions, total = [], torch.zeros((), dtype=torch.float64)
    for batch in batches:
        prediction = model(*batch.inputs)
        loss = mse(prediction, *batch.targets)
        loss.backward()
        predictions.append(prediction.detach()[batch.graph_mask])
        total += loss.detach()
    derivatives = gradients(model)
    assert derivatives is not None
    return [torch.cat(predictions), total, derivatives]


@pytest.mark.parametrize("kind", [SchNet, PaiNN])
@pytest.mark.parametrize("edges", ["sent", "found"])
@pytest.mark.parametrize("positions", ["float32", "int16"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 12))
def test_equals_the_molecules_one_by_one(kind: Any, edges: str, positions: str, seed: int, count: int) -> None:
    store = random_store(np.random.default_rng(seed), count)
    if positions == "int16":
        store = fixed_point_in_memory(store)
    step = store.info.get(STEP)
    plain = model_of(kind)
    inner = plain if edges == "sent" else DeviceEdges(plain, CUTOFF, 8)
    model = CompactInputs(inner, step)
    pack, order = pack_store(store, BUDGET, seed % 100, CompactPack if edges == "sent" else CompactNodePack)
    assert pack.pos.dtype == getattr(torch, positions)
    if step is None:
        pack = as_dtype(pack, torch.float64)
    else:  # what the device makes of them is float32, and its square roots are as good as that
        model, plain = model.float(), plain.float()
    packed = outcome(model, [pack])
    singles = one_by_one(store if step is None else rounded(store))
    alone = outcome(plain, [as_dtype(single, torch.float64) for single in singles] if step is None else singles)
    tolerance = 1e-9 if step is None else 2e-4
    for got, expected in zip(packed, [alone[0][order], *alone[1:]]):
        torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [SchNet, PaiNN])
def test_sixteen_bits_cost_next_to_nothing(kind: Any) -> None:
    """A distance is off by at most sqrt(3) steps, and predictions by what that makes of them."""
    store = fixed_point_in_memory(random_store(np.random.default_rng(7), 40))
    step, model = store.info[STEP], model_of(kind, torch.float32)
    with torch.no_grad():
        exact = torch.cat([model(*single.inputs)[0] for single in one_by_one(store)])
        pack, order = pack_store(store, BUDGET, kind=CompactPack)
        packed = CompactInputs(model, step)(*pack.inputs)[pack.graph_mask]
    error = (packed - exact[order]).abs().max()
    assert 0 < float(error) < 10 * step * float(exact.std())


@st.composite
def ends(draw: Any) -> Any:
    nodes, graphs = draw(st.integers(1, 300)), draw(st.integers(1, 9))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        sizes = draw(st.lists(st.integers(1, max(nodes // graphs, 1)), max_size=min(graphs, nodes)))
        rows.append(np.cumsum([*sizes, *[0] * (graphs - len(sizes))]))
    return np.stack(rows).astype(index_dtype(nodes + 1)), nodes


@given(ends())
@settings(max_examples=60, deadline=None)
def test_masks_are_those_of_the_host(case: Any) -> None:
    graph_ends, nodes = case
    expected = expand_masks({"graph_ends": graph_ends}, Budget(nodes=nodes, graphs=graph_ends.shape[1]))
    found = masks_from_ends(torch.from_numpy(graph_ends), nodes)
    for name, tensor in zip(("node_mask", "graph_index", "graph_mask"), found):
        assert np.array_equal(tensor.numpy(), expected[name]), name
    pack = CompactNodePack(*[torch.zeros(1)] * 2, torch.from_numpy(graph_ends), *[torch.zeros(1)] * 2)
    assert np.array_equal(pack.graph_mask.numpy(), expected["graph_mask"])


@pytest.mark.parametrize("positions", ["float32", "int16"])
@pytest.mark.parametrize("edges", ["sent", "found"])
def test_garbage_in_padding_changes_no_bit(edges: str, positions: str) -> None:
    rng = np.random.default_rng(5)
    store = random_store(rng, 6)
    store = fixed_point_in_memory(store) if positions == "int16" else store
    inner = model_of(SchNet, torch.float32)
    inner = inner if edges == "sent" else DeviceEdges(inner, CUTOFF, 8)
    kind = CompactPack if edges == "sent" else CompactNodePack
    pack, _ = pack_store(store, Budget(nodes=55, edges=500, graphs=7), kind=kind)
    dirty = with_compact_garbage(pack, rng)
    assert not torch.equal(pack.z, dirty.z) and not torch.equal(pack.pos, dirty.pos)
    model = CompactInputs(inner, store.info.get(STEP))
    assert torch.equal(model(*pack.inputs), model(*dirty.inputs))


def test_checkpoints_and_blocks_are_the_models() -> None:
    plain = model_of(SchNet, torch.float32)
    wrapped = CompactInputs(DeviceEdges(model_of(SchNet, torch.float32), CUTOFF, 8), 0.5)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    plain.embedding.weight.data.add_(1.0)
    wrapped.load_state_dict(plain.state_dict())
    assert torch.equal(wrapped.model.model.embedding.weight, plain.embedding.weight)
    assert wrapped.blocks()[0] == "model.model.embedding"
    assert set(wrapped.blocks()) <= {name for name, _ in wrapped.named_modules()}


def test_positions_in_another_form_are_refused() -> None:
    store = fixed_point_in_memory(random_store(np.random.default_rng(0), 3))
    pack, _ = pack_store(store, BUDGET, kind=CompactPack)
    with pytest.raises(ValueError, match="positions are torch.int16, the model was made for position_step=None"):
        CompactInputs(model_of(SchNet))(*pack.inputs)
    with pytest.raises(ValueError, match="position_step=0.0: give a positive length"):
        CompactInputs(model_of(SchNet), 0.0)


@pytest.mark.parametrize("graphs", [7, 1])
@pytest.mark.parametrize("edges", ["sent", "found"])
def test_runs_through_poptorch(edges: str, graphs: int) -> None:
    store = fixed_point_in_memory(random_store(np.random.default_rng(3), 10))
    inner = model_of(SchNet, torch.float32)
    inner = inner if edges == "sent" else DeviceEdges(inner, CUTOFF, 8)
    model = CompactInputs(inner, store.info[STEP]).eval()
    kind = CompactPack if edges == "sent" else CompactNodePack
    pack, _ = pack_store(store, BUDGET.replace(graphs=graphs), kind=kind)
    with installed_double() as poptorch:
        program = poptorch.inferenceModel(model)
        torch.testing.assert_close(program(*pack.inputs), model(*pack.inputs).detach(), rtol=1e-6, atol=1e-6)
        program.destroy()
