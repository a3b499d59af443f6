"""SpookyNet's physical terms: published formulas at first, charges that add up, the right laws at long distances."""

import math

import numpy as np
import pytest
import torch
from contracts.graph_model import charged
from spooky_cases import PLAIN, small_spookynet
from support import GraphPack, as_dtype, pack_store, random_store

from ipu_chem.models.base import Graph
from ipu_chem.models.dispersion import DISPERSION_ELEMENTS, Dispersion, check_dispersion_elements
from ipu_chem.models.layers import smooth_cutoff
from ipu_chem.models.physics import Electrostatics, ZblRepulsion, conserve_charge
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.spookynet import SpookyNet
from packing import Budget

DOUBLE = torch.float64
COULOMB = 14.399645  # eV Å / e^2
APART = torch.tensor([[[False, True], [True, False]]])


def pair(distance: float, elements=(6, 8), edges: bool = True) -> GraphPack:
    """Two atoms of one molecule."""
    pos = torch.tensor([[[0.3, 0.0, 0.0], [0.3, distance, 0.0]]], dtype=DOUBLE)
    true = torch.ones((1, 2), dtype=torch.bool)
    zero = torch.zeros((1, 1, 1), dtype=DOUBLE)
    index = torch.tensor([[[0, 1], [1, 0]]])
    return GraphPack(torch.tensor([elements]), pos, index[:, 0] * 0, index, true, true & edges, true[:, :1], zero, zero)


def state(charge: int = 0, spin: int = 0):
    return torch.tensor([[charge]]), torch.tensor([[spin]])


def distances(value: float) -> torch.Tensor:
    return torch.where(APART, torch.tensor(value, dtype=DOUBLE), torch.ones((), dtype=DOUBLE))


@pytest.mark.parametrize("first, second", [(1, 1), (6, 8), (17, 35)])
@pytest.mark.parametrize("undirected", [False, True])
def test_repulsion_begins_as_the_universal_potential(first, second, undirected):
    torch.manual_seed(0)
    options = {**PLAIN, "use_zbl": True}
    model = SpookyNet(4, 1, 3, 4.0, undirected=undirected, **options).double()  # learned energies begin at zero
    for distance in (0.05, 0.4, 1.2, 3.9):
        pack = pair(distance, (first, second))
        if undirected:
            pack = pack._replace(edge_index=pack.edge_index[:, :, :1], edge_mask=pack.edge_mask[:, :1])
        a = 0.8854 * 0.529177 / (first**0.23 + second**0.23)
        x = distance / a
        screening = 0.18175 * math.exp(-3.1998 * x) + 0.50986 * math.exp(-0.94229 * x)
        screening += 0.28022 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.20162 * x)
        envelope = math.exp(-(distance**2) / (4.0**2 - distance**2))
        expected = COULOMB * first * second / distance * screening * envelope
        assert float(model(Graph(*pack.graph[:7], *state())).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(model(Graph(*pair(4.1, (first, second)).graph[:7], *state())).detach()) == 0.0 or undirected


def test_bare_nuclei_repel_at_short_distances_whatever_was_learned():
    torch.manual_seed(1)
    zbl = ZblRepulsion().double()
    for weight in zbl.parameters():
        weight.data += torch.randn_like(weight)
    distance, ends = torch.tensor([1e-6], dtype=DOUBLE), torch.tensor([0, 1])
    energy = zbl(torch.tensor([6, 8]), distance, torch.ones_like(distance), ends[:1], ends[1:])
    assert float(energy.detach()) == pytest.approx(COULOMB * 48 / 1e-6, rel=1e-3)


def test_partial_charges_sum_to_the_charge_of_each_molecule():
    pack = as_dtype(
        pack_store(random_store(np.random.default_rng(1), 9), Budget(nodes=60, edges=550, graphs=10))[0], DOUBLE
    )
    for options in ({}, {"use_dispersion": False}, {"use_electrostatics": False}):
        model = small_spookynet(**options)
        charges = model.charges(pack.graph).detach()
        total = charged(pack.graph).charge
        for row in range(pack.z.shape[0]):
            for graph in torch.nonzero(pack.graph_mask[row]).flatten().tolist():
                atoms = pack.node_mask[row] & (pack.graph_index[row] == graph)
                assert float(charges[row, atoms].sum()) == pytest.approx(float(total[row, graph]), abs=1e-12)
                assert atoms.sum() < 2 or charges[row, atoms].std() > 1e-6
        assert torch.all(charges[~pack.node_mask] == 0)
    with pytest.raises(ValueError, match="predicts no charges"):
        small_spookynet(**PLAIN).charges(pack.graph)


def test_missing_charge_is_spread_evenly():
    partial = torch.tensor([[0.5], [-0.1], [0.2], [9.0]], dtype=DOUBLE)
    owner, real = torch.tensor([0, 0, 1, 0]), torch.tensor([[1.0], [1.0], [1.0], [0.0]], dtype=DOUBLE)
    charges = conserve_charge(partial, torch.tensor([[1.0], [-1.0], [3.0]], dtype=DOUBLE), owner, real)
    torch.testing.assert_close(charges.flatten(), torch.tensor([0.8, 0.2, -1.0, 0.0], dtype=DOUBLE))


def test_charges_follow_coulombs_law_and_are_damped_when_close():
    charges = torch.tensor([[[1.0], [-0.5]]], dtype=DOUBLE)
    term = Electrostatics(cutoff=4.0)
    for distance in (3.0, 5.0, 20.0, 300.0):
        energy = term(charges, distances(distance), APART)
        torch.testing.assert_close(energy[0, 0], energy[0, 1])
        assert float(energy.sum()) == pytest.approx(-0.5 * COULOMB / distance, rel=1e-7)
    for distance in (0.01, 0.5, 1.0):
        damped = -0.5 * COULOMB / math.sqrt(distance**2 + 1)
        assert float(term(charges, distances(distance), APART).sum()) == pytest.approx(damped, rel=1e-7)
    between = float(term(charges, distances(2.0), APART).sum())
    halves = 0.5 * (1 / 2.0 + 1 / math.sqrt(5.0))  # in the middle both forms count the same
    assert between == pytest.approx(-0.5 * COULOMB * halves, rel=1e-7)


@pytest.mark.parametrize("charge", [-1, 0, 1])
def test_far_fragments_of_a_molecule_attract_or_repel_as_their_charges(charge):
    model = small_spookynet(use_dispersion=False).model
    energies, found = [], []
    for distance in (10.0, 40.0):
        pack = pair(distance, edges=False)  # beyond the cutoff
        energies.append(float(model(Graph(*pack.graph[:7], *state(charge))).detach()))
        found.append(model.partial_charges(Graph(*pack.graph[:7], *state(charge))).detach())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    first, second = found[0].flatten().tolist()
    assert abs(first * second) > 1e-6
    expected = COULOMB * first * second * (1 / 10.0 - 1 / 40.0)
    assert energies[0] - energies[1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("first, second", [(1, 1), (6, 6), (8, 17)])
def test_dispersion_falls_as_the_published_coefficients(first, second):
    c6 = {1: 0.14, 6: 1.75, 8: 0.70, 17: 5.07}  # J nm^6 / mol
    term = Dispersion().double()
    neutral = torch.zeros((1, 2, 1), dtype=DOUBLE)
    energy = float(term(torch.tensor([[first, second]]), neutral, distances(800.0), APART).sum().detach())
    unit = 1e6 / 96485.332  # J nm^6 / mol as eV Å^6
    assert energy * 800.0**6 == pytest.approx(-math.sqrt(c6[first] * c6[second]) * unit, rel=1e-4)
    # Close by it is damped to a finite value.
    derivatives = distances(1e-3).requires_grad_()
    close = term(torch.tensor([[first, second]]), neutral, derivatives, APART).sum()
    (derivative,) = torch.autograd.grad(close, derivatives)
    assert -10.0 < float(close.detach()) < 0.0 and derivative.abs().max() < 1e-6


def test_dispersion_is_damped_as_becke_and_johnson_do():
    bohr, hartree, distance = 0.529177210564, 27.211386, 3.0
    c6 = math.sqrt(1.75 * 0.70) * 17.34527  # hartree bohr^6, of carbon and oxygen
    moments = [math.sqrt(0.5 * value * math.sqrt(z)) for z, value in ((6, 7.8715), (8, 4.7566))]
    ratio = 3 * moments[0] * moments[1]  # C8 / C6
    r, radius = distance / bohr, 0.44959224 * math.sqrt(ratio) + 3.35743605
    expected = -c6 * hartree * (1 / (r**6 + radius**6) + 1.61679827 * ratio / (r**8 + radius**8))
    neutral = torch.zeros((1, 2, 1), dtype=DOUBLE)
    energy = Dispersion().double()(torch.tensor([[6, 8]]), neutral, distances(distance), APART).sum()
    assert float(energy.detach()) == pytest.approx(expected, rel=1e-6)


def test_cations_are_dispersed_less_and_anions_more():
    term = Dispersion().double()
    energies = []
    for charge in (-1.5, -0.5, 0.0, 0.5, 1.0):
        charges = torch.tensor([[[charge], [0.0]]], dtype=DOUBLE).requires_grad_()
        energy = -term(torch.tensor([[1, 6]]), charges, distances(3.0), APART).sum()
        (derivative,) = torch.autograd.grad(energy, charges)
        assert torch.isfinite(derivative).all()
        energies.append(float(energy.detach()))
    assert energies == sorted(energies, reverse=True) and energies[-1] > 0
    # D4's function of an atom's charge, by hand, for half an elementary charge on hydrogen.
    expected = math.exp(3.0 * (1 - math.exp(2.0 * 0.47259288 * (1 - 1 / 1.5))))
    assert energies[3] / energies[2] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "name, d4", [("CH4", -38.31), ("C6H6", -197.14), ("H2O", -11.67), ("SiH4", -114.67), ("C2Cl4", -876.37)]
)
def test_dispersion_between_molecules_is_near_that_of_d4(name, d4):
    """meV between two molecules 4 Å apart along z, by the D4 of SpookyNet's authors without charges."""
    from ase.build import molecule

    term = Dispersion().double()

    def energy(atoms):
        count = len(atoms)
        between = ~torch.eye(count, dtype=torch.bool)
        distance = torch.from_numpy(atoms.get_all_distances() + np.eye(count))
        neutral = torch.zeros((1, count, 1), dtype=DOUBLE)
        return float(term(torch.from_numpy(atoms.numbers)[None], neutral, distance[None], between[None]).sum().detach())

    one = molecule(name)
    other = one.copy()
    other.translate([0, 0, 4.0])
    assert 1000 * (energy(one + other) - 2 * energy(one)) == pytest.approx(d4, rel=0.2)


def test_elements_without_coefficients_are_refused_on_the_host_and_have_no_energy():
    check_dispersion_elements(np.array([1, 6, 6, 53], np.uint8))
    with pytest.raises(ValueError, match="atomic numbers 2, 26, only for 1, 5, 6.*use_dispersion=false"):
        check_dispersion_elements(np.array([1, 26, 2, 26], np.uint8))
    assert 6 in DISPERSION_ELEMENTS and 26 not in DISPERSION_ELEMENTS
    with pytest.raises(ValueError, match="atomic numbers 26"):
        SpookyNet.check_elements([6, 26])
    SpookyNet.check_elements([6, 26], use_dispersion=False)
    for element in set(range(MAX_Z)) - set(DISPERSION_ELEMENTS):
        charges = torch.tensor([[[0.3], [-0.3]]], dtype=DOUBLE)
        assert float(Dispersion().double()(torch.tensor([[element, 6]]), charges, distances(3.0), APART).sum()) == 0.0


def test_physical_terms_are_divided_by_the_energy_scale():
    pack = as_dtype(
        pack_store(random_store(np.random.default_rng(2), 5), Budget(nodes=24, edges=220, graphs=7))[0], DOUBLE
    )
    whole, tenth = small_spookynet(), small_spookynet(energy_scale=10.0)
    learned = small_spookynet()
    learned.model.zbl = learned.model.electrostatics = learned.model.dispersion = None
    rest = learned(*pack.inputs)
    torch.testing.assert_close((whole(*pack.inputs) - rest) / 10, tenth(*pack.inputs) - rest, rtol=1e-9, atol=1e-9)
    assert (whole(*pack.inputs) - rest).detach()[pack.graph_mask].abs().max() > 0.1


def test_cutoff_follows_the_formula():
    distance = torch.linspace(0, 6, 61, dtype=DOUBLE)
    inside = distance[distance < 4.0]
    expected = torch.exp(-(inside**2) / ((4.0 - inside) * (4.0 + inside)))
    found = smooth_cutoff(distance, 4.0)
    torch.testing.assert_close(found[distance < 4.0], expected, rtol=1e-14, atol=1e-30)
    assert torch.all(found[distance >= 4.0] == 0)
