"""Layouts as text: a table that adds up, and YAML that gives the same layout when it is read again."""

from typing import Any, Dict

import pytest
import yaml

from backends.poptorch.workloads import SCHNET, chemgpt_workload, graph_config, graph_workload
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.layout import Layout, Refusal, advice, blocks_text, complaint
from ipu_chem.backends.poptorch.machine import machines
from ipu_chem.backends.poptorch.memory import KINDS
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.planner import HALF, Workload, check_layout, plan
from ipu_chem.backends.poptorch.stages import Stage
from ipu_chem.backends.poptorch.table import memory_table, summary, to_options, to_yaml
from ipu_chem.config import from_dict

LARGE = "chemgpt-1.2b"


def reread(task: Workload, text: str) -> Layout:
    """The layout that a run with these lines in its configuration has."""
    config = from_dict(yaml.safe_load(text))
    assert config.accelerator == "ipu"
    return check_layout(task, config.batching, config.ipu, config.precision)


@pytest.mark.parametrize(
    "ipus, precision, options",
    [
        (16, HALF, {}),
        (64, HALF, dict(merge_all_reduce=True, prefetch_depth=4, executable_cache="programs: a #b", seed=7)),
    ],
)
def test_yaml_gives_the_layout_of_a_pipeline_again(ipus: int, precision: Precision, options: Dict[str, Any]) -> None:
    task = chemgpt_workload(LARGE)
    layout = plan(task, ipus, precision, IpuOptions(**options))
    text = to_yaml(layout)
    assert reread(task, text) == layout
    assert "layers_per_ipu: [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]" in text.replace("\n", " ")
    assert "  weights: float16\n" in text and "  optimizer_state_offchip: true\n" in text
    assert all(line == line.rstrip() for line in text.split("\n"))


def test_yaml_gives_the_layout_of_one_ipu_again() -> None:
    task = graph_workload(graph_config("schnet", Batching(2, 8), **SCHNET))
    layout = plan(task, 4)
    assert reread(task, to_yaml(layout)) == layout
    assert to_options(layout) == {
        "accelerator": "ipu",
        "batching": {
            "micro_batch_size": 4,
            "gradient_accumulation": 1,
            "replication_factor": 4,
            "device_iterations": 1,
        },
    }, "defaults are left out"


def test_yaml_of_an_alternative_fits() -> None:
    task = chemgpt_workload(LARGE)
    with pytest.raises(Refusal) as caught:
        plan(task, 4, Precision())
    alternative = caught.value.alternative
    assert alternative is not None and reread(task, to_yaml(alternative)) == alternative


def test_table_has_a_line_for_every_ipu_and_adds_up() -> None:
    layout = plan(chemgpt_workload(LARGE), 16, HALF)
    header, *lines = memory_table(layout).split("\n")
    assert header.split() == ["ipu", "stage", "blocks", "parameters", *KINDS, "total", "full"]
    assert len(lines) == 16 and len({len(line) for line in [header, *lines]}) == 1, "columns stand below each other"
    assert lines[0].split()[:5] == ["0", "0+16", "embedding..layers.0", "|", "head"]
    for line, ipu in zip(lines, layout.memory):
        *parts, total = [float(word.replace(",", "")) for word in line.split()[-len(KINDS) - 2 : -1]]
        assert total == pytest.approx(sum(parts), abs=0.5) and total == pytest.approx(ipu.total / 2**20, abs=0.1)
        assert line.endswith(f"{ipu.fraction:.0%}") and f"{ipu.parameters:,}" in line
    parameters = sum(ipu.parameters for ipu in layout.memory)
    assert parameters == sum(parameter.numel() for parameter in chemgpt_workload(LARGE).model.parameters())


def test_summary_counts_packs_and_the_pipelines_bubbles() -> None:
    first, second, third = summary(plan(chemgpt_workload(LARGE), 64, HALF)).split("\n")
    assert first == (
        "64 IPUs: 16 machines of a POD64: 4 replicas of 16 IPUs, micro-batches of 2, float16 weights, recomputation, "
        "optimizer state in streaming memory, sharded over the replicas"
    )
    assert second == "512 packs in an optimizer step: 2 in a micro-batch x 64 accumulated x 4 replicas"
    # 64 micro-batches through 17 stages take as long as 80 through one.
    assert third == "17 stages need an accumulation of 33 or more; with 64 the pipeline is full 80% of the time"


def test_summary_of_a_tight_layout_says_so() -> None:
    task = chemgpt_workload("chemgpt-19m")
    layout = check_layout(task, Batching(3), IpuOptions())
    assert layout.is_tight and summary(layout).split("\n")[-1].startswith(
        f"tight: IPU 0 is full to {layout.fullest.fraction:.0%}"
    )
    assert "tight" not in summary(check_layout(task, Batching(1), IpuOptions()))


def test_a_complaint_names_the_fullest_stage() -> None:
    task = chemgpt_workload("chemgpt-19m")
    with pytest.raises(Refusal) as caught:
        check_layout(task, Batching(16), IpuOptions())
    layout = caught.value.layout
    assert not layout.fits and not layout.is_tight
    text = complaint(layout)
    assert "stage 0 (embedding..head) on the IPU needs" in text and "most of it activations (" in text
    assert advice(None).startswith("Nothing up to 256 IPUs fits: use a smaller model")


def test_blocks_of_a_stage() -> None:
    assert blocks_text(Stage(0, ("a", "b", "c"))) == "a..c" and blocks_text(Stage(0, ("a",))) == "a"
    assert blocks_text(Stage(0, ("",))) == "the whole model"


@pytest.mark.parametrize(
    "ipus, text",
    [
        (1, "1 IPU"),
        (2, "2 IPUs: 1 machine of a POD4"),
        (16, "16 IPUs: 4 machines of a POD16"),
        (32, "32 IPUs: 8 machines of a POD64"),
        (128, "128 IPUs: 32 machines"),
    ],
)
def test_machines(ipus: int, text: str) -> None:
    assert machines(ipus) == text
