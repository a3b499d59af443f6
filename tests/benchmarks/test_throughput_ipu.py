"""The same program under PopTorch: through the whole backend and PopTorch's double, in one process and in two."""

import re
import shlex

import pytest
from poptorch_helpers import installed_double, poprun_variables, started_by_poprun

from benchmarks import poprun, throughput

SCHNET = "--calls 2 --hidden_features 8 --num_filters 8 --num_interactions 1 --batching.micro_batch_size 2"
CHEMGPT = "--calls 2 --model chemgpt-4.7m --layers 4 --tokens 128"
CALL = "--batching.gradient_accumulation 2 --batching.replication_factor 2 --batching.device_iterations 2"
HALF = "--precision.weights float16 --precision.partials float16 --precision.loss_scaling 256"
PIPELINE = "--batching.gradient_accumulation 5 --ipu.ipus_per_replica 2 --ipu.layers_per_ipu [1,3] --ipu.recompute true"


def measure(accelerator, words):
    return throughput.measure(throughput.read(["--accelerator", accelerator, *words.split()]))


@pytest.fixture
def double():
    with installed_double() as poptorch:
        yield poptorch


@pytest.mark.parametrize(
    "words, tolerance",
    [
        (f"{SCHNET} {CALL} --ipu.merge_all_reduce true --ipu.prefetch_depth 4", 1e-5),
        (f"{SCHNET} {CALL} --layout padded --edges device --prefetch 0", 1e-5),
        (f"{SCHNET} {CALL} --edges device --ipu.io_tiles 32", 1e-5),
        (
            f"{CHEMGPT} {PIPELINE} --ipu.optimizer_state_offchip true --ipu.available_memory_proportion [0.15,0.15]",
            1e-5,
        ),
        (f"{CHEMGPT} {HALF} --layout padded --batching.micro_batch_size 2".replace("layers 4", "layers 1"), 5e-2),
    ],
    ids="packed padded overlapped pipeline half".split(),
)
def test_it_trains_as_on_a_cpu(double, words, tolerance):
    on_ipu, on_cpu = measure("ipu", words), measure("cpu", words)
    assert on_ipu["loss"] == pytest.approx(on_cpu["loss"], rel=tolerance)
    assert on_ipu["throughput"] > 0 and 0 <= on_ipu["host"] < 1
    assert (on_ipu["tokens"] > 0) == ("chemgpt" in words)


def test_the_header_names_poptorch_and_the_device(double, capsys):
    assert throughput.main(["--accelerator", "ipu", *SCHNET.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"poptorch {double.__version__} | float32 | generated qm9, packed" in lines[0] and "on ipu;" in lines[1]
    assert re.fullmatch(r"throughput: [\d.]+ samples/sec", lines[-1])


def test_data_made_on_the_device_mean_nothing_but_speed(double, capsys):
    assert throughput.main(["--accelerator", "ipu", "--ipu.synthetic_data", "true", *SCHNET.split()]) == 0
    assert "throughput: " in capsys.readouterr().out


def test_compiling_alone_measures_nothing(double, tmp_path, capsys):
    words = f"--accelerator ipu --ipu.offline 2 --ipu.executable_cache {tmp_path} {SCHNET}"
    assert throughput.main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "compiled in" in printed and "throughput:" not in printed


def test_a_pipeline_that_is_not_filled_is_refused(double, capsys):
    words = f"{CHEMGPT} {PIPELINE}".replace("accumulation 5", "accumulation 4")
    assert throughput.main(["--accelerator", "ipu", *words.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a pipeline of 3 stages needs 5 or more micro-batches a step" in line


def test_two_processes_count_the_samples_of_both_and_one_prints(tmp_path):
    program = f"python -m benchmarks.throughput --accelerator ipu --prefetch 0 --batching.replication_factor 4 {SCHNET}"
    words = f"poprun --num-instances 2 --num-replicas 4 --ipus-per-replica 1 {program}"
    program = list(poprun.parse(shlex.split(words)).program)[1:]
    processes = started_by_poprun(program, 2, 2, tmp_path / "meeting")
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "replication_factor=4" in outputs[0] and "throughput: " in outputs[0]
    assert not re.search("throughput|loss|packs|model", outputs[1])
    # The slowest and the fastest call bound the rate of the two timed calls, in which all packs of both take part.
    rate = float(re.search(r"throughput: ([\d.]+) samples/sec", outputs[0]).group(1))
    fastest, slowest = map(float, re.search(r"calls: ([\d.]+) to ([\d.]+) s", outputs[0]).groups())
    samples = int(re.search(r"packs: (\d+) items", outputs[0]).group(1))
    assert samples / (slowest + 1e-4) <= rate <= samples / (fastest - 1e-4)


def test_poprun_and_the_program_must_agree(double, monkeypatch, capsys):
    for name, value in poprun_variables(0, 2, 2).items():
        monkeypatch.setenv(name, value)
    assert throughput.main(["--accelerator", "ipu", *SCHNET.split(), "--batching.replication_factor", "8"]) == 1
    assert "give poprun --num-replicas 8" in capsys.readouterr().err
