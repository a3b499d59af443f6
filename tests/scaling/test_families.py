"""Studies of several models side by side: tables, files, figure, and what does not compare."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from figure_checks import check_figure

from ipu_chem.cli import main
from ipu_chem.json_file import write_json
from ipu_chem.scaling.families import compare, family_lines, read_family
from ipu_chem.scaling.family_figure import family_figure
from ipu_chem.scaling.points import EPOCHS_HELD, STEPS_HELD, Point, write_points

TEXT, FORCES = "nats_per_heavy_atom", "mae_forces_meV_per_A"


def study(folder, name, loss=FORCES, exponent=0.26, change=lambda point: point, plan=True, **data):
    """A folder as `ipu-chem scale` leaves it, of points whose exponent over size is known."""
    points = [
        Point(n, d, d // 9, 6.0 * n * d * 40, 3600, seed, value, loss, STEPS_HELD)
        for n in (4000, 16_000, 64_000, 256_000)
        for d in (1350, 8100, 24_300)
        for seed in (0, 1)
        for value in [50 * (n / 1e4) ** -exponent * (d / 1e4) ** -0.1]
    ]
    generator = np.random.default_rng(0)
    noisy = [replace(one, loss=one.loss * math.exp(0.01 * generator.normal())) for one in points]
    folder.mkdir()
    write_points(folder / "points.json", [change(one) for one in noisy])
    if plan:
        asked = {"model": {"name": name}, "data": {"name": "rmd17", "validation": 50.0, "train": 900.0, **data}}
        write_json(folder / "plan.json", {"asked": asked, "pack": {}, "amounts": []})
    return folder


def test_families_from_the_command_line(tmp_path, capsys):
    folders = [
        study(tmp_path / "a", "chemgpt", TEXT, 0.15, limit=7),
        study(tmp_path / "b", "painn", exponent=0.3),
        study(tmp_path / "c", "schnet", exponent=0.2),
    ]
    out = tmp_path / "out"
    assert main(["scale", "--compare", *map(str, folders), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "published: 0.17 ChemGPT, 0.26 equivariant" in printed and "Frey et al." in printed
    assert (out / "families.txt").read_text() in printed
    with open(out / "families.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["family"], row["over"]) for row in rows[:2]] == [("chemgpt", "parameters"), ("chemgpt", "tokens")]
    for row, exponent in zip(rows[::2], (0.15, 0.3, 0.2)):
        assert float(row["exponent"]) == pytest.approx(exponent, abs=0.01)
        assert float(row["low"]) < float(row["exponent"]) < float(row["high"])
        assert (int(row["from"]), int(row["to"]), int(row["at"])) == (4000, 256_000, 24_300)
    assert [row["published"] for row in rows] == ["0.17", "", "0.26", "", "", ""]
    saved = json.loads((out / "families.json").read_text())
    assert len(saved["exponents"]) == 6 and len(saved["families"]) == 3 and "0.26" in saved["published"]
    assert (out / "families.png").stat().st_size > 20_000


def test_a_row_of_axes_for_every_unit(tmp_path):
    losses = {"chemgpt": TEXT, "painn": FORCES, "spookynet": FORCES}
    families = compare([study(tmp_path / name, name, loss) for name, loss in losses.items()])
    figure = family_figure(families)
    check_figure(figure)
    assert [axis.get_ylabel() for axis in figure.axes] == ["nats per heavy atom"] * 2 + ["MAE of forces (meV/Å)"] * 2
    labels = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert len(labels) == 2 and all(str(one.width.beta) in label for one, label in zip(families[1:], labels))
    assert "published 0.26" in labels[0]
    drawn = figure.axes[2].get_lines()
    assert [len(line.get_xdata()) for line in drawn] == [4, 4, 4, 4]  # points and law of two families


def test_sizes_that_diverged_are_left_out_and_named(tmp_path):
    def half(point):
        return replace(point, loss=math.inf) if point.parameters > 16_000 else point

    family = read_family(study(tmp_path / "a", "painn", change=half))
    assert (
        family.width is None and family.data is not None and {one.parameters for one in family.points} == {4000, 16_000}
    )
    other = study(tmp_path / "b", "schnet")
    text = "\n".join(family_lines([family, read_family(other)]))
    assert "painn: 12 of 24 runs diverged" in text and "painn: no exponent over N: a power law needs runs of 3" in text
    everything = study(tmp_path / "c", "chemgpt", change=lambda point: replace(point, loss=math.inf))
    with pytest.raises(ValueError, match="no points to fit"):
        compare([other, everything])


def test_a_folder_of_points_alone_goes_by_its_name(tmp_path):
    families = compare([study(tmp_path / "mine", "", plan=False), study(tmp_path / "b", "schnet")])
    assert families[0].name == "mine" and "no plan.json" in families[0].notes[0] and families[0].published is None


@pytest.mark.parametrize(
    "one, other, words",
    [
        ({}, {"name": "painn"}, "are both of painn; give one study of each model"),
        ({}, {"change": lambda p: replace(p, rule=EPOCHS_HELD)}, "different rules .* train one of them by the rule"),
        ({}, {"validation": 100.0}, r"same loss of other molecules \(data.validation=50.0 and 100.0\)"),
        ({}, {"change": lambda p: replace(p, steps=7200)}, "take 3,600 steps and those of schnet 7,200"),
        ({}, {"change": lambda p: replace(p, seed=0)}, "seed 0 is there 2 times"),
    ],
)
def test_studies_that_do_not_compare_are_refused(tmp_path, one, other, words):
    with pytest.raises(ValueError, match=words):
        compare([study(tmp_path / "a", "painn", **one), study(tmp_path / "b", **{"name": "schnet", **other})])


def test_sizes_that_overfit_are_in_no_exponent_of_a_family_either(tmp_path):
    largest = lambda p: replace(p, loss=9 * p.loss) if p.parameters == 256_000 else p  # noqa: E731
    clean, worse = (
        read_family(study(tmp_path / name, "painn", change=change))
        for name, change in (("a", lambda p: p), ("b", largest))
    )
    assert max(point.parameters for point in worse.points) == 64_000
    assert "left out of all laws: N=256,000, D=1,350;" in worse.notes[0]
    assert worse.width.beta.value == pytest.approx(clean.width.beta.value, abs=0.02)


def test_folders_that_hold_no_study_are_refused(tmp_path, capsys):
    folder = study(tmp_path / "a", "painn")
    with pytest.raises(ValueError, match="two studies or more"):
        compare([folder])
    with pytest.raises(ValueError, match="no points.json in it; give folders of studies"):
        compare([folder, tmp_path])
    assert main(["scale", "--compare", str(folder), str(folder), "--grid", "demo_sizes"]) == 1
    assert "leave --grid and the options of a run out" in capsys.readouterr().err


def test_intervals_of_families_have_the_level_that_is_asked_for(tmp_path, capsys):
    folders = [str(study(tmp_path / name, name)) for name in ("painn", "schnet")]
    words = ["scale", "--compare", *folders, "--out", str(tmp_path / "out")]
    widths = []
    for level in ("0.5", "0.95"):
        assert main([*words, "--level", level]) == 0
        assert f"intervals of {100 * float(level):g}%" in capsys.readouterr().out
        rows = json.loads((tmp_path / "out" / "families.json").read_text())["exponents"]
        widths.append([row["high"] - row["low"] for row in rows])
    assert all(narrow < 0.6 * wide for narrow, wide in zip(*widths))


def test_options_that_do_nothing_beside_compare_are_named(tmp_path, capsys):
    folders = [str(study(tmp_path / name, name)) for name in ("painn", "schnet")]
    assert main(["scale", "--compare", *folders, "--steps", "3600", "--plan", "true", "--metric", "mae"]) == 1
    assert "trains nothing: leave --steps, --metric, --plan out" in capsys.readouterr().err
