"""What doctor says about speed: device, link and this host's loader, with intervals, never as if it were measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import yaml
from support import example_loss, example_model, example_packs

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.planner import Workload, check_layout, plan
from ipu_chem.backends.poptorch.timing.span import Span
from ipu_chem.cli import main
from ipu_chem.commands.recipes import recipes
from ipu_chem.config import RunConfig, from_dict
from ipu_chem.doctor.diagnosis import print_plan
from ipu_chem.doctor.host_rate import HostRate, example_loader, host_rate, measure
from ipu_chem.doctor.speed import PREDICTED, check_link, predict_speed, speed_text
from ipu_chem.tasks.registry import task_of

RECIPES = Path(__file__).resolve().parents[2] / "ipu_chem" / "recipes"


def recipe(name: str) -> RunConfig:
    return from_dict(yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))


def planned(config: RunConfig) -> Any:
    return task_of(config).planned(config)


def workload(config: RunConfig) -> Workload:
    return Workload(example_model(config, "meta"), example_loss(config), example_packs(config, 1), config.optimizer, 8)


@pytest.mark.parametrize("name", recipes())
def test_the_loader_makes_what_the_program_is_compiled_for(name: str) -> None:
    config = recipe(name)
    loader = example_loader(planned(config))
    batch, molecules = next(loader.epoch(0, 0))
    example = example_packs(config, len(batch[0]))
    assert type(batch).__name__ == type(example).__name__ and batch._fields == example._fields
    for field, one, other in zip(batch._fields, batch, example):
        assert one.shape == other.shape and one.dtype == other.dtype, field
    assert molecules > 0 and loader.plan.num_packs >= loader.batching.packs_per_call
    host = host_rate(planned(config), 0)
    size = sum(one.numel() * min(one.element_size(), 4) for one in example) / len(batch[0])
    assert host.bytes_per_pack == int(size) and host.molecules is None
    assert host.molecules_per_pack == pytest.approx(len(loader.plan.items) / loader.plan.num_packs)


def test_packs_are_full_of_molecules_of_the_size_that_was_said() -> None:
    for atoms in (9.0, 18.0, 63.0):
        host = host_rate(planned(recipe("qm9_u0")), 0, atoms)
        assert host.units_per_pack / host.molecules_per_pack == pytest.approx(atoms, rel=0.05)
        room = min(128, 16 * atoms)  # 16 molecules at most
        assert 0.65 * room < host.units_per_pack <= 128


def test_a_loader_is_measured_as_it_is() -> None:
    span = measure(example_loader(planned(recipe("qm9_u0"))), 0.3)
    assert 0 < span.least <= span.likely <= span.most
    few = measure(example_loader(planned(replace(recipe("qm9_u0"), batching=Batching(2)))), 0.02)
    assert few.least == few.likely == few.most, "one piece when there is no time for more"


def test_large_calls_are_measured_in_smaller_ones() -> None:
    config = replace(recipe("qm9_u0"), batching=Batching(8, 64, 64, 4))
    loader = example_loader(planned(config))
    assert loader.batching.packs_per_call == 8 and loader.plan.num_packs <= 2_200


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 1e9])
def test_seconds_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="loader_seconds=.*: give 0, which measures nothing"):
        host_rate(planned(recipe("qm9_u0")), seconds)


@pytest.mark.parametrize("atoms", [0.0, 129.0, float("nan"), float("inf")])
def test_molecules_that_fit_no_pack_are_refused(atoms: float) -> None:
    with pytest.raises(ValueError, match="from 1 to the 128 of a pack"):
        host_rate(planned(recipe("qm9_u0")), 0, atoms)


def speed_of(molecules: Any = None, link: Any = None, **batching: int) -> Any:
    config = replace(recipe("qm9_u0_pod16"), batching=Batching(2, 4, 16, 4))
    task = workload(config)
    layout = check_layout(task, replace(config.batching, **batching), config.ipu)
    return predict_speed(task, layout, HostRate(7.0, 126.0, 3_000, molecules), link), layout


def test_the_slowest_part_is_the_tightest() -> None:
    speed, _ = speed_of()
    assert set(speed.molecules) == {"device", "host link"} and speed.tightest == "device"
    slow, fast = Span(1e3, 2e3, 3e3), Span(1e9, 1e9, 1e9)
    assert speed_of(slow)[0].tightest == "this host's loader" and speed_of(fast)[0].tightest == "device"
    assert speed_of(fast, link=1e-3)[0].tightest == "host link"
    device = speed.molecules["device"]
    assert device.likely == pytest.approx(512 * 7.0 / speed.call.seconds.likely)
    assert device.least < device.likely < device.most


def test_a_link_carries_its_gigabytes() -> None:
    known = speed_of(link=2.0)[0].molecules["host link"]
    assert known.most == known.likely == pytest.approx(2e9 * 7 / 3_000) and known.least == pytest.approx(known.most / 2)
    unknown = speed_of()[0].molecules["host link"]
    assert unknown.least == pytest.approx(1e9 * 7 / 3_000) and unknown.most == pytest.approx(12.5e9 * 7 / 3_000)


@pytest.mark.parametrize("link", [0.0, -1.0, float("nan"), float("inf")])
def test_a_link_without_a_speed_is_refused(link: float) -> None:
    with pytest.raises(ValueError, match="link=.*: give the GB/s that the host sends to the IPUs, above 0"):
        check_link(link)


def test_text_says_what_is_predicted_and_what_nobody_knows() -> None:
    speed, layout = speed_of(Span(2e5, 3e5, 4e5))
    text = speed_text(speed, layout, "atoms")
    first, header, *rows = text.split("\n")
    assert first == f"speed on Bow IPUs, {PREDICTED}; each part by itself:"
    assert header.split() == ["molecules/s", "from", "to", "atoms/s"]
    assert rows[2].split() == ["this", "host's", "loader", "300,000", "200,000", "400,000", "5,400,000"]
    assert [row.split()[0] for row in rows[:2]] == ["device", "host"]
    assert "tightest: the device\n" in text and "measured here, on made-up molecules" in text
    assert "18 atoms in a molecule, 7.0 molecules in a pack, 3,000 bytes of a pack" in text
    assert "SchNet blocks as measured on Bow" in text and "not known before there is a device: which layouts" in text
    assert "merge_all_reduce" not in text
    apart = layout._replace(options=replace(layout.options, merge_all_reduce=False))
    task = workload(recipe("qm9_u0_pod16"))
    unmerged = speed_text(predict_speed(task, apart, speed.host._replace(molecules=None)), apart, "atoms")
    assert "; ipu.merge_all_reduce=true would save " in unmerged and "loader was not measured" in unmerged
    small, _ = speed_of(gradient_accumulation=1, device_iterations=1)
    assert "more of batching.device_iterations (1) spread the host's part" in speed_text(small, _, "atoms")


def output_of(capsys: Any, *words: str) -> str:
    assert main(["doctor", *words]) == 0
    return capsys.readouterr().out


def rates(output: str) -> Dict[str, List[float]]:
    """Figures of each part."""
    lines = output.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("speed on Bow IPUs")) + 2
    found = {}
    for line in lines[start:]:
        if line.startswith("tightest"):
            return found
        words = line.split()
        found[" ".join(words[:-4])] = [float(word.replace(",", "")) for word in words[-4:]]
    raise AssertionError(output)


def test_doctor_measures_this_host_and_predicts_the_rest(capsys: Any) -> None:
    output = output_of(capsys, "--config", "qm9_u0_pod16", "--loader_seconds", "0.2")
    found = rates(output)
    assert set(found) == {"device", "host link", "this host's loader"}
    for likely, least, most, atoms in found.values():
        assert 0 < least <= likely <= most and atoms == pytest.approx(18 * likely, rel=0.02)
    tightest = min(found, key=lambda part: found[part][0])
    assert f"tightest: {'' if 'loader' in tightest else 'the '}{tightest}\n" in output
    # The study's SchNet of 100 features and 4 blocks: 419,116 graphs/s; this has 128 and 6, plain softplus, pairs.
    assert 150_000 < found["device"][0] < 419_116


def test_more_ipus_are_faster_and_larger_molecules_slower(capsys: Any) -> None:
    def device(*words: str) -> float:
        return rates(output_of(capsys, "--config", "qm9_u0_pod16", "--loader_seconds", "0", *words))["device"][0]

    four, all_of_them = device("--ipus", "4"), device()
    assert four < all_of_them < 4 * four
    assert device("--atoms", "36") == pytest.approx(all_of_them / 2, rel=0.1)


def test_text_is_counted_in_tokens(capsys: Any) -> None:
    output = output_of(capsys, "--config", "chemgpt_demo", "--ipus", "1", "--loader_seconds", "0")
    assert "tokens/s" in output and "within a factor of 3" in output
    likely, least, most, tokens = rates(output)["device"]
    assert 1.3 < most / least and tokens == pytest.approx(40 * likely, rel=0.1)


def test_one_gigabyte_is_told_apart_from_ten(capsys: Any) -> None:
    words = ("--config", "qm9_u0", "--ipus", "1", "--loader_seconds", "0", "--link")
    slow, fast = (rates(output_of(capsys, *words, link))["host link"][0] for link in ("1", "10"))
    assert fast == pytest.approx(10 * slow, rel=0.01)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--link", "0"], "link=0: give the GB/s"),
        (["--link", "-3"], "link=-3: give the GB/s"),
        (["--atoms", "500"], "atoms=500: give the atoms of a molecule on average, from 1 to the 128 of a pack"),
        (["--loader_seconds", "-1"], "loader_seconds=-1: give 0, which measures nothing"),
    ],
)
def test_wrong_words_are_told_in_one_line(words: List[str], message: str, capsys: Any) -> None:
    assert main(["doctor", "--config", "qm9_u0", *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_words_without_a_purpose_are_refused(capsys: Any) -> None:
    for words in (["--atoms", "9"], ["--link", "5"]):
        assert main(["doctor", *words]) == 1
        assert "name it with --config" in capsys.readouterr().err
    assert main(["doctor", "--config", "chemgpt_demo", "--atoms", "9"]) == 1
    assert "atoms=9: this model reads text, in sequences of its own; leave it out." in capsys.readouterr().err


def test_a_layout_that_does_not_fit_has_no_speed(capsys: Any) -> None:
    config = recipe("qm9_u0")
    config = replace(config, accelerator="ipu", batching=Batching(512))
    assert print_plan(config, loader_seconds=0) == 1
    output = capsys.readouterr().out
    assert "refused: " in output and "speed" not in output
    assert np.isfinite(plan(workload(config), 1).fullest.fraction)
