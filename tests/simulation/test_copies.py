"""Dynamics of many molecules: each moves as it would alone, stops alone, and goes on to the bit."""

import json
import os
import signal

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from ipu_chem.cli import main
from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.integrators import random_of
from ipu_chem.simulation.md import run_md
from ipu_chem.simulation.moving import MovingPack
from ipu_chem.simulation.options import MdOptions
from ipu_chem.simulation.records import read_state
from ipu_chem.simulation.velocities import degrees_of_freedom, draw_velocities

THERMOSTATS = pytest.mark.parametrize("thermostat", ["none", "langevin"])
WATER = Atoms("HOH", [[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]])


@pytest.fixture
def start(tmp_path, ethanol):
    """Ethanol and water in a file, and options of 50 steps of three copies of ethanol in float64."""
    path = tmp_path / "two.xyz"
    write(path, [ethanol, WATER], format="extxyz")

    def options(**changes):
        given = dict(
            structure=str(path),
            time=0.025,
            stride=5,
            dtype="float64",
            progress=False,
            out=str(tmp_path / "md"),
            copies=3,
        )
        return MdOptions(**{**given, **changes})

    return options


def table(folder):
    return np.genfromtxt(f"{folder}/log.csv", delimiter=",", names=True)


def summary_of(options):
    with open(options.out + "/summary.json") as file:
        return json.load(file)


@THERMOSTATS
def test_each_copy_moves_as_ase_moves_it(make_run, start, ethanol, thermostat):
    run, options = make_run(scale=0.02), start(thermostat=thermostat, seed=4, temperature=50.0, frames="all", copies=2)
    run_md([run], options)
    state = read_state(options.out)
    ends = np.split(state["positions"], state["offsets"][1:-1])
    assert [len(one) for one in ends] == [9, 9, 3, 3]
    calculator = Calculator.from_run(run, dtype="float64")
    for copy, (end, molecule) in enumerate(zip(ends, [ethanol, ethanol, WATER, WATER])):
        atoms, random = molecule.copy(), random_of(4, copy)
        degrees = degrees_of_freedom(atoms.positions, thermostat)
        draw_velocities(atoms, 50.0, degrees, random)
        atoms.calc = calculator
        how = dict(temperature_K=50, friction=10 / (1000 * units.fs), rng=random, fixcm=False)
        step = 0.5 * units.fs
        (VelocityVerlet(atoms, step) if thermostat == "none" else Langevin(atoms, step, **how)).run(50)
        np.testing.assert_allclose(end, atoms.positions, rtol=0, atol=1e-8)
        rows = table(options.out)[copy::4]
        kinetic = atoms.get_kinetic_energy()
        assert rows["copy"].tolist() == [copy] * 11 and rows["kinetic_eV"][-1] == pytest.approx(kinetic, abs=1e-7)
        assert rows["potential_eV"][-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert rows["temperature_K"][0] == pytest.approx(50) and rows["total_eV"].std() < 0.5
        frame = read(f"{options.out}/copy_{copy}.extxyz", "-1")
        np.testing.assert_allclose(frame.get_forces(), atoms.get_forces(), atol=2e-8)
        assert frame.info["time_ps"] == pytest.approx(0.025)


@THERMOSTATS
def test_the_first_copy_is_the_simulation_of_one(springs, start, tmp_path, thermostat):
    run_md([springs], start(thermostat=thermostat))
    run_md([springs], start(thermostat=thermostat, copies=1, out=str(tmp_path / "one")))
    many, one = read_state(tmp_path / "md"), read_state(tmp_path / "one")
    np.testing.assert_allclose(many["positions"][:9], one["positions"], rtol=0, atol=1e-10)
    assert np.abs(many["positions"][9:18] - one["positions"]).max() > 0.01
    ours, alone = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("md", "one"))
    for name in ("drift_meV_per_atom_per_ps", "temperature_mean_K", "largest_bond_ratio", "largest_OH_angstrom"):
        assert ours["each"][0][name] == (pytest.approx(alone[name], rel=1e-6, abs=1e-9) if alone[name] else None)
    for name, over in (("temperature_mean_K", np.mean), ("largest_bond_ratio", max), ("largest_OH_angstrom", max)):
        assert ours[name] == pytest.approx(over([one[name] for one in ours["each"]]))
    with open(tmp_path / "md" / "energy_drift.png", "rb") as picture:
        assert picture.read(4) == b"\x89PNG"


def explosive(tmp_path, ethanol):
    """A file with three molecules, the second of which flies apart."""
    squeezed = ethanol.copy()
    squeezed.positions[8] += 0.75 * (squeezed.positions[2] - squeezed.positions[8])
    path = tmp_path / "three.xyz"
    write(path, [ethanol, squeezed, ethanol], format="extxyz")
    return str(path)


def test_a_copy_that_explodes_stops_alone_and_says_so(springs, start, tmp_path, ethanol, capsys):
    shared = dict(copies=1, stride=1)
    options = start(structure=explosive(tmp_path, ethanol), frames="all", **shared)
    summary = run_md([springs], options)
    stopped = summary["each"][1]["stopped"]
    assert "copy 1 (three.xyz frame 1) exploded at step" in stopped and "copy_1.extxyz" in stopped
    assert stopped in capsys.readouterr().err and summary["copies_that_exploded"] == 1
    assert [one["stopped"] for one in summary["each"]] == ["", stopped, ""] and summary["stopped"] == ""
    steps = summary["each"][1]["steps"]
    assert (
        1 <= steps < 50
        and [one["steps"] for one in summary["each"]] == [50, steps, 50]
        and f"step {steps} (" in stopped
    )
    assert (
        len(read(options.out + "/copy_1.extxyz", ":")) == steps and len(read(options.out + "/copy_2.extxyz", ":")) == 51
    )
    assert (table(options.out)["copy"] == 1).sum() == steps
    # Copy 0 and copy 2 are where they would be without it.
    alone = start(out=str(tmp_path / "alone"), **shared)
    run_md([springs], alone)
    ours, theirs = read_state(options.out), read_state(alone.out)
    np.testing.assert_allclose(ours["positions"][:9], theirs["positions"], rtol=0, atol=1e-10)
    assert not ours["positions"][9:18].any() and summary_of(options)["each"][1]["stopped"] == stopped


def test_when_all_explode_there_is_an_error(make_run, start, capsys):
    with pytest.raises(ValueError, match=r"all 3 copies exploded, the first of them: copy \d .* exploded at step"):
        run_md([make_run(scale=100.0)], start(time=1.0, stride=1))
    assert summary_of(start())["stopped"] == "all 3 copies exploded" and capsys.readouterr().err.count("warning") == 3


@THERMOSTATS
@pytest.mark.parametrize("native", [True, False])
def test_what_was_interrupted_goes_on_to_the_bit(springs, make_run, start, tmp_path, ethanol, thermostat, native):
    run = make_run("net", scale=0.3) if native else springs
    if native:  # as springs are there in place of SchNet
        options = dict(frames="all", copies=5, temperature=400.0)
    else:
        options = dict(structure=explosive(tmp_path, ethanol), frames="all", copies=2)
    same = dict(thermostat=thermostat, skin=0.05, dtype="float32", **options)
    run_md([run], start(out=str(tmp_path / "whole"), **same))
    run_md([run], start(time=0.0125, **same))
    with open(tmp_path / "md" / "log.csv", "a") as file:
        file.write("1,0.0125,half a ro")
    run_md([run], start(**same), resume=True)
    whole, cut = tmp_path / "whole", tmp_path / "md"
    files = sorted(path.name for path in whole.glob("copy_*"))
    assert len(files) == 10 if native else 6
    for name in ["log.csv", *files]:
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    one, other = read_state(whole), read_state(cut)
    for name in ("positions", "momenta", "built_at", "longest", *(["random"] if thermostat == "langevin" else [])):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    stops = [
        {copy: stop["why"].replace(str(folder), "") for copy, stop in state["stops"].items()}
        for folder, state in ((whole, one), (cut, other))
    ]
    assert stops[0] == stops[1] and bool(stops[0]), "one has stopped, and stays stopped"


def test_a_signal_stops_all_and_the_rest_follows(springs, start, monkeypatch, capsys):
    arguments = ["md", str(springs), "--structure", start().structure, "--copies", "3", "--time", "0.02"]
    arguments += ["--stride", "5", "--out", start().out, "--progress", "false"]
    call, calls = MovingPack.__call__, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self)

    monkeypatch.setattr(MovingPack, "__call__", interrupted)
    assert main(arguments) == 130
    assert f"ipu-chem md --resume {start().out}" in capsys.readouterr().out
    assert main(["md", "--resume", start().out]) == 0
    assert [len(read(f"{start().out}/copy_{copy}.extxyz", ":")) for copy in range(3)] == [9] * 3
    output = capsys.readouterr().out
    assert "40 steps, 0.02 ps of 27 atoms in 3 copies" in output and "its worst among copies" in output


def test_a_copy_that_stopped_after_the_last_state_stops_again(springs, start, tmp_path, ethanol, monkeypatch):
    same = dict(structure=explosive(tmp_path, ethanol), frames="all", copies=1, stride=50)
    whole = run_md([springs], start(out=str(tmp_path / "whole"), **same))
    call, calls = MovingPack.__call__, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == whole["each"][1]["steps"] + 5:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self)

    monkeypatch.setattr(MovingPack, "__call__", interrupted)
    assert run_md([springs], start(**same))["copies_that_exploded"] == 1
    assert read_state(start().out)["step"] == 0 and not read_state(start().out)["stops"]
    again = run_md([springs], start(**same), resume=True)
    assert [one["steps"] for one in again["each"]] == [one["steps"] for one in whole["each"]]
    assert (tmp_path / "whole" / "log.csv").read_bytes() == (tmp_path / "md" / "log.csv").read_bytes()


def test_several_runs_say_how_far_they_disagree_on_each_copy(make_run, start):
    summary = run_md([make_run(f"run{seed}", seed, scale=0.1) for seed in range(2)], start(time=0.01))
    rows = table(start().out)
    for copy, one in enumerate(summary["each"]):
        largest = rows["largest_force_std_eV_per_A"][rows["copy"] == copy].max()
        assert one["largest_force_std_eV_per_A"] == pytest.approx(largest) and largest > 0.001
    assert summary["largest_force_std_eV_per_A"] == pytest.approx(rows["largest_force_std_eV_per_A"].max())


def test_doubts_come_before_the_first_step_and_once_for_each_structure(make_run, start, capsys):
    with pytest.raises(ValueError, match="all 8 copies exploded"):
        run_md([make_run(seen={"sizes": [3, 6]}, scale=100.0)], start(copies=4, frames="all"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert "1 of 2 molecules have fewer or more atoms than any training molecule (those had 3 to 6)" in lines[0]
    assert "exploded at step 1" in lines[1] and not [line for line in lines[1:] if "training molecule" in line]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"copies": 0}, "copies"),
        ({"trajectory": "traj"}, "--trajectory traj holds one molecule"),
        ({"frames": "some"}, "frames=some: give all, or a slice such as 0:100:10; one structure is --frame 7"),
        ({"frames": "0:2:0"}, "give all, or a slice"),
        ({"frames": "5:"}, "frames=5:: no structure of .* is there, it has 2"),
        ({"frames": "all", "frame": 1}, "frame=1 and frames=all are both given"),
        ({"copies": 1_000_000_000}, "copies=1000000000: give an integer from 1 to 100,000"),
        ({"copies": 99_999, "frames": "all"}, "copies=99999 of 2 structures .* give --copies 50000 or less"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(make_run, start, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_md([make_run()], MdOptions(**{**vars(start()), **change}))
    assert not os.path.exists(start().out)


@pytest.mark.parametrize("copies", [1, 2])
def test_atoms_that_have_flown_apart_do_not_begin(make_run, start, tmp_path, copies):
    far = Atoms("HOH", [[0.76, 0.59, 0], [0, 0, 0], [-5000.0, 0.59, 0]])
    write(tmp_path / "far.xyz", [WATER, far], format="extxyz")
    asked = start(structure=str(tmp_path / "far.xyz"), copies=copies, frames="all")
    with pytest.raises(ValueError, match="structure 1 of .*far.xyz: .* from the middle of its molecule"):
        run_md([make_run()], asked)
    with pytest.raises(ValueError, match="H2O: an atom is .* Å from the middle of its molecule, .* not in Å"):
        run_md([make_run()], start(structure=asked.structure, copies=copies, frame=1))
    assert not os.path.exists(asked.out)


@pytest.mark.parametrize("copies", ["1", "2"])
def test_a_simulation_at_its_end_says_how_to_go_on(make_run, start, capsys, copies):
    arguments = ["md", str(make_run(scale=0.02)), "--structure", start().structure, "--time", "0.01"]
    assert main([*arguments, "--copies", copies, "--out", start().out]) == 0
    assert "per step" in capsys.readouterr().out
    assert main(["md", "--resume", start().out, "--time", "0.005"]) == 0
    output = capsys.readouterr().out
    assert f"nothing was left to do; go on with: ipu-chem md --resume {start().out} --time 0.02" in output
    assert "per step" not in output, "of a time in which nothing moved"
    assert main(["md", "--resume", start().out, "--time", "0.02"]) == 0
    assert "nothing was left" not in capsys.readouterr().out
