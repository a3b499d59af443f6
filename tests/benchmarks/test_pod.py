"""Benchmarks of an IPU-POD: the list as it ships, what is refused before anything runs, and a real run on a CPU."""

import csv
import json
import re
import shlex
import subprocess
import textwrap
from collections import defaultdict
from dataclasses import asdict
from functools import lru_cache
from itertools import product

import pytest
import yaml

from benchmarks import pod, poprun, throughput
from benchmarks.common import throughput_line

VARIANTS = pod.load()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No machine is described by the environment of whoever runs the tests."""
    for name in pod._SITE:
        monkeypatch.delenv(name, raising=False)


@lru_cache(maxsize=None)
def settings_of(name):
    words = pod.check(next(variant for variant in VARIANTS if variant.name == name), {})
    return throughput.read(poprun.parse(words).program[3:] if words[0] == "poprun" else words[3:])


def spec(tmp_path, text):
    path = tmp_path / "spec.yml"
    path.write_text(textwrap.dedent(text))
    return path


def test_pods_models_and_data_are_all_there():
    benchmarks = {variant.benchmark for variant in VARIANTS}
    for pod_size in (4, 16, 64):
        for start in ("schnet_qm9_train_gen", "schnet_qm9_train_real", "schnet_hydronet_train_gen"):
            assert f"{start}_pod{pod_size}" in benchmarks
        assert f"schnet_hydronet_train_real_pod{pod_size}" in benchmarks
        assert f"chemgpt_train_gen_pod{pod_size}" in benchmarks
    assert {"chemgpt_1_2b_train_gen_pod16", "chemgpt_1_2b_train_gen_pod64", "schnet_qm9_train_gen_cpu"} <= benchmarks
    layouts = defaultdict(set)
    for variant in VARIANTS:
        layouts[variant.benchmark].add(settings_of(variant.name).layout)
    assert set(map(frozenset, layouts.values())) == {frozenset({"packed", "padded"})}
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_the_file_has_the_form_of_graphcores_examples():
    entries = yaml.safe_load(pod.SPEC.read_text(encoding="utf-8"))
    known = {"data", "output", "env", "description", "cmd", "parameters"}
    for name, entry in entries.items():
        assert set(entry) <= known, name
        if "cmd" in entry:
            assert entry["data"]["throughput"]["regexp"] == r"throughput: *(.*?) samples\/sec"
            assert entry["output"][0] == ["samples/sec", "throughput"] and entry["description"].endswith(".")
            assert {metric for _, metric in entry["output"]} <= set(entry["data"])
            assert re.search(r"_(gen|real)_(cpu|pod4|pod16|pod64)$", name)
            assert ("_real_" in name) == ("--data real" in entry["cmd"])


def test_a_dry_run_prints_commands_that_poprun_takes(capsys):
    assert pod.main(["--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(VARIANTS)
    for line, variant in zip(lines, VARIANTS):
        words = shlex.split(line)
        if variant.ipus is None:
            program = words
        else:
            parsed = poprun.parse(words, variant.ipus)
            program = list(parsed.program)
            assert ("host" in parsed.options) == (variant.ipus == 64)
        assert program[:3] == ["python", "-m", "benchmarks.throughput"]
        assert set(re.findall(r"\$(\w+)", line)) <= set(pod._SITE)


def test_a_shell_puts_in_the_variables_of_a_printed_command(capsys):
    (variant,) = pod.choose(VARIANTS, ["schnet_qm9_train_real_pod64_layout_packed"])
    assert pod.main(["--run", variant.name, "--dry-run"]) == 0
    site = {name: f"the {name}" for name in pod._SITE if name != "PYTORCH_CACHE_DIR"}
    site["HOSTS"] = "a,b,c,d"
    script = f"printf '%s\\n' {capsys.readouterr().out}"
    done = subprocess.run(["/bin/sh", "-c", script], env=site, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == pod.check(variant, site)


def test_a_dry_run_of_some_names_the_hosts_it_was_given(capsys):
    hosts = ["--hosts", "pod[1-4]", "--network", "10.1.3.0/24", "--vipu-server-host", "v"]
    assert pod.main(["--run", "chemgpt_1_2b*_pod64", "schnet_qm9_train_gen_cpu", "--dry-run", *hosts]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "--layout packed" in lines[0] and lines[2].startswith("python -m benchmarks.throughput")
    parsed = poprun.parse(shlex.split(lines[0]), 64)
    assert parsed.hosts == ["pod1", "pod2", "pod3", "pod4"] and parsed.options["vipu-server-host"] == "v"
    assert "btl_tcp_if_include 10.1.3.0/24" in parsed.options["mpi-global-args"]
    assert parsed.options["vipu-partition"] == "$IPUOF_VIPU_API_PARTITION_ID"
    assert pod.main(["--run", "chemgpt_1_2b*_pod64", "--dry-run", "--hosts", "a,b,a,c"]) == 1
    assert "chemgpt_1_2b_train_gen_pod64_layout_packed: poprun: a host is named twice" in capsys.readouterr().err


def test_the_list_names_every_benchmark(capsys):
    assert pod.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(dict.fromkeys(variant.benchmark for variant in VARIANTS))
    assert sum(int(line.split()[1]) for line in lines) == len(VARIANTS)


def test_something_must_be_asked_for(capsys):
    with pytest.raises(SystemExit) as stopped:
        pod.main([])
    assert stopped.value.code == 2 and "--list, --run NAME ... or --dry-run" in capsys.readouterr().err


def test_each_row_of_the_ablation_adds_one_thing():
    rows = [settings_of(variant.name) for variant in VARIANTS if variant.benchmark.startswith("schnet_ablation")]
    steps = [
        {"layout": ("padded", "packed")},
        {"prefetch": (0, 2)},
        {"merge_all_reduce": (False, True)},
        {"prefetch_depth": (1, 4)},
        {"io_tiles": (0, 32)},
        {"edges": ("device", "host")},
    ]
    for dataset in ("qm9", "hydronet_2_7m"):
        flat = [{**asdict(row), **asdict(row.ipu)} for row in rows if row.dataset == dataset]
        for before in flat:
            before.pop("ipu")
        changed = [{key: (a[key], b[key]) for key in a if a[key] != b[key]} for a, b in zip(flat, flat[1:])]
        assert changed == steps


def test_strong_scaling_takes_the_same_packs_on_1_to_64_replicas():
    rows = [settings_of(variant.name) for variant in VARIANTS if variant.benchmark.startswith("schnet_scaling")]
    groups = defaultdict(list)
    for row in rows:
        groups[row.dataset, row.layout, row.ipu.synthetic_data].append(row.batching)
    assert len(groups) == 6
    for batchings in groups.values():
        assert [batching.replication_factor for batching in batchings] == [1, 2, 4, 8, 16, 32, 64]
        assert len({batching.packs_per_call for batching in batchings}) == 1


def test_batching_of_schnet_is_the_studys():
    for variant in VARIANTS:
        settings = settings_of(variant.name)
        if settings.is_graph_model and variant.ipus is not None:
            batching = settings.batching
            assert batching.replication_factor * batching.device_iterations == 64
            assert batching.gradient_accumulation == (2 if settings.dataset == "qm9" else 32)
            slots = batching.micro_batch_size * settings.pack_nodes
            studied = {"qm9": {16 * 36, 16 * 32}, "hydronet": {7 * 153, 14 * 96}}.get(settings.dataset, {7 * 192})
            assert slots in (studied | {7 * 96} if "ablation" in variant.name else studied)
            assert settings.neighbors == 28 and settings.cutoff == 6.0
            assert settings.edges == "device" or "edges_host" in variant.name
            assert (settings.hidden_features, settings.num_interactions, settings.num_gaussians) == (100, 4, 25)


def test_a_pod_gives_chemgpt_the_same_packs_a_step():
    steps = {
        settings_of(variant.name).batching.packs_per_step
        for variant in VARIANTS
        if variant.benchmark.startswith("chemgpt")
    }
    assert steps == {512}


PROGRAM = "python -m benchmarks.throughput --accelerator ipu"
REFUSED = {
    "replicas": (
        f"poprun --num-replicas 4 {PROGRAM} --batching.replication_factor 2",
        "poprun --num-replicas 4, but --batching.replication_factor 2; give both the same.",
    ),
    "IPUs": (f"poprun --ipus-per-replica 2 {PROGRAM}", "--ipus-per-replica 2, but --ipu.ipus_per_replica 1"),
    "CPU": ("poprun python -m benchmarks.throughput --accelerator cpu", "--accelerator is cpu, give ipu."),
    "no poprun": (PROGRAM, "a command for a pod begins with poprun."),
    "another program": ("poprun python train.py", "runs python train.py, not python -m benchmarks.throughput."),
    "too large": (
        f"poprun --num-replicas 32 {PROGRAM} --batching.replication_factor 32",
        "the partition has 16; use 16 replicas or fewer.",
    ),
    "option": (f"poprun {PROGRAM} --batching.micro_batch 2", "nrecognized arguments: --batching.micro_batch 2"),
    "settings": (f"poprun {PROGRAM} --ipu.io_tiles 31", "ipu.io_tiles=31: give 0 or an even number from 32 to 192."),
    "nothing": ('""', "runs '', not python -m benchmarks.throughput."),
}


@pytest.mark.parametrize("command, complaint", REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_is_refused_by_name(command, complaint, tmp_path, capsys):
    path = spec(tmp_path, f"bad_pod16:\n  cmd: {json.dumps(command)}\n")
    assert pod.main(["--dry-run", "--spec", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("pod: bad_pod16: ") and complaint in captured.err and not captured.out


MALFORMED = {
    "no mapping": ("- cmd: x", "a list of benchmarks is a mapping"),
    "parameter": ("a:\n  cmd: python {size}", "a: its command has {size}, its parameters do not."),
    "row": ("a:\n  cmd: x\n  parameters: [[b, c], [1]]", "a: every row of its parameters has 2 values."),
    "reduction": ("a:\n  cmd: x\n  data: {t: {regexp: (x), reduction_type: sum}}", "a: reduction_type of t is one of"),
    "regexp": ("a:\n  cmd: x\n  data: {t: {regexp: x}}", "a: regexp of t has one pair of brackets"),
}


@pytest.mark.parametrize("text, complaint", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused(text, complaint, tmp_path):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        pod.load(spec(tmp_path, text))


def test_unknown_names_and_missing_variables_stop_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "results"
    cases = [
        (["schnet_qm9_train_gen_cpu", "shcnet*"], "no benchmark is called shcnet*; python -m benchmarks.pod --list"),
        (["schnet_qm9_train_real_pod4"], "needs DATASETS_DIR, folder of real data; set it or give --datasets."),
        (["schnet_qm9_train_gen_pod64"], "needs HOSTS, hosts of the pod"),
        (["schnet_qm9_train_gen_cpu", "schnet_qm9_train_gen_pod4"], "poprun is not on the PATH"),
    ]
    for names, complaint in cases:
        assert pod.main(["--run", *names, "--out", str(out)]) == 1
        captured = capsys.readouterr()
        assert complaint in captured.err and "$" not in captured.out
    assert not list(tmp_path.iterdir())


def test_a_run_on_a_cpu_finds_its_figure_and_writes_it_down(tmp_path, capfd):
    name, out = "schnet_qm9_train_gen_cpu_layout_packed", tmp_path / "new" / "results"
    assert pod.main(["--run", name, "--out", str(out)]) == 0
    printed = capfd.readouterr().out
    (record,) = json.loads(out.with_suffix(".json").read_text())
    assert record["name"] == name and record["status"] == 0 and "benchmarks.throughput" in record["command"]
    assert throughput_line(record["throughput"], 1.0) in printed.splitlines() and record["throughput"] > 0
    assert f"loss: {record['loss']:.6f}" in printed.splitlines()
    with open(out.with_suffix(".csv"), newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == name and float(row["throughput"]) == record["throughput"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.csv", "results.json"]


def test_a_failure_is_recorded_and_decides_the_exit_status(tmp_path, capfd):
    command = f"python -m benchmarks.throughput --accelerator cpu --data real --path {tmp_path / 'nowhere'}"
    path = spec(tmp_path, f"broken:\n  cmd: {command}\n  data: {{throughput: {{regexp: 'throughput: (.*) s'}}}}\n")
    assert pod.main(["--run", "broken", "--spec", str(path), "--out", str(tmp_path / "results")]) == 1
    captured = capfd.readouterr()
    assert "broken: no throughput" in captured.out and "pod: failed: broken" in captured.err
    assert "nowhere" in captured.out  # the reason, as the program gave it
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["status"] == 1 and record["throughput"] is None


def test_results_are_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "results"
    pod.write([{"name": "a", "throughput": 1.0}, {"name": "b", "loss": 2.0}], out)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert before["results.csv"] == "name,throughput,loss\na,1.0,\nb,,2.0\n"
    with pytest.raises(TypeError):
        pod.write([{"name": "a"}, {"name": object()}], out)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_figures_are_found_and_reduced():
    output = "throughput: 10.0 samples/sec\nthroughput: 1,020.5 samples/sec\nthroughput: 3throughput: 4 samples/sec\n"
    regexp = r"throughput: *(.*?) samples\/sec"
    expected = {"mean": 515.25, "min": 10.0, "max": 1020.5, "final": 1020.5}
    for kind, value in expected.items():
        assert pod.figures(output, {"t": {"regexp": regexp, "reduction_type": kind}}) == {"t": value}
    assert pod.figures(output, {"t": {"regexp": regexp, "skip": 1}}) == {"t": 1020.5}
    assert pod.figures(output, {"t": {"regexp": regexp, "skip": 2}, "loss": {"regexp": "loss: (.*)"}}) == {
        "t": None,
        "loss": None,
    }


def test_the_readme_shows_commands_and_benchmarks_that_are_there(capsys):
    readme = (pod.SPEC.parent / "README.md").read_text(encoding="utf-8")
    shown = [shlex.split(line, comments=True) for line in re.findall(r"^python -m benchmarks.*$", readme, re.MULTILINE)]
    assert {words[2] for words in shown} == {"benchmarks.pod", "benchmarks.throughput"}
    for _, _, module, *words in shown:
        if module == "benchmarks.pod":
            assert pod.main(words if "--list" in words else [*words, "--dry-run"]) == 0 and capsys.readouterr().out
        else:
            assert throughput.read(words)
    named = set()
    for name in re.findall(r"`((?:schnet|chemgpt)_\w*[\w{},]*)`", readme):
        choices = [piece.split(",") for piece in re.split(r"[{}]", name)]
        named |= {"".join(pieces) for pieces in product(*choices)}
    assert named == {variant.benchmark for variant in VARIANTS}
    for variable, (option, _) in pod._SITE.items():
        assert f"| `{variable}` | `--{option}` |" in readme
