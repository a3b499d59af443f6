"""Dynamics: energy is kept, seeds decide, what explodes is stopped, what was interrupted goes on."""

import json
import os
import signal

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from ipu_chem.cli import main
from ipu_chem.locks import FolderInUse, locked
from ipu_chem.simulation import records
from ipu_chem.simulation.bonds import Bonds
from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.md import degrees_of_freedom, run_md
from ipu_chem.simulation.options import MdOptions
from ipu_chem.units import BOHR


@pytest.fixture
def start(tmp_path, ethanol):
    """Ethanol in a file, and options of 40 steps in float64."""
    path = tmp_path / "ethanol.xyz"
    write(path, ethanol, format="extxyz")

    def options(**changes):
        given = dict(time=0.02, timestep=0.5, stride=5, dtype="float64", progress=False, out=str(tmp_path / "md"))
        return MdOptions(str(path), **{**given, **changes})

    return options


def table(folder):
    return np.genfromtxt(f"{folder}/log.csv", delimiter=",", names=True)


def assert_energy_is_kept(run, options, at_most):
    """Over all steps: the total energy varies by less than a share of the kinetic one, which the two exchange."""
    run_md([run], options)
    rows = table(options.out)
    assert len(rows) == options.steps + 1 == 201
    np.testing.assert_allclose(rows["total_eV"], rows["potential_eV"] + rows["kinetic_eV"], atol=1e-6)
    spread = rows["total_eV"].std()
    assert spread < at_most * rows["kinetic_eV"].mean() and np.ptp(rows["potential_eV"]) > 20 * spread
    return spread


def test_energy_is_kept_and_better_with_shorter_steps(springs, start, tmp_path):
    short, long = (
        assert_energy_is_kept(
            springs,
            start(time=0.2 * step, timestep=step, stride=1, temperature=50.0, out=str(tmp_path / f"{step}")),
            at_most,
        )
        for step, at_most in ((0.125, 1e-3), (0.5, 1e-2))
    )
    assert long > 6 * short  # the error of Verlet's steps grows with their square


@pytest.mark.parametrize("kind", ["painn", "schnet"])
def test_energies_of_networks_are_kept(make_run, start, kind):
    # Drawn weights hold nothing together: slow atoms, small forces.
    run = make_run(model={"name": kind}, scale=0.02)
    assert_energy_is_kept(run, start(time=0.05, timestep=0.25, temperature=20.0, stride=1), 1e-3)


def test_nothing_moves_or_turns_as_a_whole_and_the_temperature_is_that_asked_for(springs, start):
    summary = run_md([springs], start(temperature=450.0))
    frames = read(start().out + "/trajectory.extxyz", ":")
    assert len(frames) == 9
    for atoms in frames:
        np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-6)
        np.testing.assert_allclose(atoms.get_angular_momentum(), 0, atol=1e-5)
    rows = table(start().out)
    assert rows["temperature_K"][0] == pytest.approx(450, rel=1e-6) and summary["bonds"] == 8
    assert rows["kinetic_eV"][0] == pytest.approx(0.5 * 21 * 450 * 8.617333e-5, rel=1e-5)
    assert frames[3].get_potential_energy() == pytest.approx(rows["potential_eV"][3], abs=1e-5)
    assert frames[3].get_forces().shape == (9, 3) and frames[3].info["time_ps"] == pytest.approx(0.0075)


def test_what_is_drift_and_what_is_not(springs, start):
    summary = run_md([springs], start(stride=1))
    rows = table(start().out)
    total = rows["total_eV"] / 9 * 1000
    assert summary["drift_meV_per_atom_per_ps"] == pytest.approx(np.polyfit(rows["time_ps"], total, 1)[0], rel=1e-3)
    assert summary["largest_deviation_meV_per_atom"] == pytest.approx(np.abs(total - total[0]).max(), rel=1e-3)
    assert 1.0 < summary["largest_bond_ratio"] < 2.0 and 0.9 < summary["largest_OH_angstrom"] < 1.9
    assert (
        json.loads((os.path.join(start().out, "summary.json") and open(start().out + "/summary.json")).read())[
            "stopped"
        ]
        == ""
    )
    with open(start().out + "/energy_drift.png", "rb") as picture:
        assert picture.read(4) == b"\x89PNG"


@pytest.mark.parametrize("thermostat", ["none", "langevin"])
def test_the_same_seed_gives_the_same_trajectory(springs, start, thermostat, tmp_path):
    ends = []
    for seed, folder in ((1, "one"), (1, "again"), (2, "other")):
        run_md([springs], start(thermostat=thermostat, seed=seed, out=str(tmp_path / folder)))
        ends.append((tmp_path / folder / "trajectory.extxyz").read_bytes())
    assert ends[0] == ends[1] != ends[2]


def test_langevin_brings_the_temperature_to_what_it_shall_be(springs, start):
    options = start(thermostat="langevin", friction=200.0, temperature=600.0, time=0.3, timestep=1.0, stride=1)
    summary = run_md([springs], options)
    rows = table(options.out)
    assert summary["drift_meV_per_atom_per_ps"] is summary["largest_deviation_meV_per_atom"] is None
    assert 450 < rows["temperature_K"][100:].mean() < 750
    assert np.abs(rows["total_eV"] - rows["total_eV"][0]).max() > 0.1


def test_several_runs_move_atoms_together_and_say_how_far_they_disagree(make_run, start):
    summary = run_md([make_run(f"run{seed}", seed, scale=0.1) for seed in range(2)], start(time=0.01))
    rows = table(start().out)
    assert summary["largest_force_std_eV_per_A"] == pytest.approx(rows["largest_force_std_eV_per_A"].max(), rel=1e-6)
    assert rows["largest_force_std_eV_per_A"].min() > 0.001


@pytest.mark.parametrize("scale, reason", [(30.0, "temperature is .* K, above 3,000 K|times that at the start|apart")])
def test_an_explosion_is_named_with_its_step_and_leaves_its_frames(make_run, start, scale, reason):
    with pytest.raises(ValueError, match=rf"exploded at step \d+ \(.* ps\): .*({reason})") as error:
        run_md([make_run(scale=scale)], start(stride=1, time=1.0))
    step = int(str(error.value).split("step ")[1].split(" ")[0])
    frames = read(start().out + "/trajectory.extxyz", ":")
    assert 1 <= step < 200 and len(frames) == step
    with open(start().out + "/summary.json") as file:
        assert "exploded" in json.load(file)["stopped"]


@pytest.mark.parametrize("thermostat", ["none", "langevin"])
@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(springs, start, thermostat, suffix, tmp_path):
    same = dict(thermostat=thermostat, trajectory=suffix)
    run_md([springs], start(out=str(tmp_path / "whole"), **same))
    run_md([springs], start(time=0.01, **same))
    folder = tmp_path / "md"
    with open(folder / "log.csv", "a") as file:
        file.write("0.0125,half a ro")
    if suffix == "extxyz":
        with open(folder / "trajectory.extxyz", "a") as file:
            file.write("9\nhalf a frame")
    summary = run_md([springs], start(**same), resume=True)
    whole, cut = (read(tmp_path / name / f"trajectory.{suffix}", ":") for name in ("whole", "md"))
    assert len(whole) == len(cut) == 9 and summary["steps"] == 40
    for one, other in zip(whole, cut):
        np.testing.assert_allclose(one.positions, other.positions, atol=2e-8)
        np.testing.assert_allclose(one.get_momenta(), other.get_momenta(), atol=2e-8)
    rows, others = table(tmp_path / "whole"), table(folder)
    for name in records.COLUMNS:
        np.testing.assert_allclose(rows[name], others[name], rtol=1e-7, atol=1e-7)


def test_a_signal_stops_between_steps_and_the_rest_follows(springs, start, monkeypatch, capsys):
    arguments = ["md", str(springs), "--structure", start().structure, "--time", "0.02", "--stride", "5"]
    arguments += ["--out", start().out, "--progress", "false"]
    calculate, calls = Calculator.calculate, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        calculate(self, *args, **kwargs)

    monkeypatch.setattr(Calculator, "calculate", interrupted)
    assert main(arguments) == 130
    assert f"ipu-chem md --resume {start().out}" in capsys.readouterr().out
    assert len(read(start().out + "/trajectory.extxyz", ":")) == 3
    assert main(arguments) == 1
    assert "holds a simulation already" in capsys.readouterr().err
    assert main(["md", "--resume", start().out]) == 0
    assert len(read(start().out + "/trajectory.extxyz", ":")) == 9
    assert "40 steps, 0.02 ps of 9 atoms" in capsys.readouterr().out
    assert main([*arguments, "--time", "0.03", "--resume", "true"]) == 0, "as it was said before"
    output = capsys.readouterr().out
    assert "--resume names the folder now" in output and "60 steps, 0.03 ps of 9 atoms" in output


def test_a_simulation_from_before_there_were_intervals_goes_on(springs, start, tmp_path, capsys):
    run_md([springs], start(time=0.005))
    path = tmp_path / "md" / "restart.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    state = json.loads(str(arrays["json"]))
    assert state["asked"].pop("stride") == 5 and state["asked"].pop("interval") is None
    state["asked"]["interval"] = 5
    arrays["json"] = np.array(json.dumps(state))
    np.savez(path, **arrays)
    assert main(["md", "--resume", str(tmp_path / "md"), "--interval", "0.9"]) == 1
    assert "no residuals" in capsys.readouterr().err  # and else that it was begun without intervals
    assert main(["md", "--resume", str(tmp_path / "md"), "--time", "0.01"]) == 0
    assert len(read(tmp_path / "md" / "trajectory.extxyz", ":")) == 5


def test_bonds_are_those_of_the_start(ethanol):
    bonds = Bonds(ethanol.numbers, ethanol.positions)
    assert sorted(map(tuple, bonds.pairs.tolist())) == [(0, 1), (0, 3), (0, 4), (0, 5), (1, 2), (1, 6), (1, 7), (2, 8)]
    moved = ethanol.positions.copy()
    moved[8] += 2.0 * (moved[8] - moved[2])
    ratios = bonds.update(moved)
    assert ratios.max() == pytest.approx(3.0)
    assert bonds.worst(ratios) == "the bond of atoms 2 and 8 is 2.91 Å long, 3.00 times that at the start"
    bonds.update(ethanol.positions)
    ratio, pair, longest_oh = bonds.stretched()
    assert ratio == pytest.approx(3.0) and pair == (2, 8) and longest_oh == pytest.approx(3 * 0.9705, abs=1e-3)


def test_bonds_of_many_molecules_are_those_of_each(ethanol):
    water = Atoms("HOH", [[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]])
    molecules = [water, ethanol, Atoms("He", [[0, 0, 0]]), ethanol.copy()]
    numbers, positions = (
        np.concatenate([getattr(one, name) for one in molecules]) for name in ("numbers", "positions")
    )
    many = Bonds(numbers, positions, np.cumsum([0, *map(len, molecules)]))
    np.testing.assert_array_equal(np.bincount(many.molecule, minlength=4), [2, 8, 0, 8])
    moved = positions + np.random.default_rng(0).normal(0, 0.1, positions.shape)
    moved[-1] = np.nan
    ratios = many.update(moved)
    many.update(positions)
    first = 0
    for number, one in enumerate(molecules[:2]):
        alone = Bonds(one.numbers, one.positions)
        alone.update(moved[first : first + len(one)])
        alone.update(one.positions)
        assert many.stretched(number) == alone.stretched()
        first += len(one)
    assert many.stretched(2) == (1.0, (-1, -1), 0.0) and np.isnan(ratios).sum() == 1 and many.stretched(3)[0] < 2.0


def test_directions_that_take_up_heat():
    water = Atoms("HOH", [[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]]).positions
    line = Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]).positions
    assert [degrees_of_freedom(one, "none") for one in (water, line, line[:2])] == [3, 4, 1]
    assert degrees_of_freedom(line[:1], "langevin") == 3
    with pytest.raises(ValueError, match="lone atom"):
        degrees_of_freedom(line[:1], "none")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"thermostat": "bussi"}, "choose one of none, langevin"),
        ({"trajectory": "xtc"}, "choose one of extxyz, traj"),
        ({"timestep": 0.0}, "timestep"),
        ({"frame": 3}, "has 1 structure"),
        ({"structure": "nowhere.xyz"}, "no file nowhere.xyz"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(make_run, start, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_md([make_run()], MdOptions(**{**vars(start()), **change}))
    assert not os.path.exists(start().out)


def test_a_simulation_has_one_process_and_a_damaged_state_is_named(tmp_path, start):
    with locked(tmp_path / "md"), pytest.raises(FolderInUse, match="md is in use by process"):
        run_md(["no run"], start())
    (tmp_path / "md").mkdir()
    (tmp_path / "md" / "restart.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match="restart.npz is damaged .* begin it again with another --out"):
        records.read_state(tmp_path / "md")


@pytest.mark.parametrize("flag", ["--structure", "--structures"])
def test_a_start_in_another_unit(springs, start, flag, ethanol, tmp_path, capsys):
    moved = ethanol.copy()
    moved.positions /= BOHR
    write(tmp_path / "bohr.xyz", moved, format="extxyz")
    arguments = ["md", str(springs), "--time", "0.001", "--stride", "1", "--progress", "false", "--out"]
    assert main([*arguments, str(tmp_path / "right"), flag, str(start().structure)]) == 0
    assert main([*arguments, str(tmp_path / "bohr"), flag, str(tmp_path / "bohr.xyz"), "--length_unit", "bohr"]) == 0
    assert "warning" not in capsys.readouterr().err
    one, other = (read(tmp_path / name / "trajectory.extxyz", "0").positions for name in ("right", "bohr"))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_another_simulation_is_not_resumed(springs, start):
    with pytest.raises(ValueError, match="no simulation to resume"):
        run_md([springs], start(), resume=True)
    run_md([springs], start(time=0.005))
    with pytest.raises(ValueError, match="begun with temperature=300.0, not 400.0"):
        run_md([springs], start(temperature=400.0), resume=True)


def test_help_says_the_units(capsys):
    with pytest.raises(SystemExit):
        main(["md", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for what in ("fs (default: 0.5)", "ps, from the start", "1/ps", "K, that velocities", "--resume"):
        assert what in text, what
