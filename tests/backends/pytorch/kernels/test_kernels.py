"""Machine code equals the torch form: values, slopes, padding, odd shapes; and does without a compiler."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import gradients, pack_store, pairs_once, random_store, with_garbage

from ipu_chem.backends.pytorch.kernels import native
from ipu_chem.backends.pytorch.kernels.convolution import convolution, shifted_softplus, table_convolution, use_kernels
from ipu_chem.losses import LOSSES
from ipu_chem.models.convolution import EdgeList, convolve
from ipu_chem.models.layers import ShiftedSoftplus
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.tables import CubicTable
from packing import Budget

if native.find_compiler() is None:
    pytest.skip("no C compiler here: the kernels are not tested", allow_module_level=True)


def case(seed, atoms, pairs, features, undirected, self_pairs):
    """Random features, table, places and edges, some of them padding."""
    rng = np.random.default_rng(seed)
    table = CubicTable(3.0, 1.0, 16)
    source = rng.integers(0, atoms, pairs)
    step = rng.integers(0 if self_pairs else 1, max(atoms, 2), pairs)
    edges = EdgeList(torch.from_numpy(source), torch.from_numpy((source + step) % atoms), undirected)
    draw = lambda *shape: torch.from_numpy(rng.normal(size=shape).astype(np.float32))  # noqa: E731
    distance = torch.from_numpy(rng.uniform(0.1, 3.0, pairs).astype(np.float32)).requires_grad_(True)
    real = torch.from_numpy((rng.random(pairs) < 0.8).astype(np.float32))
    x, entries = draw(atoms, features).requires_grad_(True), draw(17, 2 * features).requires_grad_(True)
    return x, entries, distance, table.places(distance, real), edges, draw(atoms, features)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    atoms=st.integers(1, 9),
    pairs=st.integers(0, 40),
    features=st.integers(1, 37),
    undirected=st.booleans(),
    self_pairs=st.booleans(),
)
def test_convolution_equals_its_torch_form(seed, atoms, pairs, features, undirected, self_pairs):
    x, entries, distance, places, edges, down = case(seed, atoms, pairs, features, undirected, self_pairs)
    wide = [part.double() if part.is_floating_point() else part for part in places]
    results = []
    for form in (
        lambda: CubicTable(3.0, 1.0, 16).convolve(x.double(), entries.double(), type(places)(*wide), edges),
        lambda: CubicTable(3.0, 1.0, 16).convolve(x, entries, places, edges),
        lambda: table_convolution(x, entries, places, edges),
    ):
        received = form()
        gradients = torch.autograd.grad((received * down).sum(), (x, entries, distance), retain_graph=True)
        results.append([part.double() for part in (received.detach(), *gradients)])
    for exact, plain, ours in zip(*results):  # sums that cancel leave torch's own float32 fewer digits, too
        off = max((plain - exact).abs().flatten().tolist(), default=0.0)
        assert ((ours - exact).abs() <= 1e-5 * exact.abs() + 2e-5 + 3 * off).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), pairs=st.integers(0, 40), features=st.integers(1, 37), undirected=st.booleans())
def test_convolution_with_given_filters_equals_its_torch_form(seed, pairs, features, undirected):
    x, _, _, _, edges, down = case(seed, 7, pairs, features, undirected, True)
    filters = torch.randn(pairs, features, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    results = []
    for form in (convolve, convolution):
        received = form(x, filters, edges)
        results.append((received.detach(), *torch.autograd.grad((received * down).sum(), (x, filters))))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=2e-5)


def test_slopes_of_the_weights_are_taken_only_where_somebody_needs_them():
    x, entries, _, places, edges, down = case(1, 6, 20, 8, True, False)
    places = type(places)(*(part.detach() for part in places))
    (table_convolution(x, entries, places, edges) * down).sum().backward()
    assert x.grad is not None and entries.grad is not None


def test_activation_equals_its_torch_form_over_the_whole_range():
    x = torch.cat([torch.linspace(-120, 120, 40_001), torch.logspace(-20, 30, 101), -torch.logspace(-20, 30, 101)])
    exact, inputs = x.double().requires_grad_(True), x.clone().requires_grad_(True)
    true, got = ShiftedSoftplus()(exact), shifted_softplus(inputs)
    assert ((got - true).abs() <= 2e-7 * (1 + true.abs())).all()
    true.sum().backward()
    got.sum().backward()
    torch.testing.assert_close(inputs.grad.double(), exact.grad, rtol=1e-6, atol=2e-7)


def test_activation_does_not_hide_lost_numbers():
    got = shifted_softplus(torch.tensor([float("nan"), float("inf"), 1.0, float("nan")] * 5))
    assert torch.isnan(got[[0, 3]]).all() and torch.isinf(got[1]) and torch.isfinite(got[2])


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (2, 3, 5)])
def test_activation_takes_any_shape(shape):
    x = torch.randn(shape)
    for values in (x, x.transpose(0, -1)):  # not contiguous
        torch.testing.assert_close(shifted_softplus(values), ShiftedSoftplus()(values), rtol=1e-6, atol=2e-7)


def small_schnet(filter="table"):
    torch.manual_seed(0)
    return SchNet(12, 10, 2, 9, 4.0, filter=filter, undirected=True)


@pytest.mark.parametrize("filter", ["exact", "table"])
def test_a_model_trains_the_same_with_kernels_and_padding_changes_no_bit(filter):
    rng = np.random.default_rng(2)
    pack = pack_store(pairs_once(random_store(rng, 6)), Budget(nodes=55, edges=500, graphs=7))[0]
    results = []
    for batch, kernels in ((pack, False), (pack, True), (with_garbage(pack, rng), True)):
        model = small_schnet(filter)
        torch.nn.init.normal_(model.head[2].weight)
        if kernels:  # in every block a convolution and two activations, and one in the head; a table for all
            assert use_kernels(model) == 2 * 3 + 1 + (filter == "table")
        prediction = model(*batch.inputs)
        value = LOSSES["mse"](prediction, *batch.targets)
        value.backward()
        results.append((prediction.detach(), value.detach(), gradients(model)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    for clean, dirty in zip(results[1], results[2]):
        assert torch.equal(clean, dirty)


def test_training_on_forces_is_refused_rather_than_wrong():
    pack = pack_store(pairs_once(random_store(np.random.default_rng(3), 4)), Budget(nodes=40, edges=300, graphs=5))[0]
    # After an error torch 2.0 frees what it kept at the end of the process, when memory of numpy no longer can be.
    pack = type(pack)(*(field.clone() for field in pack))
    model = small_schnet()
    torch.nn.init.normal_(model.head[2].weight)
    use_kernels(model)
    pos = pack.pos.clone().requires_grad_(True)
    (force,) = torch.autograd.grad(model(*pack._replace(pos=pos).inputs).sum(), pos, create_graph=True)
    with pytest.raises(RuntimeError):
        (force * force).sum().backward()


def test_refuses_other_formats_than_its_own():
    x, entries, _, places, edges, _ = case(1, 6, 20, 8, True, False)
    with pytest.raises(AssertionError, match="float32"):
        table_convolution(x.double(), entries, places, edges)


def test_says_why_there_are_no_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path))
    native.library.cache_clear()
    monkeypatch.setattr(native, "find_compiler", lambda: None)
    with pytest.raises(native.NativeError, match="no C compiler"):
        use_kernels(small_schnet())
    monkeypatch.undo()
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_COMPILE", ["--no-such-option"])
    with pytest.raises(native.NativeError, match="failed"):
        use_kernels(small_schnet())
    assert not list(tmp_path.rglob("*.so"))
    native.library.cache_clear()


def test_compiled_code_is_kept_and_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path))
    native.library.cache_clear()
    native.library()
    (kept,) = tmp_path.rglob("kernels-*.so")
    native.library.cache_clear()
    monkeypatch.setattr(native, "_compile", None)  # would fail if it were needed
    native.library()
    assert list(tmp_path.rglob("*.so")) == [kept]
    native.library.cache_clear()
