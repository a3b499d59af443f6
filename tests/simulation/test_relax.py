"""Relaxation: energies go down, forces vanish, what does not come to rest is listed."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from ase.optimize import BFGS, FIRE

from ipu_chem.cli import main
from ipu_chem.simulation.batch import load_force_fields
from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.options import RelaxOptions
from ipu_chem.simulation.relax import relax_file, relax_many
from ipu_chem.units import BOHR


@pytest.fixture
def structures(tmp_path, ethanol):
    rng, path = np.random.default_rng(0), tmp_path / "two.xyz"
    water = Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], info={"name": "water"})
    for atoms in (ethanol, water):
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    write(path, [ethanol, water], format="extxyz")
    return path


@pytest.mark.parametrize("optimizer", ["bfgs", "fire"])
def test_energies_go_down_until_forces_vanish(make_run, structures, optimizer, tmp_path):
    run, output = make_run(), tmp_path / "relaxed.extxyz"
    options = RelaxOptions(str(output), fmax=0.005, optimizer=optimizer, dtype="float64", steps=2000)
    relaxed = relax_file(run, structures, options)
    calculator = Calculator.from_run(run, dtype="float64")
    for one, before, after in zip(relaxed, read(structures, ":"), read(output, ":")):
        before.calc = calculator
        first = before.get_potential_energy()
        assert one.converged and after.info["converged"] and after.info["steps"] == one.steps > 3
        assert after.get_potential_energy() < first - 0.01
        assert np.linalg.norm(after.get_forces(), axis=1).max() <= 0.005
        again = after.copy()
        again.calc = calculator
        assert again.get_potential_energy() == pytest.approx(after.get_potential_energy(), abs=1e-6)
    assert [one.name for one in relaxed] == ["two.xyz frame 0", "water"]


def drawn(ethanol, count):
    """Molecules of three sizes, in no order of size."""
    rng = np.random.default_rng(7)
    kinds = [
        Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]),
        ethanol,
        Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]),
    ]
    made = [kinds[number % 3].copy() for number in range(count)]
    for number, atoms in enumerate(made):
        atoms.positions += rng.normal(0, 0.04, atoms.positions.shape)
        atoms.info["name"] = f"number {number}"
    return made


@pytest.mark.parametrize("optimizer, theirs", [("bfgs", BFGS), ("fire", FIRE)])
@pytest.mark.parametrize("batch", [9, 21, 0])
def test_each_ends_where_ase_takes_it_after_as_many_steps(make_run, ethanol, optimizer, theirs, batch):
    given, members = drawn(ethanol, 9), load_force_fields(make_run())
    options = RelaxOptions(fmax=0.02, optimizer=optimizer, dtype="float64", steps=150, batch=batch)
    ends = []
    relaxed = relax_many(members, given, options, lambda: ends.append(1))
    assert len(ends) == 9 and [one.name for one in relaxed] == [f"number {number}" for number in range(9)]
    calculator = Calculator(members, dtype="float64")
    for one, atoms in zip(relaxed, given):
        alone = atoms.copy()
        alone.calc = calculator
        dynamics = theirs(alone, logfile=None)
        converged = dynamics.run(fmax=0.02, steps=150)
        assert (one.converged, one.steps, one.reason) == (converged, dynamics.nsteps, "")
        np.testing.assert_allclose(one.atoms.positions, alone.positions, atol=1e-7)
        assert one.atoms.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-9)
        assert one.fmax == pytest.approx(np.linalg.norm(alone.get_forces(), axis=1).max(), abs=1e-6)
        assert not np.array_equal(atoms.positions, one.atoms.positions)
    assert sum(one.converged for one in relaxed) > 5


def test_one_that_collides_stops_alone_where_all_was_well(make_run, ethanol):
    given, members = drawn(ethanol, 6), load_force_fields(make_run())
    options = RelaxOptions(fmax=0.02, dtype="float64", steps=150)
    without = relax_many(members, given, options)
    bad = ethanol.copy()
    bad.positions += np.random.default_rng(13).normal(0, 0.2, bad.positions.shape)
    bad.info["name"] = "bad"
    *others, end = relax_many(members, [*given, bad], options)
    assert end.reason.startswith("C2H6O: atoms ") and " Å apart" in end.reason
    assert end.atoms.info["reason"] == end.reason
    assert not end.converged and 0 < end.steps < 150 and not end.atoms.info["converged"]
    assert end.fmax == pytest.approx(np.linalg.norm(end.atoms.get_forces(), axis=1).max()) and end.fmax > 0.02
    last = end.atoms.copy()
    last.calc = Calculator(members, dtype="float64")
    assert last.get_potential_energy() == pytest.approx(end.atoms.get_potential_energy(), abs=1e-9)
    for one, expected in zip(others, without):
        assert one.steps == expected.steps
        np.testing.assert_allclose(one.atoms.positions, expected.atoms.positions, atol=1e-9)


def test_several_runs_write_how_far_they_differ(make_run, structures, tmp_path):
    runs, output = [make_run("one", 0), make_run("other", 1)], tmp_path / "out.extxyz"
    relax_file(runs, structures, RelaxOptions(str(output), steps=3, fmax=1e-4))
    calculator = Calculator.from_run(runs)
    for atoms in read(output, ":"):
        calculator.calculate(atoms)
        expected = calculator.results
        assert atoms.get_potential_energy() == pytest.approx(expected["energy"], rel=1e-6)
        assert atoms.info["energy_std"] == pytest.approx(expected["energy_std"], rel=1e-4)
        np.testing.assert_allclose(atoms.arrays["forces_std"], expected["forces_std"], atol=1e-4)


def test_what_did_not_come_to_rest_is_written_and_listed(make_run, structures, tmp_path, capsys):
    arguments = ["relax", str(make_run()), "--structures", str(structures), "--steps", "2", "--fmax", "0.001"]
    assert main([*arguments, "--output", str(tmp_path / "out.extxyz")]) == 1
    printed = capsys.readouterr().out
    assert "0 structures relaxed" in printed and printed.count("\n") == 2
    assert "not relaxed: two.xyz frame 0 (" in printed and ", water (" in printed and "eV/Å after 2 steps)" in printed
    assert [atoms.info["converged"] for atoms in read(tmp_path / "out.extxyz", ":")] == [False, False]


@pytest.mark.parametrize("flag", ["--structures", "--structure"])
def test_structures_in_another_unit(make_run, structures, flag, tmp_path, capsys):
    moved = read(structures, ":")
    for atoms in moved:
        atoms.positions /= BOHR
    write(tmp_path / "bohr.xyz", moved, format="extxyz", columns=["symbols", "positions"])
    for path, more in ((structures, []), (tmp_path / "bohr.xyz", ["--length_unit", "bohr"])):
        arguments = ["relax", str(make_run()), flag, str(path), "--steps", "1", "--fmax", "0.001"]
        assert main([*arguments, "--output", str(tmp_path / f"{path.stem}.extxyz"), *more]) == 1
        assert "warning" not in capsys.readouterr().err
    one, other = (read(tmp_path / f"{name}.extxyz", ":") for name in (structures.stem, "bohr"))
    for mine, theirs in zip(one, other):
        np.testing.assert_allclose(mine.positions, theirs.positions, atol=1e-4)
    main([*arguments, "--output", str(tmp_path / "o.extxyz")])
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "positions look like bohr: give --length_unit bohr" in said


def test_what_cannot_work_is_refused(make_run, structures, tmp_path, capsys):
    run = make_run()
    write(tmp_path / "n.xyz", Atoms("NH", [[0, 0, 0], [0, 0, 1.0]], info={"name": "imidogen"}), format="extxyz")
    with pytest.raises(ValueError, match="imidogen: HN holds N, but"):
        relax_file(run, tmp_path / "n.xyz", RelaxOptions(str(tmp_path / "out.extxyz")))
    for change, sentence in (
        ({"optimizer": "newton"}, "choose one of bfgs, fire"),
        ({"fmax": 0.0}, "fmax"),
        ({"batch": -1}, "batch=-1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            RelaxOptions(**change)
    with pytest.raises(ValueError, match="an .extxyz file"):
        relax_file(run, structures, RelaxOptions(str(tmp_path / "out.xyz")))
    with pytest.raises(SystemExit):
        main(["relax", "--help"])
    assert "eV/Å, largest force" in " ".join(capsys.readouterr().out.split())


def test_many_that_did_not_come_to_rest_are_a_line(make_run, ethanol, tmp_path, capsys):
    write(tmp_path / "many.xyz", drawn(ethanol, 8), format="extxyz")
    arguments = ["relax", str(make_run()), "--structures", str(tmp_path / "many.xyz"), "--steps", "1", "--fmax", "1e-4"]
    assert main([*arguments, "--output", str(tmp_path / "out.extxyz")]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("0 structures relaxed to 0.0001 eV/Å, 8 not: ") and "number 5" not in second
    assert second.startswith("not relaxed: number 0 (") and second.count("eV/Å after 1 step") == 5
    assert second.endswith(" and 3 more; their comment lines say converged=F.")
