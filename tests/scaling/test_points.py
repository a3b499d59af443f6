"""Points of a scaling study: files, and what does not make one fit."""

import json
import math
from dataclasses import replace

import pytest

from ipu_chem.config import from_dict, to_dict
from ipu_chem.scaling.broken_law import fit_broken
from ipu_chem.scaling.frontier import frontier_of
from ipu_chem.scaling.joint_law import fit_joint
from ipu_chem.scaling.points import STEPS_HELD, Point, check_comparable, config_hash, read_points, write_points
from ipu_chem.scaling.power_law import fit_power_law
from ipu_chem.scaling.study_report import analyze

RULE = "converged: no better in 5 evaluations"


def study(sizes=(1000, 4000, 16000), data=(10000,), seeds=(0, 1), rule=RULE, loss_name="nats_per_token"):
    """Points whose loss follows N alone."""
    return [
        Point(n, d, d // 40, 6.0 * n * d, 500, seed, 9 * n**-0.2 * (1 + seed / 1000), loss_name, rule, "v1", f"{n}-{d}")
        for n in sizes
        for d in data
        for seed in seeds
    ]


def test_files_keep_everything(tmp_path):
    points = study()
    points[1] = replace(points[1], loss=math.inf)
    write_points(tmp_path / "points.json", points)
    assert read_points(tmp_path / "points.json") == points
    assert "Infinity" not in (tmp_path / "points.json").read_text()


@pytest.mark.parametrize(
    "text, words",
    [
        ("no json", "holds no points"),
        ("[]", "holds no points"),
        ('{"points": [{"parameters": 3}]}', "point 1: .*missing"),
        ('{"points": [{"params": 3}]}', "point 1: unknown params"),
        ('{"points": null}', "holds no points"),
        ('{"points": [3]}', "point 1: 3 is no object of fields"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_points(tmp_path / "points.json")


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("rule", 3, "rule=3: give a text"),
        ("loss_name", None, "loss_name=None: give a text"),
        ("tokens", math.inf, "tokens=inf: give a whole number"),
        ("seed", 0.5, "seed=0.5: give a whole number"),
        ("steps", True, "steps=True: give a whole number"),
        ("flops", math.nan, "flops=nan: give a number"),
        ("flops", math.inf, "flops=inf: give a number"),
        ("loss", "low", "loss='low': give a number, or null of a run that diverged"),
    ],
)
def test_values_that_were_changed_by_hand_are_refused_by_name(tmp_path, name, value, words):
    path = tmp_path / "points.json"
    write_points(path, study())
    saved = json.loads(path.read_text())
    saved["points"][2][name] = value
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=f"points.json, point 3: {words}"):
        read_points(path)


def test_a_point_says_how_its_training_ended():
    with pytest.raises(ValueError, match="its rule is ''"):
        replace(study()[0], rule="")
    with pytest.raises(ValueError, match="its rule is 'converged: '"):
        replace(study()[0], rule="converged: ")
    with pytest.raises(ValueError, match="above 0"):
        replace(study()[0], flops=0)


def test_hash_of_a_config_leaves_out_seed_and_folder():
    config = to_dict(from_dict({"training": {"seed": 1}, "out": "a"}))
    assert config_hash(config) == config_hash(to_dict(from_dict({"training": {"seed": 2}, "out": "b"})))
    assert config_hash(config) != config_hash(to_dict(from_dict({"training": {"seed": 1, "epochs": 3}, "out": "a"})))


def changed(points, index, **values):
    return [*points[:index], replace(points[index], **values), *points[index + 1 :]]


@pytest.mark.parametrize(
    "points, words",
    [
        ([], "no points"),
        (changed(study(), 0, loss=math.nan), "N=1,000, D=10,000 tokens, seed 0 diverged .* lower learning rate"),
        (changed(study(), 0, loss_name="nats_per_heavy_atom"), "losses of two kinds"),
        (changed(study(), 0, tokenizer="v2"), "use nats_per_heavy_atom"),
        (changed(study(), 0, rule="converged: by eye"), "different rules .* train all by one of them"),
        (changed(study(rule=STEPS_HELD), 0, steps=400), "have 400 and 500: train all for as many"),
        ([*study(), study()[0]], "N=1,000, D=10,000, seed 0 is there 2 times"),
        (study()[1:], "N=1,000, D=10,000 lacks seed 0"),
    ],
)
def test_points_that_do_not_compare_are_refused_by_every_law(points, words):
    for law in (check_comparable, fit_power_law, fit_joint, fit_broken):
        with pytest.raises(ValueError, match=words):
            law(points)


def test_points_that_do_compare():
    check_comparable(study(rule=STEPS_HELD))
    # Natural units do not depend on the tokenizer.
    check_comparable(changed(study(loss_name="nats_per_heavy_atom"), 0, tokenizer="v2"))
    # Steps may differ when convergence is the rule.
    check_comparable(changed(study(), 0, steps=400))


@pytest.mark.parametrize("loss", [0.0, -0.3])
def test_losses_without_a_logarithm_are_refused(loss):
    with pytest.raises(ValueError, match=f"has a loss of {loss:g}, and laws are of losses above 0: choose an error"):
        check_comparable(changed(study(), 0, loss=loss))
    found = analyze(changed(study(), 0, loss=loss))
    assert len(found.notes) == 1 and found.notes[0].startswith("no law: ") and found.width is None


def test_loss_over_size_needs_the_same_data():
    mixed = study(sizes=(1000, 4000, 16000, 64000), data=(10000, 20000))
    with pytest.raises(ValueError, match="same tokens, and these have 10,000 and 20,000"):
        fit_power_law(mixed)
    with pytest.raises(ValueError, match="same parameters"):
        fit_power_law(mixed, over="molecules")
    with pytest.raises(ValueError, match="over='size'"):
        fit_power_law(study(), over="size")
    with pytest.raises(ValueError, match="data='atoms'"):
        fit_joint(study(), data="atoms")


def test_too_few_points_say_how_many_are_missing():
    with pytest.raises(ValueError, match="3 sizes and there are 2: train 1 more"):
        fit_power_law(study(sizes=(1000, 2000)))
    with pytest.raises(ValueError, match="6 sizes and there are 3: train 3 more"):
        fit_broken(study())
    with pytest.raises(ValueError, match="3 sizes, 3 amounts of data and 6 pairs .* there are 3, 1 and 3"):
        fit_joint(study())


def test_frontier_takes_any_rule_and_one_loss():
    points = changed(study(), 0, rule="converged: by eye")
    assert [point.parameters for point in frontier_of(points)] == [1000, 4000, 16000]
    assert {point.seed for point in frontier_of(points)} == {0}
    with pytest.raises(ValueError, match="heavy_atom"):
        frontier_of(changed(study(), 0, tokenizer="v2"))
