"""Energies and forces of a run through ASE: those of the model, exact derivatives, whatever pairs are kept."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from ipu_chem.backends.pytorch.kernels.native import find_compiler
from ipu_chem.models import registry
from ipu_chem.models.base import Graph
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.registry import build_model
from ipu_chem.models.schnet import SchNet
from ipu_chem.simulation import program
from ipu_chem.simulation.calculator import Calculator
from ipu_chem.trained_run import TrainedRun
from ipu_chem.units import KCAL_PER_MOL

KINDS = pytest.mark.parametrize("kind", ["painn", "schnet"])


def of_the_model(folder, atoms):
    """eV and eV/Å by the model itself in float64: edges in both directions, no skin, nothing recorded."""
    field = TrainedRun.load(folder).force_field()
    model = build_model(field.config.model.name, 1, True, **field.config.model.arguments()).double()
    model.load_state_dict(field.weights)
    distance = np.linalg.norm(atoms.positions[:, None] - atoms.positions, axis=-1)
    edges = np.stack(np.nonzero((distance <= field.config.model.cutoff) & ~np.eye(len(atoms), dtype=bool)))
    pos = torch.tensor(atoms.positions[None], requires_grad=True)
    full = torch.ones((1, len(atoms)), dtype=torch.bool)
    z, index = torch.tensor(atoms.numbers[None]), torch.zeros((1, len(atoms)), dtype=torch.int64)
    real, one = torch.ones((1, edges.shape[1]), dtype=torch.bool), torch.ones((1, 1), dtype=torch.bool)
    energy = model(Graph(z, pos, index, torch.tensor(edges[None]), full, real, one)).sum()
    energy.backward()
    offset = field.standardizer.element_values[atoms.numbers, 0].sum()
    scale = field.standardizer.scale[0] * field.ev
    return offset * field.ev + float(energy.detach()) * scale, -pos.grad[0].numpy() * scale


def shaken(atoms, seed=0, size=0.1):
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, size, atoms.positions.shape)
    return atoms


@KINDS
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-9)])
def test_it_says_what_the_model_says(make_run, ethanol, kind, dtype, tolerance):
    folder = make_run(model={"name": kind})
    ethanol.calc = Calculator.from_run(folder, dtype=dtype)
    for seed in range(3):
        ethanol.positions = shaken(ethanol, seed).positions + 50.0  # far from the origin all the same
        energy, forces = of_the_model(folder, ethanol)
        assert ethanol.get_potential_energy() == pytest.approx(energy, rel=0, abs=20 * tolerance)
        np.testing.assert_allclose(ethanol.get_forces(), forces, rtol=0, atol=tolerance * np.abs(forces).max() * 10)
    assert np.abs(forces).max() > 0.1


@KINDS
def test_forces_are_derivatives_of_the_energy_and_add_up_to_nothing(make_run, ethanol, kind):
    atoms, step = shaken(ethanol), 1e-4
    atoms.calc = Calculator.from_run(make_run(model={"name": kind}), dtype="float64")
    forces, derivatives = atoms.get_forces(), np.zeros((9, 3))
    for place in np.ndindex(9, 3):
        moved = atoms.positions[place]
        energies = []
        for sign in (1, -1):
            atoms.positions[place] = moved + sign * step
            energies.append(atoms.get_potential_energy())
        atoms.positions[place] = moved
        derivatives[place] = -(energies[0] - energies[1]) / (2 * step)
    np.testing.assert_allclose(forces, derivatives, atol=1e-6)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-12)


@KINDS
def test_pairs_beyond_the_cutoff_contribute_exactly_nothing(make_run, kind):
    folder = make_run(model={"name": kind, "filter": "table"})
    far = Atoms("CO", [[0, 0, 0], [0, 0, 4.3]])
    apart = TrainedRun.load(folder).force_field()
    model = apart.new_model(exact=True).model.double().eval()
    one = program.OneMolecule([model], "cpu", torch.float64)
    results = []
    for pairs in ([], [[0, 1]]):
        one.set_atoms(far.numbers)
        one.set_pairs(np.array(pairs, np.int64).reshape(-1, 2))
        results.append(one(far.positions))
    for without, beyond in zip(*results):
        assert np.array_equal(without, beyond)
    assert not results[1][1].any()


def test_a_skin_saves_searches_and_changes_no_trajectory(make_run, ethanol, monkeypatch):
    folder, ends, searches = make_run(), [], []
    from ipu_chem.simulation import calculator

    search = calculator.radius_pairs
    monkeypatch.setattr(calculator, "radius_pairs", lambda *args: searches.append(1) or search(*args))
    counts = []
    for skin in (0.0, 0.5, 3.0):
        # An atom from far outside the cutoff flies past the molecule and leaves it again.
        atoms = shaken(ethanol) + Atoms("O", [[9.0, 2.5, 0.5]])
        velocities = np.random.default_rng(1).normal(0, 0.05, (10, 3))
        velocities[9] = [-2.2, 0, 0]
        atoms.set_velocities(velocities)
        atoms.calc = Calculator.from_run(folder, skin=skin, dtype="float64")
        VelocityVerlet(atoms, 0.5 * units.fs).run(150)
        ends.append(atoms.positions.copy())
        counts.append(len(searches))
        searches.clear()
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-9)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-9)
    assert counts[0] == 151 and counts[2] < counts[1] < 100
    assert ends[0][9, 0] < -5.0  # ran through the whole molecule


def test_a_list_of_every_pair_is_never_searched_again_and_still_refuses_what_collides(make_run, ethanol, monkeypatch):
    from ipu_chem.simulation import calculator

    search, searches = calculator.radius_pairs, []
    monkeypatch.setattr(calculator, "radius_pairs", lambda *args: searches.append(1) or search(*args))
    folder = make_run()
    ours = Calculator.from_run(folder, skin=1.0, dtype="float64")
    for seed, size in enumerate((0.1, 0.5, 1.5, 0.1)):
        moved = shaken(ethanol, seed, size)
        moved.positions[8] += [3.0 * size, 0, 0]
        energy, forces = of_the_model(folder, moved)
        moved.calc = ours
        assert moved.get_potential_energy() == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(moved.get_forces(), forces, atol=1e-8)
    assert len(searches) == 1
    for place, sentence in ((ethanol.positions[2] + 0.01, "are 0.017 Å apart"), (np.nan, "is not finite")):
        wrong = shaken(ethanol, 9, 0.0)
        wrong.positions[8] = place
        wrong.calc = ours
        for _ in range(2):
            with pytest.raises(ValueError, match=sentence):
                wrong.get_forces()


def test_a_place_that_is_refused_leaves_no_pairs_behind(make_run):
    chain = Atoms("COH" * 4, np.arange(12)[:, None] * np.array([[1.3, 0.4, 0.0]]))
    chain.calc = Calculator.from_run(make_run(), dtype="float64")
    energy, start = chain.get_potential_energy(), chain.positions.copy()
    chain.positions[6:, 0] += 50.0
    chain.positions[11] = chain.positions[10] + 0.01
    with pytest.raises(ValueError, match="are 0.017 Å apart"):
        chain.get_forces()
    chain.positions = start
    assert chain.get_potential_energy() == pytest.approx(energy, rel=1e-14)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda atoms: pickle.loads(pickle.dumps(atoms))])
def test_a_copy_follows_its_own_atoms(make_run, ethanol, copied):
    calculator = Calculator.from_run(make_run(), dtype="float64")
    ethanol.calc = calculator
    ethanol.get_forces()
    atoms, moved = copied(ethanol), shaken(ethanol)
    for seed in range(3):
        atoms.positions = shaken(ethanol, seed).positions
        moved.positions, moved.calc = atoms.positions, calculator
        assert atoms.calc is not calculator
        assert atoms.get_potential_energy() == pytest.approx(moved.get_potential_energy(), rel=1e-14)


@KINDS
def test_recorded_operators_say_the_same_wherever_atoms_go(make_run, ethanol, kind, monkeypatch):
    monkeypatch.setattr(program, "_RECORDED_AFTER", 3)
    folder = make_run(model={"name": kind})
    native = Calculator.from_run(folder, dtype="float64")
    monkeypatch.setattr(program, "use_native_kernels", lambda *args, **named: 0)
    recorded, plain = Calculator.from_run(folder, dtype="float64"), Calculator.from_run(folder, dtype="float64")
    plain._program._record = lambda: None
    chain = Atoms("COH" * 4, np.arange(12)[:, None] * np.array([[1.3, 0.4, 0.0]]))
    for start in (ethanol, chain):
        for seed in range(6):
            atoms = shaken(start, seed)
            if seed > 3:
                atoms.positions[:, 0] *= 0.6  # more pairs than there were slots
            for calculator in (recorded, plain, native):
                calculator.calculate(atoms)
            np.testing.assert_allclose(native.results["forces"], plain.results["forces"], atol=1e-10)
            assert native.results["energy"] == pytest.approx(plain.results["energy"], rel=1e-12)
            np.testing.assert_allclose(recorded.results["forces"], plain.results["forces"], atol=1e-12)
            assert recorded.results["energy"] == pytest.approx(plain.results["energy"], rel=1e-14)
            assert (recorded._program._recorded is not None) == (recorded._program._calls >= 3)
    assert recorded._program._recorded is not None and plain._program._recorded is None
    assert native._program._recorded is None and native._program._is_native == (find_compiler() is not None)


def test_the_unit_of_the_run_does_not_matter(make_run, ethanol):
    energies, forces = [], []
    for unit, per_ev in (("eV", 1.0), ("kcal/mol", 1 / KCAL_PER_MOL), ("Ha", 1 / 27.211386245988)):
        ethanol.calc = Calculator.from_run(make_run(unit.replace("/", ""), unit=unit, per_ev=per_ev), dtype="float64")
        energies.append(ethanol.get_potential_energy())
        forces.append(ethanol.get_forces())
    assert energies == pytest.approx([energies[0]] * 3, rel=1e-13) and energies[0] < -4000
    np.testing.assert_allclose(forces[1], forces[0], rtol=1e-9)
    np.testing.assert_allclose(forces[2], forces[0], rtol=1e-9)


def test_several_runs_give_their_mean_and_how_far_they_disagree(make_run, ethanol):
    folders = [
        make_run(f"run{seed}", seed, model={"filter": kind}) for seed, kind in enumerate(("exact", "table", "exact"))
    ]
    alone = []
    for folder in folders:
        calculator = Calculator.from_run(folder, dtype="float64")
        calculator.calculate(ethanol)
        assert "energy_std" not in calculator.results
        alone.append(calculator.results)
    together = Calculator.from_run(folders, dtype="float64")
    together.calculate(ethanol)
    energies, forces = (np.array([one[name] for one in alone]) for name in ("energy", "forces"))
    assert together.results["energy"] == pytest.approx(energies.mean(), rel=1e-14)
    assert together.results["energy_std"] == pytest.approx(energies.std(), rel=1e-9) and energies.std() > 0.01
    np.testing.assert_allclose(together.results["forces"], forces.mean(0), atol=1e-12)
    np.testing.assert_allclose(together.results["forces_std"], forces.std(0), atol=1e-12)


class Charged(SchNet):
    """A SchNet whose energy also has a share of the charge."""

    needs_charge = True

    def forward(self, graph):
        energy = super().forward(graph)
        return energy + (graph.charge.to(energy.dtype) + 10 * graph.spin.to(energy.dtype)).unsqueeze(2)


def test_models_that_take_the_charge_get_it_from_the_atoms(make_run, ethanol, monkeypatch):
    monkeypatch.setitem(registry.MODELS, "schnet", Charged)
    calculator = Calculator.from_run(make_run(model={"name": "schnet", "filter": "exact"}, scale=0.5), dtype="float64")
    ethanol.calc = calculator
    with pytest.raises(ValueError, match="atoms.info.*'charge'"):
        ethanol.get_potential_energy()
    ethanol.info.update(charge=0, spin=0)
    neutral = ethanol.get_potential_energy()
    ethanol.info.update(charge=-1, spin=1)  # the atoms stay where they are
    assert ethanol.get_potential_energy() - neutral == pytest.approx(0.5 * (-1 + 10), rel=1e-9)
    ethanol.info.update(charge=-1, spin=0)
    with pytest.raises(ValueError, match="27 electrons"):
        ethanol.get_potential_energy()


def test_the_callers_random_numbers_and_threads_stay_as_they_are(make_run, ethanol):
    folder = make_run()
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    ethanol.calc = Calculator.from_run(folder, threads=2)
    ethanol.get_forces()
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_a_lone_atom_and_other_molecules_with_the_same_calculator(make_run, ethanol):
    folder = make_run()
    calculator = Calculator.from_run(folder, dtype="float64")
    for atoms in (ethanol, Atoms("O", [[1.0, 2.0, 3.0]]), Atoms("OH", [[0, 0, 0], [0, 0, 0.97]]), ethanol):
        calculator.calculate(atoms)
        energy, forces = of_the_model(folder, atoms)
        assert calculator.results["energy"] == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(calculator.results["forces"], forces, atol=1e-9)


def test_energies_alone_have_derivatives_too(make_run, ethanol):
    folder = make_run(force_share=0.0, model={"name": "schnet"})
    ethanol.calc = Calculator.from_run(folder, dtype="float64")
    np.testing.assert_allclose(ethanol.get_forces(), of_the_model(folder, ethanol)[1], atol=1e-9)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda atoms: atoms.set_pbc(True), "C2H6O has a periodic cell"),
        (lambda atoms: atoms.numbers.__setitem__(2, 7), "holds N, but .* was trained on molecules of H, C, O alone"),
        (lambda atoms: atoms.positions.__setitem__((3, 1), np.nan), "atom 3 has a coordinate that is not finite"),
        (lambda atoms: atoms.positions.__setitem__(4, atoms.positions[0]), "atoms 0 .C. and 4 .H. are 0.000 Å apart"),
        (lambda atoms: atoms.__delitem__(slice(None)), "has no atoms"),
    ],
)
def test_atoms_that_no_model_can_take_are_refused_in_one_sentence(make_run, ethanol, change, sentence):
    ethanol.calc = Calculator.from_run(make_run())
    for first in (True, False):  # at once, and after a calculation that went well
        atoms = ethanol.copy()
        atoms.calc = Calculator.from_run(make_run())
        if not first:
            atoms.get_forces()
        change(atoms)
        with pytest.raises(ValueError, match=sentence) as error:
            atoms.get_forces()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "run, arguments, sentence",
    [
        ({"unit": "bananas"}, {}, "learned energy, but 'bananas' is no unit of energy"),
        ({"targets": 2}, {}, "learned energy, energy1; forces are derivatives of one energy"),
        ({"extensive": False}, {}, "one energy that adds up"),
        ({"model": {"readout": "mean"}}, {}, "one energy that adds up"),
        ({}, {"dtype": "float16"}, "choose one of float32, float64"),
        ({}, {"skin": -1.0}, "skin=-1.0"),
        ({}, {"accelerator": "ipu"}, "cpu or cuda"),
    ],
)
def test_runs_that_are_no_force_fields_are_refused(make_run, run, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Calculator.from_run(make_run(**run), **arguments)


def test_runs_of_different_models_have_no_mean(make_run):
    folders = [make_run("one"), make_run("other", model={"cutoff": 5.0})]
    with pytest.raises(ValueError, match="other has model.cutoff=5.0, .*one has 4.0"):
        Calculator.from_run(folders)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Calculator.from_run(folders[0] / "nothing")


def test_what_the_readme_shows_runs(make_run, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "ipu_chem" / "simulation" / "README.md").read_text(encoding="utf-8")
    source, *of_engines = re.findall(r"```py\n(.*?)```", readme, re.DOTALL)
    assert len(of_engines) == 4  # which tests/simulation/engines runs
    make_run("runs/ethanol")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(source, "README.md", "exec"), names)
    assert "(9, 3)" in capsys.readouterr().out and len(names["many"].forces) == 100


def test_a_wrapper_stays_a_wrapper(make_run):
    assert isinstance(TrainedRun.load(make_run()).force_field().new_model().model, EnergyForces)
