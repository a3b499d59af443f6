"""Packs for PyTorch Geometric: sizes from its data sets, batches of constant shape that models read as before."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from packing import Budget
from packing.adapters.pyg import PackBatchSampler, fixed_size_collate, fixed_size_loader, graph_sizes

pyg = pytest.importorskip("torch_geometric", reason="torch_geometric is not installed: its adapter was NOT tested")
from torch_geometric.data import Data, HeteroData, InMemoryDataset  # noqa: E402
from torch_geometric.nn import GINEConv, global_add_pool  # noqa: E402

BUDGET = Budget(nodes=40, edges=90)


def graph(nodes, number, degree=2):
    """A ring with chords, with attributes of every kind."""
    torch.manual_seed(number)
    ends = torch.arange(nodes)
    index = torch.cat([torch.stack([ends, (ends + step) % nodes]) for step in range(1, degree + 1)], 1)
    return Data(
        x=torch.randn(nodes, 4),
        z=torch.randint(1, 9, (nodes,)),
        pos=torch.randn(nodes, 3),
        edge_index=index,
        edge_attr=torch.randn(index.size(1), 3),
        y=torch.randn(1, 2),
        charge=torch.tensor(0.5),
        number=number,
        name=f"graph {number}",
    )


GRAPHS = [graph(int(n), number) for number, n in enumerate(np.random.default_rng(0).integers(3, 20, 60))]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU())
        self.first, self.second = GINEConv(layer, edge_dim=3), GINEConv(layer, edge_dim=3)

    def forward(self, batch, size=None):
        x = self.second(self.first(batch.x, batch.edge_index, batch.edge_attr), batch.edge_index, batch.edge_attr)
        return global_add_pool(x, batch.batch, size=size)


def test_batches_have_one_shape_and_models_read_them_as_single_graphs():
    sampler = PackBatchSampler(GRAPHS, BUDGET)
    loader = DataLoader(GRAPHS, batch_sampler=sampler, collate_fn=fixed_size_collate(sampler.budget))
    model, shapes, seen = Network(), set(), []
    for batch in loader:
        shapes.add(tuple((key, tuple(value.shape)) for key, value in batch.items() if torch.is_tensor(value)))
        assert batch.num_graphs == sampler.budget["graphs"] + 1
        real = int(batch.graphs_mask.sum())
        numbers = batch.number[:real].tolist()
        out = model(batch)  # of as many graphs without being told
        assert len(out) == batch.num_graphs and torch.equal(out, model(batch, size=batch.num_graphs))
        for place, number in enumerate(numbers):
            one = GRAPHS[number]
            expected = model(pyg.data.Batch.from_data_list([one]))[0]
            torch.testing.assert_close(out[place], expected, rtol=1e-5, atol=1e-5)
            here = (batch.batch == place) & batch.nodes_mask
            assert torch.equal(batch.pos[here], one.pos) and torch.equal(batch.z[here], one.z)
            assert torch.equal(batch.y[place], one.y[0]) and batch.name[place] == one.name
        assert int(batch.nodes_mask.sum()) == sum(GRAPHS[number].num_nodes for number in numbers)
        assert int(batch.edges_mask.sum()) == sum(GRAPHS[number].num_edges for number in numbers)
        # Padding comes last, joins nothing real, and is zero.
        first = int(batch.nodes_mask.sum())
        ends = batch.edge_index[:, ~batch.edges_mask]
        assert (ends == torch.tensor([[first], [first + 1]])).all() and (
            batch.batch[~batch.nodes_mask] == batch.num_graphs - 1
        ).all()
        assert not batch.x[~batch.nodes_mask].any() and not batch.y[~batch.graphs_mask].any()
        assert batch.edge_index.dtype == batch.batch.dtype == torch.int64
        seen += numbers
    assert len(shapes) == 1 and sorted(seen) == list(range(60)) and len(loader) == sampler.plan.num_packs
    assert dict(next(iter(shapes)))["x"] == (42, 4) and dict(next(iter(shapes)))["edge_attr"] == (90, 3)


@pytest.mark.skipif(torch.__version__ < "2.2", reason="torch.compile of this torch does not know this Python")
@pytest.mark.slow
def test_batches_of_one_shape_are_compiled_once():
    def frames(batches):
        torch._dynamo.reset()
        compiled = []
        model = torch.compile(
            Network(), dynamic=False, backend=lambda graph, inputs: compiled.append(graph) or graph.forward
        )
        for batch in batches:
            with torch.no_grad():
                model(batch, size=batch.num_graphs)
        return len(compiled)

    sampler = PackBatchSampler(GRAPHS, BUDGET)
    collate = fixed_size_collate(sampler.budget)
    packs = list(sampler)[:3]
    assert frames([collate([GRAPHS[item] for item in pack]) for pack in packs]) == 1
    assert frames([pyg.data.Batch.from_data_list([GRAPHS[item] for item in pack]) for pack in packs]) > 1


def test_a_pack_that_fills_the_budget_keeps_an_edge_for_padding():
    sizes = [20, 20]
    batch = fixed_size_collate(Budget(nodes=40, edges=90, graphs=2))([graph(n, 0) for n in sizes])
    assert int(batch.nodes_mask.sum()) == 40 and batch.edge_index[:, 80:].tolist() == [[40] * 10, [41] * 10]
    assert batch.num_graphs == 3 and batch.ptr.tolist() == [0, 20, 40, 42]


class Roots(torch.nn.Module):
    """Energies of lengths and directions, which have no derivative where a length is 0."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch, pos):
        source, target = batch.edge_index
        along = pos[source] - pos[target]
        length = (along**2).sum(1).sqrt()
        terms = self.weight * (torch.exp(-length) + (along / length[:, None])[:, 0] ** 2)
        return pos.new_zeros(batch.num_graphs).index_add(0, batch.batch[target], terms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [[3, 4, 5], [20, 20], [7]])
def test_gradients_by_positions_and_weights_are_those_of_single_graphs(sizes, dtype):
    graphs = [graph(n, number) for number, n in enumerate(sizes)]
    for one in graphs:
        one.pos = one.pos.to(dtype)
    batch = fixed_size_collate(Budget(nodes=40, edges=90, graphs=4))(graphs)
    assert batch.pos.dtype == dtype

    def forces_and_gradient(batch, real):
        model = Roots().to(dtype)
        pos = batch.pos.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(batch, pos).sum(), pos, create_graph=True)
        assert torch.isfinite(slope).all()
        (slope**2 * real[:, None]).sum().backward()  # as a loss of forces, masked by a product
        return -slope.detach()[real], model.weight.grad

    forces, gradient = forces_and_gradient(batch, batch.nodes_mask)
    alone = [forces_and_gradient(one, torch.ones(one.num_nodes, dtype=torch.bool)) for one in
             (pyg.data.Batch.from_data_list([one]) for one in graphs)]  # fmt: skip
    torch.testing.assert_close(forces, torch.cat([force for force, _ in alone]))
    torch.testing.assert_close(gradient, sum(gradient for _, gradient in alone))
    places = batch.pos[~batch.nodes_mask]
    assert len(places) == 1 or torch.pdist(places).min() >= 1000


def test_many_nodes_of_padding_are_apart_and_in_the_range_of_half_precision():
    for columns in (1, 2, 3):
        lone = Data(pos=torch.zeros(1, columns), edge_index=torch.zeros(2, 0, dtype=torch.int64))
        places = fixed_size_collate(Budget(nodes=2000, edges=1, graphs=1))([lone]).pos[1:]
        assert len(torch.unique(places, dim=0)) == 2001
    assert places.max() < 6e4  # of three columns


def test_values_of_padding_and_attributes_left_out():
    collate = fixed_size_collate(
        Budget(nodes=30, edges=70, graphs=4),
        node_pad_value={"x": 7.0, "pos": 0.0},
        edge_pad_value=2.0,
        graph_pad_value=-1.0,
        exclude_keys=["name"],
        follow_batch=["z"],
    )
    batch = pickle.loads(pickle.dumps(collate))(GRAPHS[:2])  # as for a worker
    assert (batch.x[~batch.nodes_mask] == 7).all() and not batch.pos[~batch.nodes_mask].any()
    assert (batch.edge_attr[~batch.edges_mask] == 2).all() and (batch.y[~batch.graphs_mask] == -1).all()
    assert "name" not in batch and len(batch.z_batch) == 32


class Collection(InMemoryDataset):
    def __init__(self, graphs, transform=None):
        super().__init__(None, transform)
        self.data, self.slices = self.collate(graphs)


def counted(monkeypatch):
    read = []
    get = Collection.get
    monkeypatch.setattr(Collection, "get", lambda self, index: (read.append(index), get(self, index))[1])
    return read


def test_sizes_are_read_once_from_slices_where_there_are_some(monkeypatch):
    read = counted(monkeypatch)
    plain = {"nodes": [one.num_nodes for one in GRAPHS], "edges": [one.num_edges for one in GRAPHS]}
    for dataset, order in (
        (GRAPHS, range(60)),
        (Collection(GRAPHS), range(60)),
        (Collection(GRAPHS)[10:30], range(10, 30)),
        (Subset(Collection(GRAPHS), [5, 3, 40]), [5, 3, 40]),
    ):
        sizes = graph_sizes(dataset)
        assert {name: column.tolist() for name, column in sizes.items()} == {
            name: [column[index] for index in order] for name, column in plain.items()
        }
    assert len(read) <= 3 * 6  # a few to be sure
    read.clear()
    grown = Collection(GRAPHS, transform=lambda data: graph(data.num_nodes + 1, 0))
    assert graph_sizes(grown, ["nodes"])["nodes"].tolist() == [nodes + 1 for nodes in plain["nodes"]]
    assert len(read) == 60
    sampler = PackBatchSampler(Collection(GRAPHS), BUDGET)
    read.clear()
    list(sampler), list(sampler)
    assert not read


def test_a_data_set_of_nodes_that_only_num_nodes_counts():
    graphs = [Data(edge_index=one.edge_index, num_nodes=one.num_nodes) for one in GRAPHS]
    for dataset in (graphs, Collection(graphs)):
        assert graph_sizes(dataset)["nodes"].tolist() == [one.num_nodes for one in GRAPHS]
    batch = fixed_size_collate(Budget(nodes=60, edges=120, graphs=5))(graphs[:4])
    assert batch.num_nodes == 62 and len(batch.batch) == 62


def test_attributes_of_molecules_with_as_many_atoms_are_told_apart():
    frames = [Data(pos=torch.randn(3, 3), force=torch.randn(3, 3), y=torch.randn(1), dipole=torch.randn(1, 3),
                   edge_index=torch.tensor([[0, 1], [1, 2]])) for _ in range(4)]  # fmt: skip
    batch = fixed_size_collate(Budget(nodes=12, edges=8, graphs=4))(frames)
    assert batch.force.shape == (14, 3) and batch.y.shape == (5,) and batch.dipole.shape == (5, 3)
    for one in frames:
        one.moments = torch.randn(3)  # three a graph, as many as atoms
    collate = fixed_size_collate(Budget(nodes=16, edges=8, graphs=4))
    assert collate(frames).moments.shape == (18,)
    other = frames[0].clone()
    other.pos, other.force = torch.randn(4, 3), torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"'moments' has sizes \[3, 3\] .* one of the node in an earlier pack; say"):
        collate([frames[0], other])
    said = fixed_size_collate(Budget(nodes=16, edges=8, graphs=4), levels={"moments": "graph"})
    assert said(frames).moments.shape == said([frames[0], other]).moments.shape == (15,)


def test_single_atoms_do_not_make_a_target_one_of_nodes():
    atom = Data(x=torch.ones(1, 2), edge_index=torch.zeros(2, 0, dtype=torch.int64), y=torch.ones(1))
    collate = fixed_size_collate(Budget(nodes=4, edges=1, graphs=4))
    assert collate([atom, atom]).y.shape == (5,) and collate([atom]).x.shape == (6, 2)


class Wrong:
    num_edges = 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fixed_size_collate(Budget(nodes=9)), "needs edges, graphs in the budget (nodes=9), e.g. edges=8"),
        (lambda: fixed_size_collate(Budget(nodes=9, edges=9, graphs=2), levels={"y": "atom"}), "choose node, edge"),
        (lambda: fixed_size_collate(Budget(nodes=9, edges=9, graphs=2))([]), "one Data or more, not none"),
        (lambda: fixed_size_collate(Budget(nodes=9, edges=9, graphs=2))([HeteroData()]), "not HeteroData"),
        (
            lambda: fixed_size_collate(Budget(nodes=19, edges=99, graphs=9))(GRAPHS[:4]),
            "nodes and the budget 19; if sizes",
        ),
        (lambda: PackBatchSampler([Wrong()] * 3, BUDGET), "item 0 of the data set (Wrong) has no num_nodes"),
        (lambda: PackBatchSampler(iter(GRAPHS), BUDGET), "cannot be indexed"),
        (lambda: PackBatchSampler(GRAPHS, Budget(nodes=40, angles=9)), "the budget measures angles"),
        (lambda: PackBatchSampler(GRAPHS, Budget(nodes=5)), "oversize='skip' leaves them out"),
        (
            lambda: fixed_size_collate(Budget(nodes=40, edges=90, graphs=4))(
                [Data(x=torch.ones(n, 1), ring=torch.ones(n + 2)) for n in (3, 5)]
            ),
            "exclude_keys=['ring']",
        ),
        (
            lambda: fixed_size_collate(Budget(nodes=40, edges=90, graphs=4))([Data(z=torch.ones(3))]),
            "nodes cannot be counted from z; set data.num_nodes",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_data_set_that_grew_is_noticed():
    graphs = list(GRAPHS)
    sampler = PackBatchSampler(graphs, BUDGET)
    graphs.append(GRAPHS[0])
    with pytest.raises(ValueError, match="has 61 graphs and had 60 when its sizes were read; make the sampler anew"):
        iter(sampler)


def test_a_loader_in_one_line():
    loader = fixed_size_loader(GRAPHS, BUDGET, seed=3, node_pad_value={"x": 2.0}, num_workers=0, world=2, rank=1)
    assert loader.batch_sampler.world == 2 and loader.num_workers == 0
    batches = list(loader)
    assert {batch.num_nodes for batch in batches} == {42}
    assert all((batch.x[~batch.nodes_mask] == 2).all() for batch in batches)
    other = fixed_size_loader(GRAPHS, BUDGET, seed=3, world=2)
    seen = [number for batch in [*batches, *other] for number in batch.number[: int(batch.graphs_mask.sum())].tolist()]
    assert sorted(seen) == list(range(60))
    with pytest.raises(TypeError, match="batchsize"):
        fixed_size_loader(GRAPHS, BUDGET, batchsize=3)


def test_pyg_loader_takes_the_sampler():
    from torch_geometric.loader import DataLoader as GraphLoader

    sampler = PackBatchSampler(GRAPHS, BUDGET)
    loader = GraphLoader(GRAPHS, batch_sampler=sampler)
    numbers = [number for batch in loader for number in batch.number.tolist()]
    assert sorted(numbers) == list(range(60)) and len(loader) == len(sampler)
