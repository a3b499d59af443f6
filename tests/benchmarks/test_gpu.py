"""The recipe for a GPU, dry on a CPU: contestants train, what is not there says so, nothing outlasts its time."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import contestants
from benchmarks.gpu_contestants import FORMS, NotHere, Scale, _parts, options_of, qm9
from ipu_chem.data.neighbors import radius_pairs

SCALE = Scale("cpu", 4, 8, 512, Path("nowhere"))


def test_a_group_runs_in_a_process_of_its_own_and_its_results_are_in_the_file(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--quick", "--groups", "schnet forces", "--json", str(file), "--shared", "nowhere"]
    assert gpu.main(words) == 0
    found = json.loads(file.read_text())
    entries = {entry["contestant"]: entry for entry in found["results"]}
    assert entries["ours, eager"]["rate"] > 0 and entries["ours, eager"]["rounds"] == 3
    assert entries["ours, compiled"]["note"] == "left out by --quick"
    assert entries["ours, CUDA graphs"]["note"].startswith(gpu.NOT_HERE) or torch.cuda.is_available()
    printed = capsys.readouterr().out
    assert "| ours, eager" in printed and "throughput: " in printed
    for entry in entries.values():
        assert (entry["rate"] is None) == bool(entry["note"]), entry


@pytest.mark.parametrize("group", list(gpu.GROUPS))
def test_every_group_has_our_forms_and_its_peers(group):
    names = list(contestants(group, SCALE))
    assert names[: len(FORMS)] == [f"ours, {form}" for form in FORMS]
    assert any("SchNetPack" in name or "Hugging Face" in name for name in names)


@pytest.mark.parametrize("contestant", ["ours, eager", "PyTorch Geometric"])
def test_a_step_trains_on_the_molecules_it_counts(contestant):
    if contestant == "PyTorch Geometric":
        pytest.importorskip("torch_geometric")
    step = contestants("schnet", SCALE)[contestant]()
    counts = [step() for _ in range(4)]
    assert all(1 <= count <= 2 * SCALE.graphs for count in counts)


def test_both_sides_have_the_same_edges():
    data = qm9(SCALE)
    pairs = radius_pairs(data.fields["pos"], data.axes["nodes"], 5.0)
    flat = [arrays for _, arrays in _parts(data, SCALE)]
    assert sum(arrays["edge_index"].shape[1] for arrays in flat) == 2 * len(pairs.values)
    for arrays in flat:
        source, target = arrays["edge_index"]
        assert (arrays["batch"][source] == arrays["batch"][target]).all()
        assert ((arrays["pos"][source] - arrays["pos"][target]).norm(dim=1) <= 5.001).all()


def test_what_is_not_there_leaves_a_note_and_the_others_go_on():
    def missing():
        raise NotHere("no such card")

    def hangs():
        time.sleep(30)

    def breaks():
        raise RuntimeError("out of memory\nmore")

    notes = {}
    makers = {"missing": missing, "hangs": hangs, "breaks": breaks, "works": lambda: lambda: 3}
    steps = gpu.built(makers, 3.0, False, notes)
    assert list(steps) == ["works"] and "not applicable here: no such card" == notes["missing"]
    assert notes["hangs"].startswith("not built in") and notes["breaks"] == "failed: RuntimeError: out of memory more"
    *_, rates = gpu.race(steps, 2, 0.2)
    assert len(rates["works"]) == 2 and np.isfinite(rates["works"]).all()
    notes = {}
    assert gpu.built({"late": lambda: lambda: 1}, 0.0, False, notes) == {} and notes == {"late": "no time left"}
    with pytest.raises(NotHere, match="CUDA graphs are for CUDA devices"):
        options_of("cpu", compile=True, cuda_graphs=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_dry_run_is_named(capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--device cpu --quick is the dry run" in capsys.readouterr().err
