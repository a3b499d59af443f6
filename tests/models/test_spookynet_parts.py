"""Parts of SpookyNet: functions with finite derivatives of any order, electrons in their shells, attention."""

import math

import pytest
import torch

from ipu_chem.models.electrons import ElectronicEmbedding, NuclearEmbedding, electron_configuration
from ipu_chem.models.layers import inverse_softplus, logistic, smooth_cutoff, smooth_switch, softplus
from ipu_chem.models.physics import others, pair_distances, same_molecule
from ipu_chem.models.residual import Residual, ResidualMLP, Swish
from ipu_chem.models.spooky_interaction import BernsteinBasis, attend, quadrupole

DOUBLE = torch.float64


def exact_softplus(x):
    """Torch's, but for its straight line beyond 20."""
    return torch.nn.functional.softplus(x, threshold=1e9)


@pytest.mark.parametrize("own, torchs", [(softplus, exact_softplus), (logistic, torch.sigmoid)])
def test_activations_are_torchs_with_finite_derivatives_everywhere(own, torchs):
    x = torch.linspace(-70, 70, 1401, dtype=DOUBLE).requires_grad_()  # 0 is one of them
    torch.testing.assert_close(own(x), torchs(x), rtol=1e-12, atol=1e-12)
    derivatives = [torch.autograd.grad(f(x).sum(), x, create_graph=True)[0] for f in (own, torchs)]
    torch.testing.assert_close(*derivatives, rtol=1e-10, atol=1e-12)
    second = [torch.autograd.grad(derivative.sum(), x)[0] for derivative in derivatives]
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-12)
    for dtype in (torch.float32, DOUBLE):
        x = torch.tensor([-1e30, -1e4, -90.0, 0.0, 90.0, 1e4, 1e30], dtype=dtype, requires_grad=True)
        (first,) = torch.autograd.grad(own(x).sum(), x, create_graph=True)
        assert torch.isfinite(torch.stack([own(x), first, *torch.autograd.grad(first.sum(), x)])).all()


@pytest.mark.parametrize("value", [1e-3, 0.02817, 0.23, 1.0, 3.1998, 30.0])
def test_softplus_is_undone(value):
    assert float(softplus(torch.tensor(inverse_softplus(value), dtype=DOUBLE))) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("function", [lambda d: smooth_cutoff(d, 4.0), lambda d: smooth_switch(d, 1.0, 4.0)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_cutoffs_end_smoothly(function, dtype):
    near = torch.tensor([1.0, 4.0], dtype=dtype).unsqueeze(1)
    steps = torch.tensor([0.0, 1e-6, 1e-4, 0.01, 0.02], dtype=dtype)
    d = torch.cat([near - steps, near + steps]).flatten().requires_grad_()
    value = function(d)
    (first,) = torch.autograd.grad(value.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), d)
    assert torch.isfinite(torch.stack([value, first, second])).all()
    end = d.detach() > 3.99  # where all of them have died away
    assert max(float(part[end].detach().abs().max()) for part in (value, first, second)) < 1e-5
    d = torch.linspace(0.5, 5, 1000, dtype=dtype)
    assert torch.all(function(d).diff() <= 0) and float(function(d)[-1]) < 1e-30


def test_basis_follows_the_formula_and_partitions_its_weight():
    d = torch.linspace(0.1, 5, 50, dtype=DOUBLE)
    basis = BernsteinBasis(16).double()
    x = torch.exp(-0.5 / 0.529177210564 * d)
    expected = [math.comb(15, k) * x ** (15 - k) * (1 - x) ** k * x for k in range(16)]
    found = basis(d, torch.ones_like(d)).detach()
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.sum(1), x, rtol=1e-6, atol=1e-7)
    assert torch.all(basis(d, torch.zeros_like(d)) == 0)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_basis_has_finite_derivatives_at_any_distance(dtype):
    d = torch.tensor([1e-6, 1e-3, 0.5, 20.0, 200.0], dtype=dtype, requires_grad=True)
    value = BernsteinBasis(20).to(dtype)(d, torch.ones_like(d))
    (first,) = torch.autograd.grad(value.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), d)
    assert torch.isfinite(value).all() and torch.isfinite(first).all() and torch.isfinite(second).all()


def test_activation_lies_between_a_line_and_a_ramp():
    x = torch.linspace(-3, 3, 61)
    swish = Swish(61)
    assert (swish(x) - torch.nn.functional.gelu(x)).abs().max() < 0.025
    swish.beta.data.zero_()
    torch.testing.assert_close(swish(x), x / 2)
    swish.alpha.data.fill_(2.0)
    swish.beta.data.fill_(1e4)
    torch.testing.assert_close(swish(x), 2 * torch.relu(x), rtol=1e-6, atol=1e-4)


def test_residual_blocks_begin_as_the_identity_and_branches_at_zero():
    x = torch.randn(5, 8)
    assert torch.equal(Residual(8)(x), x)
    assert torch.all(ResidualMLP(8, starts_at_zero=True)(x) == 0)
    layer = ResidualMLP(8)[2].weight
    torch.testing.assert_close(layer @ layer.t(), torch.eye(8), rtol=0, atol=1e-5)


def shells(z):
    """Electrons by shell, without empty ones."""
    names = "1s 2s 2p 3s 3p 4s 3d 4p 5s 4d 5p 6s 4f 5d 6p".split()
    return {name: count for name, count in zip(names, electron_configuration(z)[1:16]) if count}


def test_electrons_are_in_their_shells():
    neon = {"1s": 2, "2s": 2, "2p": 6}
    argon = {**neon, "3s": 2, "3p": 6}
    krypton = {**argon, "3d": 10, "4s": 2, "4p": 6}
    assert shells(1) == {"1s": 1} and shells(8) == {"1s": 2, "2s": 2, "2p": 4}
    assert shells(24) == {**argon, "3d": 5, "4s": 1} and shells(29) == {**argon, "3d": 10, "4s": 1}
    assert shells(26) == {**argon, "3d": 6, "4s": 2} and shells(35) == {**krypton, "4p": 5}
    assert shells(46) == {**krypton, "4d": 10}
    assert shells(79) == {**krypton, "4d": 10, "5s": 2, "5p": 6, "4f": 14, "5d": 10, "6s": 1}
    for z in range(1, 87):
        assert sum(electron_configuration(z)[1:16]) == z == electron_configuration(z)[0]
    assert set(electron_configuration(0) + electron_configuration(87)) == {0}


def test_valence_electrons_are_those_outside_the_last_noble_gas():
    expected = {1: [1, 0, 0, 0], 2: [2, 0, 0, 0], 6: [2, 2, 0, 0], 10: [2, 6, 0, 0], 11: [1, 0, 0, 0]}
    expected.update({17: [2, 5, 0, 0], 30: [2, 0, 10, 0], 35: [2, 5, 10, 0], 55: [1, 0, 0, 0], 78: [1, 0, 9, 14]})
    for z, electrons in expected.items():
        assert electron_configuration(z)[16:] == electrons


def test_elements_are_embedded_by_themselves_and_by_their_electrons():
    torch.manual_seed(0)
    embedding = NuclearEmbedding(16)
    assert torch.all(embedding(torch.tensor([6, 14, 0])) == 0)
    torch.nn.init.normal_(embedding.configuration.weight)
    embedding.element.data[6] = 1.0
    carbon, silicon, none = embedding(torch.tensor([6, 14, 0]))
    most = [86, 2, 2, 6, 2, 6, 2, 10, 6, 2, 10, 6, 2, 14, 10, 6, 2, 6, 10, 14]
    for found, z, own in ((carbon, 6, 1.0), (silicon, 14, 0.0)):
        electrons = torch.tensor(electron_configuration(z)) / torch.tensor(most)
        torch.testing.assert_close(found, own + embedding.configuration(electrons))
    assert torch.all(none == 0)


def test_a_charge_is_shared_out_by_attention():
    torch.manual_seed(0)
    embedding, x = ElectronicEmbedding(4, states=2).double(), torch.randn(5, 4, dtype=DOUBLE)
    torch.nn.init.normal_(embedding.mlp[2].weight)  # type: ignore[arg-type]
    owner, real = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([[1.0], [1], [1], [1], [0]], dtype=DOUBLE)
    state = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=DOUBLE)
    found = embedding(x, state, owner, real)
    # Three charges have the key of one and three times its value.
    key, value = embedding.key.weight[:, 0], 3 * embedding.value.weight[:, 0]
    scores = exact_softplus(embedding.query(x[:3]) @ key / 2)
    expected = embedding.mlp((scores / scores.sum()).unsqueeze(1) * value)
    torch.testing.assert_close(found[:3], expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        found[3:4], embedding.mlp(2 * embedding.value.weight[:, 1].unsqueeze(0)), rtol=1e-6, atol=1e-6
    )
    assert found[:4].abs().min() > 1e-6 and torch.all(found[4] == 0)


def test_attention_is_the_softmax_of_each_molecule_by_itself():
    torch.manual_seed(0)
    query, key, value = 3 * torch.randn(3, 2, 7, 4, dtype=DOUBLE)
    graphs = torch.tensor([[0, 0, 0, 1, 1, 2, 9], [0, 1, 1, 1, 1, 1, -5]])
    real = torch.tensor([[True] * 6 + [False], [True] * 5 + [False] * 2])
    found = attend(query, key, 5 * value, same_molecule(graphs, real)) / 5
    for pack, atoms in ((0, slice(0, 3)), (0, slice(3, 5)), (0, slice(5, 6)), (1, slice(0, 1)), (1, slice(1, 5))):
        shares = torch.softmax(query[pack, atoms] @ key[pack, atoms].t() / 2, 1)
        torch.testing.assert_close(found[pack, atoms], shares @ value[pack, atoms])
    # Scores of other molecules may be as large as they like.
    query[0, 0], key[0, 5] = 1e6, 1e6
    derivatives = query.requires_grad_(), key.requires_grad_()
    found = attend(query, key, value, same_molecule(graphs, real))
    first = torch.autograd.grad(found.sum(), derivatives, create_graph=True)
    second = torch.autograd.grad(sum((derivative**2).sum() for derivative in first), derivatives)
    assert all(torch.isfinite(part).all() for part in (found, *first, *second))


def test_pairs_are_those_of_one_molecule_and_of_no_padding():
    graphs, real = torch.tensor([[0, 1, 1, 1, 7]], dtype=torch.uint8), torch.tensor([[True] * 3 + [False] * 2])
    pairs = others(same_molecule(graphs, real))
    assert torch.nonzero(pairs[0]).tolist() == [[1, 2], [2, 1]]
    pos = torch.tensor([[[0.0, 0, 0], [3.0, 0, 0], [0.0, 4.0, 0], [0.0, 0, 0], [0.0, 0, 0]]])
    expected = torch.ones(5, 5)
    expected[1, 2] = expected[2, 1] = 5.0
    torch.testing.assert_close(pair_distances(pos, pairs)[0], expected)


def test_quadrupoles_are_spherical_harmonics():
    direction = torch.nn.functional.normalize(torch.randn(9, 3, dtype=DOUBLE), dim=1)
    found = quadrupole(direction)
    # The addition theorem: products of two directions' five depend on their angle alone, by Legendre's polynomial.
    cosine = direction @ direction.t()
    torch.testing.assert_close(found @ found.t(), 1.5 * cosine**2 - 0.5)
