"""Intervals of trained runs: kept by training, written by predict, measured by evaluate, refused with a way on."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from support import CHAINS, model_values

from ipu_chem.cli import main
from ipu_chem.config import from_dict
from ipu_chem.prediction.calibration import FRACTIONS, calibrate, measure, selective_errors
from ipu_chem.prediction.predict import predict_file
from ipu_chem.run_intervals import intervals_of
from ipu_chem.train import train
from ipu_chem.trained_run import TrainedRun
from ipu_chem.uncertainty.residuals import FILE, LABELS, read_residuals

TARGET = "mmff94_energy"


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(options):
    options["data"].update(validation=10, test=5)
    train(from_dict(options))
    return Path(options["out"])


@pytest.fixture
def two_runs(options, tmp_path):
    options["data"].update(validation=10, test=5)
    for seed in (0, 1):
        options["training"].update(seed=seed)
        train(from_dict({**options, "out": str(tmp_path / f"seed{seed}")}))
    return [tmp_path / "seed0", tmp_path / "seed1"]


def test_half_widths_are_quantiles_of_validation_errors(run, tmp_path):
    errors = [
        abs(float(row[f"{TARGET}_prediction"]) - float(row[f"{TARGET}_label"]))
        for row in table(run / "predictions_validation.csv")
    ]
    assert len(errors) == 10
    np.testing.assert_allclose(np.sort(np.abs(read_residuals(run).outputs[LABELS].values[:, 0])), np.sort(errors))
    (tmp_path / "in.smi").write_text("CCO\nC1CC\nCC(=O)O\n")
    predict_file(run, tmp_path / "in.smi", tmp_path / "out.csv", workers=1, interval=0.8)
    rows = table(tmp_path / "out.csv")
    columns = [f"{TARGET}{kind} (kcal/mol)" for kind in ("", "_low", "_high")]
    assert list(rows[0]) == ["line", "name", "smiles", *columns, "reason"]
    assert [rows[1][one] for one in columns] == ["", "", ""] and rows[1]["reason"]
    for row in (rows[0], rows[2]):
        value, low, high = (float(row[one]) for one in columns)
        assert value - low == pytest.approx(np.sort(errors)[8]) == pytest.approx(high - value)  # ceil(11 * 0.8) = 9


def test_intervals_of_several_runs_follow_their_spread(two_runs, tmp_path, capsys):
    (tmp_path / "in.smi").write_text("CCO\nCC(=O)O\nc1ccccc1O\n")
    predict_file(two_runs, tmp_path / "in.smi", tmp_path / "out.csv", workers=1, interval=0.9)
    found = np.stack([read_residuals(one).outputs[LABELS].values[:, 0] for one in two_runs])
    pytest.importorskip("matplotlib", reason="figures were NOT drawn: matplotlib is not installed")
    floor = np.median(np.std(found, 0))
    quantile = np.max(np.abs(found.mean(0)) / (np.std(found, 0) + floor))  # ceil(11 * 0.9) = 10 of 10
    for row in table(tmp_path / "out.csv"):
        value, spread, low, high = (float(row[f"{TARGET}{kind} (kcal/mol)"]) for kind in ("", "_std", "_low", "_high"))
        assert high - value == pytest.approx(quantile * (spread + floor)) == pytest.approx(value - low)
    capsys.readouterr()
    plot = ["--plot", str(tmp_path / "errors.png")]
    assert main(["evaluate", *map(str, two_runs), "--interval", "0.9", *plot]) == 0
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", str(two_runs[0]), *plot]) == 1 and "two folders or more" in capsys.readouterr().err
    assert main(["evaluate", *map(str, two_runs), "--interval", "0.9"]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"test: 0\.9 intervals of {TARGET} hold \d+\.\d% of 5 labels, mean width [\d.]+ kcal/mol\n", said)
    assert "agree best: 100%: " in said and "10%: " in said
    measured = measure([TrainedRun.load(one) for one in two_runs], "test")
    assert not measured.covered and len(measured.selective[f"mae_{TARGET}_kcal_per_mol"]) == len(FRACTIONS)
    assert measured.selective[f"mae_{TARGET}_kcal_per_mol"][0] == pytest.approx(
        measured.metrics[f"mae_{TARGET}_kcal_per_mol"]
    )


def test_evaluate_measures_what_predictions_of_the_test_split_say(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    width = intervals_of([TrainedRun.load(run)], 0.9).labels[0].quantile
    inside = [
        abs(float(row[f"{TARGET}_prediction"]) - float(row[f"{TARGET}_label"])) <= width
        for row in table(run / "predictions_test.csv")
    ]
    fraction = f"{np.mean(inside):.1%} of {len(inside)} labels, mean width {2 * width:.4g} kcal/mol"
    assert f"test: 0.9 intervals of {TARGET} hold {fraction}" in said
    assert main(["evaluate", str(run), "--split", "validation"]) == 0
    assert "intervals" not in capsys.readouterr().out


def test_residuals_are_made_anew_for_runs_without_them(run, tmp_path, capsys):
    kept = (run / FILE).read_bytes()
    (run / FILE).unlink()
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    remedy = f"ipu-chem evaluate {run} --calibrate"
    assert f"`{remedy}`" in capsys.readouterr().err
    (tmp_path / "in.smi").write_text("CCO\n")
    command = ["predict", str(run), str(tmp_path / "in.smi"), "--output", str(tmp_path / "o.csv"), "--interval", "0.8"]
    for content in (None, b"broken", kept[:-100]):
        if content is not None:
            (run / FILE).write_bytes(content)
        assert main(command) == 1
        error = capsys.readouterr().err
        assert f"`{remedy}` makes them anew" in error and not (tmp_path / "o.csv").exists()
    assert main(remedy.split()[1:]) == 0 and main(command) == 0
    (run / "again").mkdir()
    (run / "again" / FILE).write_bytes(kept)
    np.testing.assert_array_equal(
        read_residuals(run).outputs[LABELS].values, read_residuals(run / "again").outputs[LABELS].values
    )


def test_residuals_of_another_checkpoint_are_refused(run, options, tmp_path):
    options["training"].update(seed=5, epochs=1)
    train(from_dict({**options, "out": str(tmp_path / "other")}))
    (run / FILE).write_bytes((tmp_path / "other" / FILE).read_bytes())
    with pytest.raises(ValueError, match="residuals of another checkpoint than its best; `ipu-chem evaluate .* --cal"):
        intervals_of([TrainedRun.load(run)], 0.8)
    calibrate(TrainedRun.load(run))
    assert intervals_of([TrainedRun.load(run)], 0.8).labels[0].count == 10


def test_a_run_without_validation_has_no_intervals(options):
    options["data"]["validation"] = 0
    train(from_dict(options))
    run = TrainedRun.load(options["out"])
    assert not (run.folder / FILE).exists()
    for ask in (lambda: intervals_of([run], 0.9), lambda: calibrate(run)):
        with pytest.raises(ValueError, match="without a validation split.*train a run with --data.validation 0.1"):
            ask()


def test_too_few_molecules_say_how_many_suffice(run):
    with pytest.raises(ValueError, match=rf"{TARGET}: intervals of 0.95 need 19 molecules.*10 of it.*0.909 or less"):
        intervals_of([TrainedRun.load(run)], 0.95)


def test_runs_of_other_splits_have_no_intervals_together(run, options, tmp_path):
    options["data"]["split_seed"] = 3
    train(from_dict({**options, "out": str(tmp_path / "other")}))
    members = [TrainedRun.load(one) for one in (run, tmp_path / "other")]
    for ask in (lambda: intervals_of(members, 0.8), lambda: measure(members, "test")):
        with pytest.raises(ValueError, match="not the same molecules with the same splits.*another --training.seed"):
            ask()


def test_runs_that_cannot_be_measured_together_are_refused_once(run, options, tmp_path, capsys):
    options["data"]["split_seed"] = 3
    train(from_dict({**options, "out": str(tmp_path / "other")}))
    capsys.readouterr()
    assert main(["evaluate", str(run), str(tmp_path / "other")]) == 1
    said = capsys.readouterr().err
    assert said.count("not the same molecules") == 1 and said.startswith("ipu-chem: ")


def test_classes_and_language_models_are_refused(text_options, tmp_path):
    rows = "".join(f"{one},{int('N' in one)}\n" for one in CHAINS)
    (tmp_path / "classes.csv").write_text("smiles,nitrogen\n" + rows)
    data = {"path": str(tmp_path / "classes.csv"), "target": "nitrogen", "kind": "binary", "validation": 24}
    train(from_dict({**text_options, "data": {**text_options["data"], **data}}))
    run = TrainedRun.load(text_options["out"])
    assert not (run.folder / FILE).exists()
    for ask in (lambda: intervals_of([run], 0.9), lambda: calibrate(run)):
        with pytest.raises(ValueError, match=r"learned classes \(nitrogen\).*leave --interval and --calibrate out"):
            ask()
    assert main(["evaluate", text_options["out"]]) == 0
    text_options["out"] = str(tmp_path / "language")
    train(from_dict(text_options))
    assert main(["evaluate", text_options["out"]]) == 0
    with pytest.raises(ValueError, match="learned no labels"):
        intervals_of([TrainedRun.load(text_options["out"])], 0.9)


def test_text_with_labels_has_intervals(text_run, tmp_path):
    run = text_run(target="size")
    (tmp_path / "in.smi").write_text("CCO\nCCCN\n")
    predict_file(run, tmp_path / "in.smi", tmp_path / "out.csv", workers=1, interval=0.8)
    for row in table(tmp_path / "out.csv"):
        assert float(row["size_low"]) < float(row["size"]) < float(row["size_high"])


@pytest.fixture
def frames(tmp_path):
    """Options of a run on energies and forces of 60 frames of water in springs."""
    rng = np.random.default_rng(0)
    rest = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    moved = rng.normal(0, 0.05, (60, 3, 3))
    energies, forces = 20.0 * np.square(moved).sum((1, 2)), -40.0 * moved
    lines = []
    for pos, energy, force in zip(rest + moved, energies, forces):
        lines += ["3", f"Properties=species:S:1:pos:R:3:forces:R:3 energy={energy:.8f}"]
        lines += [" ".join([one, *(f"{x:.8f}" for x in (*p, *f))]) for one, p, f in zip("OHH", pos, force)]
    (tmp_path / "water.extxyz").write_text("\n".join(lines) + "\n")
    data = {"name": "file", "path": str(tmp_path / "water.extxyz"), "target": "energy", "unit": "kcal/mol"}
    return {
        "data": {**data, "cache": str(tmp_path / "cache"), "validation": 15, "test": 15},
        "force_share": 0.9,
        "model": model_values("schnet", hidden_features=8, num_filters=8, num_interactions=1, num_gaussians=8),
        "training": {"epochs": 2, "progress": False, "report": False},
        "accelerator": "cpu",
        "torch": {"threads": 1},
        "out": str(tmp_path / "forces"),
    }


def test_forces_have_intervals_in_their_unit(frames, tmp_path, capsys):
    train(from_dict(frames))
    run, ev = TrainedRun.load(frames["out"]), 0.0433641153
    intervals = intervals_of([run], 0.9)
    components = np.abs(read_residuals(run.folder).outputs["forces"].values).ravel()
    assert len(components) == 15 * 9
    # Rank ceil(16 * 0.9) = 15 of 15 molecules, each of 9 components: all of them.
    assert intervals.forces.quantile == components.max() and intervals.forces.count == 15
    predict_file(frames["out"], frames["data"]["path"], tmp_path / "out.extxyz", interval=0.9)
    from ase.io import read

    for atoms in read(tmp_path / "out.extxyz", ":"):
        assert atoms.info["energy_half_width"] == pytest.approx(intervals.labels[0].quantile * ev, rel=1e-4)
        np.testing.assert_allclose(atoms.arrays["forces_half_width"], components.max() * ev, rtol=1e-4)
    capsys.readouterr()
    assert main(["evaluate", frames["out"], "--interval", "0.8"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"0\.8 intervals of forces hold [\d.]+% of 135 components, mean width [\d.]+ kcal/mol/Å", said)


@pytest.fixture
def water(frames, tmp_path):
    """Folders of two runs on the frames, and a file with two molecules to move."""
    runs = []
    for seed in (0, 1):
        frames["training"].update(seed=seed)
        runs.append(str(tmp_path / f"seed{seed}"))
        train(from_dict({**frames, "out": runs[-1]}))
    path = tmp_path / "two.xyz"
    path.write_text("".join(f"3\n\nO 0 0 0\nH {x} 0 0\nH -0.24 0.93 0\n" for x in (0.96, 0.99)))
    return runs, str(path)


def half_widths(runs, atoms):
    """Of the energy, eV, and the forces, eV/Å, of a frame, from the spreads that it holds; and their last digit."""
    intervals, ev = intervals_of([TrainedRun.load(run) for run in runs], 0.9), 0.0433641153
    energy, force = intervals.labels[0], intervals.forces
    if len(runs) == 1:
        return energy.quantile * ev, np.full((3, 3), force.quantile * ev), 1e-8
    return (
        energy.quantile * (atoms.info["energy_std"] + energy.floor * ev),
        force.quantile * (atoms.arrays["forces_std"] + force.floor * ev),
        1e-8 * max(force.quantile, 1.0),
    )


def assert_half_widths(runs, path, count):
    from ase.io import read

    frames = read(path, ":")
    assert len(frames) == count
    for atoms in frames:
        energy, forces, digit = half_widths(runs, atoms)
        assert atoms.info["energy_half_width"] == pytest.approx(energy, rel=1e-4)
        np.testing.assert_allclose(atoms.arrays["forces_half_width"], forces, rtol=1e-4, atol=digit)
        assert ("energy_std" in atoms.info) == ("forces_std" in atoms.arrays) == (len(runs) > 1)
    return frames


@pytest.mark.parametrize("several", [False, True])
def test_frames_of_dynamics_and_relaxations_hold_half_widths(water, several, tmp_path, capsys):
    runs, structures = water
    runs = runs[: 1 + several]
    more = ["--interval", "0.9", "--output", str(tmp_path / "relaxed.extxyz")]
    main(["relax", *runs, "--structures", structures, "--steps", "3", *more])
    assert_half_widths(runs, tmp_path / "relaxed.extxyz", 2)
    main(["predict", *runs, structures, *more])
    assert_half_widths(runs, tmp_path / "relaxed.extxyz", 2)
    for copies, names in (("1", ["trajectory"]), ("2", ["copy_0", "copy_1"])):
        out = tmp_path / f"md{copies}"
        command = ["md", *runs, "--structure", structures, "--temperature", "10", "--interval", "0.9", "--stride", "2"]
        assert main([*command, "--copies", copies, "--time", "0.002", "--out", str(out)]) == 0
        assert "largest half-width of the intervals of forces, eV/Å" in capsys.readouterr().out
        assert main(["md", "--resume", str(out), "--time", "0.004"]) == 0
        capsys.readouterr()
        frames = [assert_half_widths(runs, out / f"{name}.extxyz", 5) for name in names]
        rows = [row for row in table(out / "log.csv") if row.get("copy", "0") == "0"]
        for row, atoms in zip(rows, frames[0]):
            assert float(row["energy_half_width_eV"]) == pytest.approx(atoms.info["energy_half_width"], rel=1e-6)
            largest = atoms.arrays["forces_half_width"].max()
            assert float(row["largest_force_half_width_eV_per_A"]) == pytest.approx(largest, rel=1e-4)
    if several:
        assert_ases_own_trajectory_holds_them(runs, structures, tmp_path)


def assert_ases_own_trajectory_holds_them(runs, structures, tmp_path):
    """It keeps no columns but ASE's."""
    from ase.io import read

    how = ["--time", "0.001", "--temperature", "10", "--trajectory", "traj", "--interval", "0.9"]
    assert main(["md", *runs, "--structure", structures, *how, "--out", str(tmp_path / "traj")]) == 0
    atoms = read(tmp_path / "traj" / "trajectory.traj", "-1")
    atoms.arrays["forces_std"] = atoms.info["forces_std"]
    energy, forces, _ = half_widths(runs, atoms)
    assert atoms.info["energy_half_width"] == pytest.approx(energy, rel=1e-6)
    np.testing.assert_allclose(atoms.info["forces_half_width"], forces, rtol=1e-6)


def test_dynamics_without_intervals_are_refused_before_they_begin(run, tmp_path, capsys):
    (run / FILE).unlink()
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    for command, place in (("md", "--out"), ("relax", "--output")):
        out = tmp_path / "new.extxyz"
        arguments = [
            command,
            str(run),
            "--structure",
            str(tmp_path / "water.xyz"),
            "--interval",
            "0.8",
            place,
            str(out),
        ]
        assert main(arguments) == 1 and not out.exists()
        assert f"`ipu-chem evaluate {run} --calibrate` makes them anew" in capsys.readouterr().err
    calibrate(TrainedRun.load(run))
    assert main([*arguments, "--steps", "2"]) in (0, 1)
    assert "learned no forces, so that nothing is known of their errors" in capsys.readouterr().err
    line = out.read_text().splitlines()[1]
    assert "energy_half_width=" in line and "forces_half_width" not in line


def test_forces_that_were_not_learned_have_no_intervals(run, tmp_path):
    (tmp_path / "in.smi").write_text("CCO\n")
    with pytest.raises(ValueError, match="no intervals, as it learned none; intervals of its energy go into --output"):
        predict_file(run, tmp_path / "in.smi", tmp_path / "o.extxyz", workers=1, interval=0.8)
    assert not (tmp_path / "o.extxyz").exists()


def test_selective_errors_follow_the_doubts():
    errors = np.array([5.0, 1.0, 3.0, np.nan])
    assert selective_errors(errors, np.array([3.0, 1.0, 2.0, 0.0]), (1.0, 0.67, 0.1)) == [3.0, 2.0, 1.0]
    assert np.isnan(selective_errors(np.full(2, np.nan), np.ones(2), (1.0,))).all()
