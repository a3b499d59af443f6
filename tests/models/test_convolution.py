"""Filters from a table: as exact as float32, smooth, and the same model otherwise; pairs that work both ways."""

import numpy as np
import pytest
import torch
from support import as_dtype, gradients, pack_store, pairs_once, random_store

from ipu_chem.losses import LOSSES
from ipu_chem.models.convolution import EdgeList, convolve
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.tables import LARGEST_FILTER_ERROR, CubicTable, filter_error
from packing import Budget

BUDGET = Budget(nodes=24, edges=220, graphs=7)
MODELS = {
    "schnet": (SchNet, dict(hidden_features=12, num_filters=10, num_interactions=2, num_gaussians=9, cutoff=4.0)),
    "painn": (PaiNN, dict(hidden_features=10, num_interactions=2, num_radial=5, cutoff=4.0)),
}
PAPER = dict(hidden_features=100, num_filters=100, num_interactions=4, num_gaussians=25, cutoff=6.0)
LARGE = dict(hidden_features=128, num_filters=128, num_interactions=6, num_gaussians=50, cutoff=6.0)


def make(name, dtype=torch.float64, **options):
    torch.manual_seed(0)
    kind, sizes = MODELS[name]
    model = kind(**{**sizes, **options}).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def loss_and_gradients(model, pack):
    model.zero_grad()
    prediction = model(*pack.inputs)
    value = LOSSES["mse"](prediction, *pack.targets)
    value.backward()
    return prediction.detach(), value.detach(), gradients(model)


@pytest.mark.parametrize("name", MODELS)
def test_the_order_within_a_pair_does_not_matter(name):
    store = pairs_once(random_store(np.random.default_rng(4), 9))
    pack = as_dtype(pack_store(store, BUDGET)[0], torch.float64)
    turned = pack._replace(edge_index=pack.edge_index.flip(1))
    model = make(name, undirected=True)
    torch.testing.assert_close(
        loss_and_gradients(model, turned), loss_and_gradients(model, pack), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_table_changes_neither_loss_nor_gradients_nor_the_state_dict(name):
    pack = pack_store(random_store(np.random.default_rng(5), 9), BUDGET)[0]
    exact, table = make(name, torch.float32), make(name, torch.float32, filter="table")
    assert list(exact.state_dict()) == list(table.state_dict())
    table.load_state_dict(exact.state_dict())
    torch.testing.assert_close(loss_and_gradients(table, pack), loss_and_gradients(exact, pack), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_forces_come_through_a_table(name):
    pack = as_dtype(pack_store(random_store(np.random.default_rng(6), 9), BUDGET)[0], torch.float64)
    found = []
    for options in (dict(filter="exact"), dict(filter="table", table_points=4096)):
        model = make(name, **options)
        pos = pack.pos.clone().requires_grad_(True)
        (force,) = torch.autograd.grad(model(*pack._replace(pos=pos).inputs).sum(), pos, create_graph=True)
        model.zero_grad()
        (force * force).sum().backward()  # derivatives of derivatives, as training on forces takes them
        found.append((force.detach(), gradients(model)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sharper", [1.0, 10.0])
@pytest.mark.parametrize("sizes,points", [(PAPER, 512), (LARGE, 1024)])
def test_filters_from_a_table_are_exact_to_float32(sizes, points, sharper):
    torch.manual_seed(0)
    model = SchNet(**sizes, filter="table")
    assert model.table.points == points
    for interaction in model.interactions:
        interaction.filter_net[0].weight.data *= sharper
    error = filter_error(model)
    assert 0 < error <= LARGEST_FILTER_ERROR


def test_polynomials_are_as_exact_until_filters_sharpen():
    torch.manual_seed(0)
    model = SchNet(**PAPER, filter="chebyshev")
    assert 0 < filter_error(model) <= LARGEST_FILTER_ERROR
    for interaction in model.interactions:
        interaction.filter_net[0].weight.data *= 10
    assert filter_error(model) > 10 * LARGEST_FILTER_ERROR  # which the check is there to see


def test_painns_filters_from_a_table_are_exact_to_float32():
    torch.manual_seed(0)
    assert 0 < filter_error(PaiNN(filter="table")) <= LARGEST_FILTER_ERROR


def test_the_check_sees_a_table_that_is_too_coarse_and_weights_that_are_lost():
    torch.manual_seed(0)
    model = SchNet(**PAPER, filter="table", table_points=32)
    assert filter_error(model) > 100 * LARGEST_FILTER_ERROR
    assert filter_error(SchNet(**PAPER)) == 0.0
    model.interactions[2].filter_net[2].weight.data[0] = float("nan")
    assert np.isnan(filter_error(model))


def test_a_table_is_exact_for_cubics_up_to_both_ends():
    table = CubicTable(3.0, 1.0, 16).double()

    def cubic(d):
        return torch.stack([d**3 - 2 * d**2 + 1, 4 - d], 1)

    distance = torch.cat([torch.linspace(0, 3, 101), torch.tensor([3.0 - 1e-9])]).double()
    places = table.places(distance, torch.ones_like(distance))
    torch.testing.assert_close(
        table.read(table.tabulate(cubic(table.grid())), places), cubic(distance), rtol=1e-13, atol=1e-13
    )


def test_derivatives_are_continuous_at_grid_points():
    table = CubicTable(3.0, 1.0, 8).double()
    entries = table.tabulate(torch.sin(5 * table.grid()).unsqueeze(1))
    derivatives = []
    for side in (-1e-9, 1e-9):
        distance = (torch.arange(1, 8).double() * table.spacing + side).requires_grad_(True)
        read = table.read(entries, table.places(distance, torch.ones_like(distance)))
        derivatives.append(torch.autograd.grad(read.sum(), distance)[0])
    torch.testing.assert_close(derivatives[0], derivatives[1], rtol=0, atol=1e-6)


def test_distances_beyond_the_cutoff_read_the_end_and_padding_reads_zero():
    table = CubicTable(3.0, 1.0, 8)
    entries = table.tabulate(torch.cos(table.grid()).unsqueeze(1))
    places = table.places(torch.tensor([3.0001, 1e9, 1.0]), torch.tensor([1.0, 1.0, 0.0]))
    read = table.read(entries, places)[:, 0]
    torch.testing.assert_close(read[:2], torch.cos(torch.tensor([3.0, 3.0])), rtol=0, atol=1e-6)
    assert read[2] == 0.0


def test_convolve_adds_up_what_the_loops_of_its_definition_do():
    rng = np.random.default_rng(0)
    x, filters = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    source, target = rng.integers(0, 5, 7), rng.integers(0, 5, 7)
    for undirected in (False, True):
        expected = np.zeros((5, 3))
        for p in range(7):
            expected[target[p]] += x[source[p]] * filters[p]
            if undirected:
                expected[source[p]] += x[target[p]] * filters[p]
        edges = EdgeList(torch.from_numpy(source), torch.from_numpy(target), undirected)
        received = convolve(torch.from_numpy(x), torch.from_numpy(filters), edges)
        np.testing.assert_allclose(received.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_refuses_unknown_filters_and_tables_of_nothing(name):
    with pytest.raises(ValueError, match="filter='fast': choose one of exact, table, chebyshev"):
        make(name, filter="fast")
    with pytest.raises(ValueError, match="table_points=3"):
        make(name, filter="table", table_points=3)
