"""The contract of graph models as tests, for those of this package and for anyone's own.

This file needs ipu_chem, packing, torch, numpy and pytest and nothing else of the tests: copy it, or put its folder on
the path. A subclass names models as `--model.name` does, and gets every test for every form that their constructors
know (``readout``, ``filter``, ``undirected``, several targets):

    from graph_model import GraphModelContract

    class TestMine(GraphModelContract):
        names = ["mine:MyNet"]

Molecules are small and random. Models are in float64, with noise on all weights, so that nothing is zero or equal by
chance; what is said to be equal is equal to 1e-9.
"""

import io
from contextlib import nullcontext
from typing import Any, ClassVar, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.operators.check import check_program
from ipu_chem.batches.types import first_target
from ipu_chem.losses import LOSSES, Loss, with_forces
from ipu_chem.models.base import Graph, GraphModel
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.device_edges import DeviceEdges
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.layers import flat_index, keep, sum_into
from ipu_chem.models.registry import build_model, graph_model_class, sizes_of
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.tables import FILTERS
from ipu_chem.signatures import parameters
from ipu_chem.tasks.example_graphs import random_loader
from packing import Budget, Ragged, index_dtype, make_plan
from packing.collate import collate_graphs, expand_masks
from packing.store import Store

CUTOFF = 4.0
FULL = Budget(nodes=24, edges=220, graphs=7)
ROOMY = Budget(nodes=55, edges=500, graphs=7)  # never full
ELECTRONS, SPINS = 4, 3  # charges from -1 to 2, spins from 0 to 2
SMALL = dict(
    hidden_features=10, num_filters=9, num_interactions=2, num_gaussians=9, num_radial=5, cutoff=CUTOFF, table_points=64
)


class GraphPack(NamedTuple):
    """A `Graph` without charges, and labels."""

    z: Tensor
    pos: Tensor
    graph_index: Tensor
    edge_index: Tensor
    node_mask: Tensor
    edge_mask: Tensor
    graph_mask: Tensor
    y: Tensor  # [B, G, T]
    weight: Tensor  # [B, G, T], 0 in padding

    @property
    def graph(self) -> Graph:
        return Graph(*self[:7])

    @property
    def inputs(self) -> Tuple[Graph]:
        return (self.graph,)

    @property
    def targets(self) -> Tuple[Tensor, Tensor]:
        return self.y, self.weight


def random_store(
    rng: np.random.Generator, count: int, largest: int = 9, targets: int = 1, cutoff: float = CUTOFF
) -> Store:
    """Molecules of 1 to ``largest`` atoms no closer than about 0.8 Å, with radius edges and random labels."""
    z: List[np.ndarray] = []
    pos: List[np.ndarray] = []
    edges: List[np.ndarray] = []
    for _ in range(count):
        atoms = int(rng.integers(1, largest + 1))
        grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3) * 1.4
        place = grid[rng.choice(len(grid), atoms, replace=False)] + rng.uniform(-0.25, 0.25, (atoms, 3))
        distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
        target, source = np.nonzero((distance <= cutoff) & ~np.eye(atoms, dtype=bool))
        z.append(rng.choice([1, 6, 7, 8, 9], atoms).astype(np.uint8))
        pos.append(place.astype(np.float32))
        edges.append(np.stack([source, target], 1).astype(index_dtype(largest)))
    nodes, pairs = Ragged.from_list(z), Ragged.from_list(edges)
    fields = {"z": nodes.values, "pos": Ragged.from_list(pos).values, "edge_index": pairs.values}
    axis_of = {"z": "nodes", "pos": "nodes", "edge_index": "edges"}
    axes = {"nodes": nodes.offsets, "edges": pairs.offsets}
    return Store(axes, {**fields, "y": rng.normal(size=(count, targets))}, axis_of)


def pairs_once(store: Store) -> Store:
    """The same molecules with one edge for each two of opposite directions, its lower atom first."""
    edges = store.ragged("edge_index")
    once = edges.values[:, 0] < edges.values[:, 1]
    owner = np.repeat(np.arange(len(edges)), edges.lengths)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[once], minlength=len(edges)))])
    fields = {**store.fields, "edge_index": edges.values[once]}
    return Store({**store.axes, "edges": offsets}, fields, store.axis_of, store.info)


def collate(
    store: Store, packs: Tuple[np.ndarray, np.ndarray], budget: Budget, kind: Any = GraphPack, pos: str = "pos"
) -> Any:
    """Arrays of packs as a GraphPack, or another kind, with weight 1 for every molecule."""
    labels = {"y": store.fields["y"], "weight": np.ones_like(store.fields["y"])}
    nodes = {"z": store.ragged("z"), "pos": store.ragged(pos)}
    arrays = collate_graphs(packs, budget, nodes, store.ragged("edge_index"), labels, index_dtype="device")
    arrays.update(expand_masks(arrays, budget))
    return kind(**{name: torch.from_numpy(arrays[name]) for name in kind._fields})


def pack_store(
    store: Store, budget: Budget, seed: int = 0, kind: Any = GraphPack, pos: str = "pos"
) -> Tuple[Any, np.ndarray]:
    """Every molecule of a store in packs with weight 1 each, and the molecules in the order of the packs."""
    order = make_plan(store.sizes(), budget.replace()).epoch(seed, 0)
    return collate(store, order.slice(0, len(order)), budget, kind, pos), order.items


def one_by_one(store: Store) -> List[GraphPack]:
    """Every molecule alone in a pack of exactly its size: no padding anywhere."""
    packs = []
    for item in range(len(store)):
        sizes = {axis: int(store.sizes()[axis][item]) for axis in ("nodes", "edges")}
        budget = Budget(nodes=sizes["nodes"], edges=max(sizes["edges"], 1), graphs=1)
        packs.append(collate(store, (np.array([item]), np.array([0, 1])), budget))
    return packs


def as_dtype(pack: Any, dtype: torch.dtype) -> Any:
    """The pack with floating-point fields in another precision."""
    return type(pack)(*[field.to(dtype) if field.is_floating_point() else field for field in pack])


def with_garbage(pack: GraphPack, rng: np.random.Generator) -> GraphPack:
    """The pack with nonsense, NaN included, wherever a mask or a weight says that nothing stands."""
    edge_index = torch.stack([filled(pack.edge_index[:, end], pack.edge_mask, rng) for end in (0, 1)], 1)
    return pack._replace(
        z=filled(pack.z, pack.node_mask, rng),
        pos=filled(pack.pos, pack.node_mask, rng),
        graph_index=filled(pack.graph_index, pack.node_mask, rng),
        edge_index=edge_index,
        y=filled(pack.y, pack.graph_mask, rng),
    )


def filled(field: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
    """The field with nonsense where the mask is False."""
    mask = mask.reshape(mask.shape + (1,) * (field.dim() - mask.dim()))
    if field.is_floating_point():
        noise = torch.from_numpy(rng.uniform(-50, 50, tuple(field.shape))).to(field.dtype)
        noise[torch.from_numpy(rng.random(tuple(field.shape)) < 0.3)] = float("nan")
    else:  # also atomic numbers and indices that nothing has
        limits = torch.iinfo(field.dtype)
        noise = torch.from_numpy(rng.integers(limits.min, limits.max, tuple(field.shape))).to(field.dtype)
    return torch.where(mask, field, noise)


def charged(graph: Graph, garbage: int = 77) -> Graph:
    """The graph with the charge and spin that follow from the atoms of each molecule, nonsense in padding."""
    node_mask, graph_mask = graph.node_mask, graph.graph_mask
    owner = flat_index(keep(graph.graph_index.long(), node_mask), graph_mask.shape[1])
    atoms = keep(graph.z.long(), node_mask).reshape(-1, 1)
    electrons = sum_into(atoms, owner, graph_mask.numel()).reshape(graph_mask.shape)
    state = electrons % ELECTRONS - 1, electrons % SPINS
    charge, spin = (torch.where(graph_mask, value, garbage).to(torch.int8) for value in state)
    return graph._replace(charge=charge, spin=spin)


def gradients(model: nn.Module) -> Tensor:
    """All gradients of a model in one vector."""
    parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in model.parameters()]
    return torch.cat(parts)


def assert_packed_equals_one_by_one(
    model: nn.Module, store: Store, budget: Budget, loss: Loss, seed: int = 0, tolerance: float = 1e-10
) -> None:
    """Outputs, loss and parameter gradients of packs are those of their molecules alone, in float64."""
    pack, order = pack_store(store, budget, seed)
    pack = as_dtype(pack, torch.float64)
    model.zero_grad()
    prediction = model(*pack.inputs)
    value = loss(prediction, *pack.targets)
    value.backward()
    together = gradients(model)
    model.zero_grad()
    alone, total = [], torch.zeros((), dtype=torch.float64)
    for single in one_by_one(store):
        single = as_dtype(single, torch.float64)
        output = model(*single.inputs)
        part = loss(output, *single.targets)
        part.backward()
        alone.append(output.detach()[0, 0])
        total += part.detach()
    assert_equal(prediction[pack.graph_mask], torch.stack(alone)[order], tolerance)
    assert_equal(value, total, tolerance)
    assert_equal(together, gradients(model), tolerance)


def assert_equal(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> None:
    """Equal but for rounding, which counts in units of the largest value."""
    one, other = one.detach(), other.detach()
    largest = max(1.0, float(other.abs().max())) if other.numel() else 1.0
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * largest)


class Charged(nn.Module):
    """A model that is given charge and spin if it takes them."""

    def __init__(self, model: GraphModel, garbage: int = 77) -> None:
        super().__init__()
        self.model, self.garbage = model, garbage

    def forward(self, graph: Graph) -> Any:
        return self.model(charged(graph, self.garbage) if self.model.needs_charge else graph)


class Form(NamedTuple):
    """A model in one of the forms that its constructor knows."""

    name: str
    label: str
    options: Dict[str, Any]  # of the constructor
    num_targets: int = 1
    extensive: bool = True
    filter: str = "exact"
    undirected: bool = False
    readout: str = "auto"

    @property
    def is_energy(self) -> bool:
        """It has forces."""
        return self.num_targets == 1 and self.extensive

    def build(self, dtype: torch.dtype = torch.float64, noise: float = 0.2, seed: int = 0) -> GraphModel:
        torch.manual_seed(seed)
        model = build_model(
            self.name, self.num_targets, self.extensive, self.readout, self.filter, self.undirected, **self.options
        ).to(dtype)
        for parameter in model.parameters():  # zeros would hide leaks through padding
            parameter.data += noise * torch.randn_like(parameter)
        return model

    def store(self, seed: int, count: int, largest: int = 9, cutoff: float = CUTOFF) -> Store:
        store = random_store(np.random.default_rng(seed), count, largest, self.num_targets, cutoff)
        return pairs_once(store) if self.undirected else store

    def pack(self, seed: int, count: int, budget: Budget = FULL, dtype: torch.dtype = torch.float64, **k: Any) -> Any:
        return as_dtype(pack_store(self.store(seed, count, **k), budget, seed)[0], dtype)


class GraphModelContract:
    """Tests of the models in ``names``.

    Attributes:
        names: registered, or ``package.module:Class``.
        options: of constructors, by model; beside `SMALL`, of which each takes what it has.
        moments: readouts beside sum and mean, by model, of quantities that are no sums over atoms and have no forces.
        without_poptorch: models that are not made for IPUs, whose operators are not checked.
    """

    names: ClassVar[Sequence[str]] = ()
    options: ClassVar[Dict[str, Dict[str, Any]]] = {}
    moments: ClassVar[Dict[str, Sequence[str]]] = {}
    without_poptorch: ClassVar[Sequence[str]] = ()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Every test for every form of every model; those of forces, of energies alone."""
        if "form" in metafunc.fixturenames:
            forms = [form for name in self.names for form in self.forms(name)]
            chosen = [f for f in forms if f.is_energy or "energy" not in metafunc.function.__name__]
            metafunc.parametrize("form", chosen, ids=[f.label for f in chosen])

    def forms(self, name: str) -> Iterator[Form]:
        """Forms of a model, each of which differs from the plain one in what its constructor knows."""
        known = {parameter.name for parameter, _ in parameters(graph_model_class(name))}
        own = {key: value for key, value in SMALL.items() if key in sizes_of(name)}
        plain = Form(name, name, {**own, **self.options.get(name, {})})
        yield plain
        # Energies that a model adds of itself are for one sum over atoms.
        terms = dict.fromkeys(graph_model_class(name).added_energies(**plain.options), False)
        learned = {**plain.options, **terms}
        if terms:
            yield plain._replace(label=f"{name}-learned", options=learned)
        yield plain._replace(label=f"{name}-undirected", undirected=True)
        for filter in FILTERS[1:] if "filter" in known else ():
            yield plain._replace(label=f"{name}-{filter}-undirected", filter=filter, undirected=True)
        if "num_targets" in known:
            yield plain._replace(label=f"{name}-targets", options=learned, num_targets=3)
        if "atom_references" in known:
            table = torch.from_numpy(np.random.default_rng(0).normal(size=(MAX_Z, 2)))
            more = {**learned, "atom_references": table}
            yield plain._replace(label=f"{name}-references", options=more, num_targets=2)
        if "readout" in known:
            yield plain._replace(label=f"{name}-mean", options=learned, num_targets=2, extensive=False)
            moments = dict(options=learned, extensive=False, undirected=True)
            for readout in self.moments.get(name, ()):
                yield plain._replace(label=f"{name}-{readout}", readout=readout, **moments)
                two = dict(num_targets=2, filter="table" if "filter" in known else "exact")
                yield plain._replace(label=f"{name}-{readout}-targets", readout=readout, **{**moments, **two})

    def test_a_pack_equals_its_molecules_one_by_one(self, form: Form) -> None:
        model = Charged(form.build())
        for seed, (loss, count) in enumerate(zip(LOSSES.values(), (1, 14, 4, 9))):
            assert_packed_equals_one_by_one(model, form.store(seed, count), FULL, loss, seed, 1e-9)

    def test_forces_of_an_energy_and_their_gradients_in_packs_equal_those_one_by_one(self, form: Form) -> None:
        model = Charged(EnergyForces(form.build()))
        for seed, count in ((0, 1), (1, 5), (2, 10)):
            rng, store = np.random.default_rng(seed), form.store(seed, count)
            pack, order = pack_store(store, FULL, seed)
            pack = as_dtype(pack, torch.float64)
            labels = torch.from_numpy(rng.normal(size=tuple(pack.pos.shape)))
            (energies, forces), value = self._force_loss(model, pack, labels)
            value.backward()
            together = gradients(model)
            model.zero_grad()
            atoms = store.ragged("z").lengths
            label_of = dict(zip(order.tolist(), labels[pack.node_mask].split(atoms[order].tolist())))
            alone, total = [], torch.zeros((), dtype=torch.float64)
            for item, single in enumerate(one_by_one(store)):
                output, part = self._force_loss(model, as_dtype(single, torch.float64), label_of[item].unsqueeze(0))
                part.backward()
                alone.append(tuple(each.detach()[0] for each in output))
                total += part.detach()
            assert_equal(energies[pack.graph_mask], torch.cat([alone[item][0] for item in order]))
            assert_equal(forces[pack.node_mask], torch.cat([alone[item][1] for item in order]))
            assert_equal(value, total)
            assert_equal(together, gradients(model))
            model.zero_grad()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_garbage_in_padding_changes_no_bit(self, form: Form, dtype: torch.dtype) -> None:
        for seed in range(3):
            clean = form.pack(seed, 6, ROOMY, dtype)
            dirty = with_garbage(clean, np.random.default_rng(seed))
            assert not clean.node_mask.all() and not torch.equal(clean.z, dirty.z)
            outcomes = [self._outcome(form, dtype, pack, state) for pack, state in ((clean, 0), (dirty, -128))]
            for expected, found in zip(*outcomes):
                assert torch.isfinite(expected).all() and torch.equal(expected, found)

    def _outcome(self, form: Form, dtype: torch.dtype, pack: GraphPack, state: int) -> List[Tensor]:
        """Prediction, loss and gradients, forces and gradients through them; padding gives exactly 0."""
        model = Charged(form.build(dtype), state)
        prediction = model(pack.graph)
        assert prediction.dtype == dtype and prediction.shape == pack.y.shape
        assert torch.all(prediction[~pack.graph_mask] == 0) and torch.all(prediction[pack.graph_mask] != 0)
        value = LOSSES["mse"](prediction, *pack.targets)
        value.backward()
        outcome = [prediction.detach(), value.detach(), gradients(model)]
        if form.is_energy:
            model = Charged(EnergyForces(form.build(dtype)), state)
            labels = torch.where(pack.node_mask.unsqueeze(-1), torch.ones_like(pack.pos), pack.pos * torch.nan)
            (energies, forces), value = self._force_loss(model, pack, labels)
            value.backward()
            assert torch.all(forces[~pack.node_mask] == 0) and torch.all(energies[~pack.graph_mask] == 0)
            outcome += [energies.detach(), forces.detach(), value.detach(), gradients(model)]
        return outcome

    def test_an_empty_pack_gives_zero_loss_and_zero_gradients(self, form: Form) -> None:
        full = form.pack(1, 1, dtype=torch.float32)
        empty = GraphPack(*[torch.zeros_like(field) for field in full])
        model = Charged(form.build(torch.float32))
        value = LOSSES["mse"](model(empty.graph), *empty.targets)
        if form.is_energy:
            forces = Charged(EnergyForces(model.model))
            value = value + self._force_loss(forces, empty, torch.zeros_like(empty.pos))[1]
        value.backward()
        assert float(value.detach()) == 0 and torch.all(gradients(model) == 0)

    def test_molecules_do_not_see_each_other(self, form: Form) -> None:
        pack, model = form.pack(4, 4, largest=6), Charged(form.build())
        assert pack.graph_mask[0].sum() > 1
        first = pack.graph_index == 0
        z = torch.where(first, pack.z, 9 + pack.z % 2).to(pack.z.dtype)
        changed = pack._replace(z=z, pos=torch.where(first.unsqueeze(2), pack.pos, 0.9 * pack.pos))
        before, after = model(pack.graph).detach(), model(changed.graph).detach()
        assert torch.equal(before[:, 0], after[:, 0]) and not torch.equal(before[:, 1], after[:, 1])

    @pytest.mark.parametrize("mirror", [False, True])
    def test_predictions_stay_when_molecules_turn_and_move(self, form: Form, mirror: bool) -> None:
        model = Charged(form.build())
        for seed in range(5):
            pack = form.pack(seed, 6)
            assert_equal(model(self._moved(pack, seed, mirror)[0].graph), model(pack.graph))

    @pytest.mark.parametrize("mirror", [False, True])
    def test_forces_of_an_energy_turn_with_the_molecule_and_add_up_to_nothing(self, form: Form, mirror: bool) -> None:
        model = Charged(EnergyForces(form.build())).eval()
        for seed in range(5):
            pack = form.pack(seed, 6)
            moved, turn = self._moved(pack, seed, mirror)
            (_, before), (_, after) = model(pack.graph), model(moved.graph)
            assert_equal(after, before @ turn)
            largest = float(before.abs().max())
            assert largest > 1e-3 or not pack.edge_mask.any()
            for graph in range(pack.graph_mask.shape[1]):
                mine = ((pack.graph_index == graph) & pack.node_mask).unsqueeze(2)
                force = torch.where(mine, before, torch.zeros_like(before))
                torque = torch.cross(torch.where(mine, pack.pos, torch.zeros_like(before)), force, dim=2)
                assert torch.stack([force.sum(1), torque.sum(1)]).abs().max() < 1e-9 * max(largest, 1.0)

    def _moved(self, pack: GraphPack, seed: int, mirror: bool) -> Tuple[GraphPack, Tensor]:
        """The pack, turned and moved, and the rotation."""
        rng = np.random.default_rng(seed)
        turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3))))[0]
        turn = turn * torch.sign(torch.linalg.det(turn)) * (-1 if mirror else 1)
        return pack._replace(pos=pack.pos @ turn + torch.from_numpy(rng.normal(size=3))), turn

    def test_the_order_of_atoms_and_edges_does_not_matter(self, form: Form) -> None:
        model = Charged(form.build())
        for seed in range(5):
            rng = np.random.default_rng(seed)
            pack = as_dtype(one_by_one(form.store(seed, 1))[0], torch.float64)
            order = torch.from_numpy(rng.permutation(pack.z.shape[1]))
            edges = torch.from_numpy(rng.permutation(pack.edge_mask.shape[1]))
            moved = pack._replace(
                z=pack.z[:, order],
                pos=pack.pos[:, order],
                edge_index=torch.argsort(order)[pack.edge_index.long()][:, :, edges],
                edge_mask=pack.edge_mask[:, edges],
            )
            assert_equal(model(moved.graph), model(pack.graph))
            if form.is_energy:
                forces = Charged(EnergyForces(model.model)).eval()
                assert_equal(forces(moved.graph)[1], forces(pack.graph)[1][:, order])

    def test_pairs_work_as_edges_in_both_directions(self, form: Form) -> None:
        outcomes = []
        for undirected in (False, True):
            each = form._replace(undirected=undirected)
            outcomes.append(self._outcome(each, torch.float64, each.pack(3, 9), 0))
        for directed, once in zip(*outcomes):
            assert_equal(once, directed)

    def test_forces_of_an_energy_are_its_derivatives(self, form: Form) -> None:
        pack = form.pack(4, 9, cutoff=CUTOFF - 0.1)
        model, rng = Charged(EnergyForces(form.build())).eval(), np.random.default_rng(0)
        forces, real = model(pack.graph)[1], pack.node_mask.unsqueeze(2)
        assert forces.abs().max() > 1e-3

        def energy(pos: Tensor) -> float:
            return float(model(pack._replace(pos=pos).graph)[0].sum())

        for _ in range(6):
            way = torch.from_numpy(rng.normal(size=tuple(pack.pos.shape))) * real
            steps = [energy(pack.pos + step * way) for step in self._STEPS]
            assert float((forces * way).sum()) == pytest.approx(-self._derivative(steps), rel=1e-6, abs=1e-6)

    def test_gradients_by_weights_are_derivatives(self, form: Form) -> None:
        """Of the loss, with forces in it where there are any."""
        pack = form.pack(5, 4, largest=5, cutoff=CUTOFF - 0.1)
        inner = form.build()
        model = Charged(EnergyForces(inner) if form.is_energy else inner)

        def value() -> Tensor:
            if form.is_energy:
                return self._force_loss(model, pack, torch.ones_like(pack.pos))[1]
            return LOSSES["mse"](model(pack.graph), *pack.targets)

        value().backward()
        weights = [p for p in inner.parameters() if p.requires_grad]
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
            size = sum(float((way * way).sum()) for way in ways) ** 0.5
            ways = [way / size for way in ways]
            expected = sum(float((p.grad * way).sum()) for p, way in zip(weights, ways) if p.grad is not None)
            kept, found = [p.detach().clone() for p in weights], []
            for step in self._STEPS:
                for p, old, way in zip(weights, kept, ways):
                    p.data.copy_(old + step * way)
                found.append(float(value().detach()))
            for p, old in zip(weights, kept):
                p.data.copy_(old)
            assert expected == pytest.approx(self._derivative(found), rel=1e-5, abs=1e-6) and expected != 0

    _STEPS = (-2e-4, -1e-4, 1e-4, 2e-4)

    def _derivative(self, values: List[float]) -> float:
        """Derivative of a function by its values at `_STEPS`, to fourth order."""
        return (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12e-4

    def test_single_and_double_precision_agree(self, form: Form) -> None:
        pack = form.pack(6, 8)
        exact = Charged(form.build())(pack.graph)
        single = Charged(form.build().float())(as_dtype(pack, torch.float32).graph)
        assert exact.dtype == torch.float64 and single.dtype == torch.float32
        assert_equal(single.double(), exact, 1e-4)

    def test_weights_of_16_bits_give_nearly_the_same(self, form: Form) -> None:
        pack = form.pack(8, 8, dtype=torch.float32)
        model = Charged(form.build(torch.float32))
        wide = model(pack.graph)
        LOSSES["mse"](wide, *pack.targets).backward()
        exact = gradients(model)
        weights_to_half(model)
        model.zero_grad()
        with HalfOnCpu():
            narrow = model(pack.graph)
            LOSSES["mse"](narrow, *pack.targets).backward()
        assert narrow.dtype == torch.float32, "sums over atoms need the digits: see `layers.at_least_float32`"
        assert (narrow - wide).abs().max() < 0.02 * wide.abs().max()
        assert (gradients(model).float() - exact).norm() < 0.05 * exact.norm()

    def test_an_evaluation_of_an_energy_keeps_no_graph_and_gives_the_same(self, form: Form) -> None:
        pack, model = form.pack(3, 8), Charged(EnergyForces(form.build()))
        training = model.train()(pack.graph)
        with torch.no_grad():
            evaluated = model.eval()(pack.graph)
        for one, other in zip(training, evaluated):
            assert one.requires_grad and not other.requires_grad
            assert torch.equal(one.detach(), other)

    def test_weights_are_saved_and_loaded(self, form: Form) -> None:
        """Under the same names, whatever is around the model."""
        pack, saved = form.pack(7, 5), io.BytesIO()
        model = form.build()
        torch.save(model.state_dict(), saved)
        saved.seek(0)
        state = torch.load(saved, map_location="cpu")
        for wrapped in (lambda inner: inner, EnergyForces, lambda inner: CompactInputs(DeviceEdges(inner, CUTOFF, 4))):
            inner = form.build(seed=1)
            other = wrapped(inner)
            assert list(other.state_dict()) == list(state)
            assert not torch.equal(Charged(inner)(pack.graph), Charged(model)(pack.graph))
            other.load_state_dict(state)
            assert_equal(Charged(inner)(pack.graph), Charged(model)(pack.graph))

    def test_blocks_run_in_their_order(self, form: Form) -> None:
        model = form.build()
        modules, names, called = dict(model.named_modules()), model.blocks(), []
        assert set(names) <= set(modules), "blocks() names submodules"
        for name in names:
            modules[name].register_forward_pre_hook(lambda module, inputs, name=name: called.append(name))
        Charged(model)(form.pack(1, 4).graph)
        assert called == names
        assert CompactInputs(EnergyForces(model)).blocks() == ["model.model"]

    @pytest.mark.parametrize("weights", ["float32", "float16"])
    def test_every_operator_has_a_poptorch_handler(self, form: Form, weights: str) -> None:
        inner = form.build(torch.float32)
        self._check_operators(form, inner, LOSSES["mse"], weights, inner.needs_charge)
        if form.label == form.name:  # the other forms know no other losses, and no other edges
            device = DeviceEdges(inner, CUTOFF, 4)
            for loss in LOSSES.values():
                self._check_operators(form, device, loss, weights, inner.needs_charge)

    @pytest.mark.parametrize("weights", ["float32", "float16"])
    def test_so_has_every_operator_of_forces_of_an_energy(self, form: Form, weights: str) -> None:
        model, loss = EnergyForces(form.build(torch.float32)), with_forces(LOSSES["mse"], 0.9)
        self._check_operators(form, model, loss, weights, model.needs_charge)

    def _check_operators(self, form: Form, model: Any, loss: Any, weights: str, charges: bool) -> None:
        """Of batches as they are transferred, twice, so that shapes that follow contents are found."""
        if form.name in self.without_poptorch:
            pytest.skip(f"{form.name} is not made for IPUs")
        budget = Budget(nodes=ROOMY["nodes"], graphs=ROOMY["graphs"]) if model.finds_edges else ROOMY
        shape = (2, budget, form.num_targets, CUTOFF, Batching(2))
        loaders = [random_loader(*shape, seed, charges=charges, forces=model.differentiates) for seed in (0, 1)]
        examples = [next(loader.epoch(0, 0))[0] for loader in loaders]
        whole, half = CompactInputs(model), nullcontext() if weights == "float32" else HalfOnCpu()
        if weights == "float16":
            weights_to_half(whole)
        for training in (True, False):
            program = Program(whole.train(training), loss if training else self._sum, first_target(examples[0]))
            with half:
                report = check_program(program, *examples)
            assert report.findings == (), report.text()

    @staticmethod
    def _sum(prediction: Any, *_: Tensor) -> Tensor:
        return sum(each.sum() for each in (prediction if isinstance(prediction, tuple) else (prediction,)))

    def _force_loss(self, model: Any, pack: GraphPack, labels: Tensor) -> Tuple[Any, Tensor]:
        """Prediction, and the loss of energies and forces, all of weight 1; labels [B, N, 3]."""
        prediction = model(pack.graph)
        weight = pack.node_mask.unsqueeze(-1).to(labels.dtype)
        return prediction, with_forces(LOSSES["mse"], 0.7)(prediction, *pack.targets, labels, weight)
