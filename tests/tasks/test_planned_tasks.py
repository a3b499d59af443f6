"""Examples made from a configuration are what its run compiles: the same model, the same shapes and dtypes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import example_model, example_packs, expanded, random_store

from ipu_chem.backends.options import Batching
from ipu_chem.batches.loader import PackLoader
from ipu_chem.batches.types import CompactNodePack, CompactPack
from ipu_chem.config import DataConfig, ModelConfig, PackConfig, RunConfig
from ipu_chem.data.fixed_point import fixed_point_in_memory
from ipu_chem.tasks.registry import task_of
from packing import Budget, make_plan

CONFIG = RunConfig(
    pack=PackConfig(nodes=40, edges=300, graphs=9), model=ModelConfig(hidden_features=8, num_filters=8, num_gaussians=5)
)


def planned(config: RunConfig) -> Any:
    return task_of(config).planned(config)


@pytest.mark.parametrize("positions", ["int16", "float32"])
@pytest.mark.parametrize("neighbors", [0, 6])
def test_packs_have_the_shapes_and_dtypes_of_the_loader(neighbors: int, positions: str) -> None:
    pack = replace(CONFIG.pack, device_neighbors=neighbors, edges=0 if neighbors else 300, positions=positions)
    config = replace(CONFIG, pack=pack, batching=Batching(2, 1, 2))
    store = random_store(np.random.default_rng(0), 30)
    store = fixed_point_in_memory(store) if positions == "int16" else store
    sizes = {axis: store.sizes()[axis] for axis in (("nodes",) if neighbors else ("nodes", "edges"))}
    budget = Budget(nodes=40, **({} if neighbors else {"edges": 300}))
    plan = make_plan(sizes, budget)
    loader = PackLoader(store, np.arange(30), plan, np.zeros((30, 1)), budget.replace(graphs=9), config.batching)
    real, _ = next(iter(loader.epoch(0, 0)))
    example = example_packs(config, config.batching.packs_per_call)
    assert type(example) is type(real) is (CompactNodePack if neighbors else CompactPack)
    for name, one, other in zip(real._fields, example, real):
        assert (name, one.dtype, one.shape) == (name, other.dtype, other.shape)


@settings(max_examples=40)
@given(
    nodes=st.integers(1, 80),
    edges=st.integers(1, 400),
    graphs=st.integers(1, 12),
    packs=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_packs_are_whole_molecules_within_the_cutoff(
    nodes: int, edges: int, graphs: int, packs: int, seed: int
) -> None:
    config = replace(CONFIG, pack=PackConfig(nodes=nodes, edges=edges, graphs=graphs))
    batch = expanded(example_packs(config, packs, seed), planned(config).position_step)
    assert batch.z.shape == (packs, nodes) and batch.edge_mask.shape == (packs, edges)
    for pack in range(packs):
        owner, real = batch.graph_index[pack].long(), batch.node_mask[pack]
        source, target = batch.edge_index[pack].long()[:, batch.edge_mask[pack]]
        assert real[source].all() and real[target].all() and (source != target).all()
        assert (owner[source] == owner[target]).all() and batch.graph_mask[pack][owner[real]].all()
        length = (batch.pos[pack][source] - batch.pos[pack][target]).norm(dim=1)
        assert not len(length) or float(length.max()) <= config.model.cutoff
        pairs = torch.stack([source, target], 1)
        assert len(pairs.unique(dim=0)) == len(pairs)
    assert float(batch.weight.sum()) == pytest.approx(1.0, abs=1e-5)
    assert batch.graph_mask.any() and (batch.weight[~batch.graph_mask] == 0).all()


def test_weights_sum_to_one_over_every_step() -> None:
    config = replace(CONFIG, batching=Batching(2, 1, 1, device_iterations=3))
    weight = example_packs(config, 6).weight
    torch.testing.assert_close(weight.reshape(3, -1).sum(1), torch.ones(3))


def test_seeds_change_contents_only() -> None:
    one, other = example_packs(CONFIG, 2, 0), example_packs(CONFIG, 2, 1)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(one, other))
    assert not one.graph_ends.equal(other.graph_ends) and not one.pos.equal(other.pos)
    assert all(a.equal(b) for a, b in zip(one, example_packs(CONFIG, 2, 0)))


def test_what_the_data_would_decide_is_assumed_and_said() -> None:
    task = planned(RunConfig())
    budget, assumed = task.budget, task.assumed
    assert (budget["nodes"], budget["edges"], budget["graphs"]) == (128, 1024, 16)
    assert [sentence.split(":")[0] for sentence in assumed] == ["pack.nodes", "pack.edges", "pack.graphs"]
    assert planned(CONFIG).assumed == []
    searched = replace(CONFIG, pack=PackConfig(nodes=40, graphs=9, device_neighbors=-1))
    assert [sentence.split(":")[0] for sentence in planned(searched).assumed] == ["pack.device_neighbors"]


def test_no_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="packs=0: an example holds 1 pack or more"):
        example_packs(CONFIG, 0)


def test_the_model_is_the_runs() -> None:
    config = replace(CONFIG, data=DataConfig(target="a,b"))
    model = example_model(config)
    assert type(model.model).__name__ == "SchNet" and model.model.embedding.weight.shape == (100, 8)
    prediction = model(*example_packs(config, 2).inputs)
    assert prediction.shape == (2, 9, 2)
    searched = example_model(replace(config, pack=replace(config.pack, edges=0, device_neighbors=6)), "meta")
    assert type(searched.model).__name__ == "DeviceEdges" and searched.model.max_neighbors == 6
    assert all(parameter.is_meta for parameter in searched.parameters())
    intensive = replace(config, data=DataConfig("file", target="gap", extensive=False))
    assert tuple(example_model(made).model.readout for made in (config, intensive)) == ("sum", "mean")
    with pytest.raises(ValueError, match="model.name='schnit'"):
        example_model(replace(config, model=ModelConfig("schnit")))


def test_rows_of_text_weigh_one_in_every_step():
    batching = Batching(micro_batch_size=2, gradient_accumulation=2)
    config = replace(RunConfig(), model=ModelConfig("chemgpt"), batching=batching)
    batch = example_packs(config, 8)
    assert batch.ids.shape == (8, 128) and ((batch.position_ids == 0).sum(1) > 1).all()
    torch.testing.assert_close(batch.weight.reshape(2, -1).sum(1), torch.ones(2))
    torch.testing.assert_close(example_packs(config, 3).weight.sum(), torch.tensor(1.0))
