"""Many structures in packs: those of the calculator one by one, in the order given, of one run or several."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.cli import main
from ipu_chem.data.molecule import Molecule
from ipu_chem.simulation.batch import evaluate_many
from ipu_chem.simulation.calculator import Calculator


@pytest.fixture
def structures(ethanol):
    """Thirty structures of 1 to 40 atoms, large and small by turns."""
    rng, made = np.random.default_rng(0), []
    for number in range(30):
        atoms = ethanol.copy() if number % 3 else Atoms("OHH" * 13 + "O", np.arange(40)[:, None] * [[0.9, 0.5, 0.3]])
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        made.append(atoms[: int(rng.integers(1, len(atoms) + 1))])
    return made


@pytest.mark.parametrize("kind, filter", [("painn", "auto"), ("schnet", "table"), ("schnet", "exact")])
def test_packs_say_what_the_calculator_says_one_by_one(make_run, structures, kind, filter):
    run = make_run(model={"name": kind, "filter": filter})
    mixed = [Molecule(np.uint8(a.numbers), a.positions) if i % 2 else a for i, a in enumerate(structures)]
    found = evaluate_many(run, mixed)
    calculator = Calculator.from_run(run)
    assert len({len(atoms) for atoms in structures}) > 10 and found.energies_std is None and found.forces_std is None
    for atoms, energy, forces in zip(structures, found.energies, found.forces):
        calculator.calculate(atoms)
        assert energy == pytest.approx(calculator.results["energy"], rel=1e-9, abs=1e-4)
        np.testing.assert_allclose(forces, calculator.results["forces"], atol=1e-4)


def test_several_runs_share_packs_and_program(make_run, structures, monkeypatch):
    compiled, compile = [], TorchBackend.compile
    monkeypatch.setattr(TorchBackend, "compile", lambda *args: compiled.append(1) or compile(*args))
    runs = [make_run(f"run{seed}", seed, scale=0.5 + seed) for seed in range(3)]
    found = evaluate_many(runs, structures)
    assert len(compiled) == 1
    alone = [evaluate_many(run, structures) for run in runs]
    energies = np.array([one.energies for one in alone])
    np.testing.assert_allclose(found.energies, energies.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.energies_std, energies.std(0), atol=1e-9)
    for item in range(len(structures)):
        forces = np.array([one.forces[item] for one in alone])
        np.testing.assert_allclose(found.forces[item], forces.mean(0), atol=1e-12)
        np.testing.assert_allclose(found.forces_std[item], forces.std(0), atol=1e-12)
    assert found.energies_std.min() > 1e-3


def test_energies_alone_give_forces_too(make_run, structures):
    run = make_run(force_share=0.0, torch={"compile": True, "threads": 1})
    found = evaluate_many(run, structures[:4])
    calculator = Calculator.from_run(run)
    calculator.calculate(structures[3])
    np.testing.assert_allclose(found.forces[3], calculator.results["forces"], atol=1e-4)


def test_the_command_writes_energies_and_forces(make_run, structures, tmp_path, capsys):
    run = make_run(unit="kcal/mol", per_ev=23.0605)
    others = [*structures[:3], Atoms("NH", [[0, 0, 0], [0, 0, 1.0]]), *structures[3:5]]
    write(tmp_path / "in.xyz", others, format="extxyz")
    output = tmp_path / "out.extxyz"
    assert main(["predict", str(run), str(tmp_path / "in.xyz"), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert (
        "line 4" in printed
        and "holds N, which no training molecule had" in printed
        and "5 molecules predicted, 1 refused" in printed
    )
    found = evaluate_many(run, structures[:5])
    for atoms, energy, forces in zip(read(output, ":"), found.energies, found.forces):
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)
    assert len(read(output, ":")) == 5 and found.energies[1] < -1000


def test_what_cannot_be_evaluated_is_named(make_run, ethanol):
    run = make_run()
    periodic, strange = ethanol.copy(), ethanol.copy()
    periodic.pbc = True
    strange.numbers[0] = 7
    for structures, sentence in (
        ([ethanol, periodic], "C2H6O has a periodic cell"),
        ([ethanol, strange], "CH6NO holds N, but .* molecules of H, C, O alone"),
        ([], "no molecules"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate_many(run, structures)
