"""Exports of every format, read back by the code that their README shows, and compared with the run's predictions."""

import json
import re

import numpy as np
import pytest
import torch
from support import CHAINS

from ipu_chem.cli import main
from ipu_chem.data.molecule import Molecule
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.data.standardize import Standardizer
from ipu_chem.export import FORMATS, Physical, fitting
from ipu_chem.trained_run import TrainedRun
from packing.types import Ragged

EXPORTS = hasattr(getattr(torch, "export", None), "save")
NEEDS_EXPORT = pytest.mark.skipif(not EXPORTS, reason="this torch has no torch.export.save")


def molecules(count=12, seed=0):
    """Strung carbons and oxygens with some hydrogens, no two atoms too near."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = int(rng.integers(2, 12))
        pos = np.cumsum(rng.normal(0, 0.2, (atoms, 3)) + [1.3, 0, 0], 0)
        made.append(Molecule(rng.choice([1, 6, 8], atoms).astype(np.uint8), pos))
    return made


def export(run, tmp_path, form, **choices):
    """Export; returns export.json and the names that the code of README.md defines."""
    folder = run.export(tmp_path / form, form, **choices)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names, about = {}, json.loads((folder / "export.json").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "README.md", "exec"), names)
    assert about["format"] == form and about["run"]["model"]["name"] == run.config.model.name
    return about, names


def batches(run, prepared):
    """Batches of prepared molecules with their places."""
    return list(prepared.loader.evaluation())


def predictions_of(call, run, given):
    """[K, T] by a function of a batch, in the order of the molecules."""
    prepared = run.prepare(given)
    found = np.zeros((len(prepared.items), len(run.task.outputs[0].targets)))
    for batch, places in batches(run, prepared):
        values = call(batch, prepared, places)
        found[places] = np.asarray(values)[batch.graph_mask.numpy()]
    return found


@pytest.mark.parametrize("name", ["schnet", "painn", "spookynet"])
def test_weights_with_the_numbers_that_undo_units(make_run, tmp_path, name):
    run = TrainedRun.load(make_run(model={"name": name, "filter": "exact"}, unit="kcal/mol", per_ev=23.06))
    given = [one._replace(charge=0, spin=int(one.z.sum()) % 2) for one in molecules()]
    about, names = export(run, tmp_path, "state_dict")
    assert not about["units_undone"] and about["outputs"][0]["unit"] == "kcal/mol"

    def standardized(batch, prepared, places):
        with torch.no_grad():
            return names["model"](*batch.inputs)

    found = predictions_of(standardized, run, given)
    units = about["standardizer"]
    for number, (molecule, value) in enumerate(zip(given, found)):
        atoms = sum(units["element_values"][str(z)][0] + units["shift_per_atom"][0] for z in molecule.z)
        found[number] = value * units["scale"][0] + units["shift"][0] + atoms
    np.testing.assert_allclose(found, run.predict(given), rtol=1e-7)
    assert "value = scale * output" in (tmp_path / "state_dict" / "README.md").read_text()


@NEEDS_EXPORT
@pytest.mark.parametrize("name, force_share", [("schnet", 0.0), ("schnet", 0.9), ("painn", 0.9), ("spookynet", 0.0)])
def test_programs_in_real_units(make_run, tmp_path, name, force_share):
    run = TrainedRun.load(make_run(model={"name": name, "num_interactions": 1}, force_share=force_share))
    given = [one._replace(charge=0, spin=int(one.z.sum()) % 2) for one in molecules()]
    about, names = export(run, tmp_path, "torch_export")
    assert about["units_undone"] and about["cutoff"] == 4.0
    shapes = {one["name"]: one["shape"] for one in about["inputs"]}
    assert shapes["z"] == [1, 45] and shapes["edge_index"] == [1, 2, 180] and shapes["graph_ends"] == [1, 5]
    pulls = []

    def values(batch, prepared, places):
        inputs = [value if value.is_floating_point() else value.long() for value in batch.inputs]
        found = [names["program"](*(value[i : i + 1] for value in inputs)) for i in range(len(batch.z))]
        if force_share:
            real = np.arange(batch.z.shape[1]) < batch.graph_ends[:, -1:].numpy()
            pulls.append((places, torch.cat([one[1] for one in found]).numpy()[real]))
            found = [one[0] for one in found]
        assert not torch.cat(found)[~batch.graph_mask].any()
        return torch.cat(found)

    np.testing.assert_allclose(predictions_of(values, run, given), run.predict(given), rtol=1e-7)
    expected = run.energies_forces(given).forces
    for places, ours in pulls:
        np.testing.assert_allclose(ours, np.concatenate([expected[place] for place in places]), atol=1e-4)
    assert len(pulls) == (force_share > 0)


@NEEDS_EXPORT
@pytest.mark.parametrize("target", ["size", "oxygen"])
def test_programs_of_text_in_real_units(text_run, tmp_path, target):
    run = TrainedRun.load(text_run(target=target))
    about, names = export(run, tmp_path, "torch_export")
    assert [one["name"] for one in about["inputs"]] == ["ids", "position_ids", "ends", "heavy_atoms"]

    def values(batch, prepared, places):
        heavy = torch.zeros_like(batch.ends, dtype=torch.int64)
        heavy[batch.graph_mask] = torch.from_numpy(prepared.atoms.lengths[places])
        inputs = [value.long() for value in batch.inputs]
        rows = [names["program"](*(value[i : i + 1] for value in (*inputs, heavy))) for i in range(len(heavy))]
        return torch.cat(rows)

    np.testing.assert_allclose(predictions_of(values, run, CHAINS), run.predict(CHAINS), rtol=1e-5)


def test_weights_of_text(text_run, tmp_path):
    run = TrainedRun.load(text_run(target="size"))
    about, names = export(run, tmp_path, "state_dict")
    assert about["state"]["tokenizer"] == run.task.tokenizer.to_dict()
    batch = run.prepare(CHAINS).loader.example(training=False)
    with torch.no_grad():
        assert torch.equal(names["model"](*batch.inputs), run.model(*batch.inputs))


@pytest.mark.parametrize("positions, kind", [("learned", "GPTNeo"), ("rope", "GPTNeoX")])
def test_language_models(text_run, tmp_path, positions, kind):
    transformers = pytest.importorskip("transformers")
    run = TrainedRun.load(text_run(positions=positions))
    assert fitting(run) == ["state_dict", "torch_export", "huggingface"]
    _, names = export(run, tmp_path, "huggingface")
    tokenizer = run.task.tokenizer
    ids = torch.from_numpy(tokenizer.encode("[C][C][O]").astype(np.int64))[None]
    assert isinstance(names["model"], getattr(transformers, f"{kind}ForCausalLM"))
    assert names["tokenizer"]("[C][C][O]", return_tensors="pt")["input_ids"].tolist() == ids.tolist()
    places = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        logits = names["model"].eval()(ids).logits
        torch.testing.assert_close(logits, run.model.model(ids, places), rtol=1e-4, atol=1e-5)
        _, plain = export(run, tmp_path, "state_dict")
        assert torch.equal(plain["model"](ids, places), run.model(ids, places))
        if EXPORTS:
            about, exported = export(run, tmp_path, "torch_export", tokens=ids.shape[1])
            assert about["inputs"][0]["shape"] == [1, ids.shape[1]]
            torch.testing.assert_close(exported["program"](ids, places), run.model(ids, places))


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_schnet_of_pytorch_geometric_in_real_units(make_run, tmp_path, readout):
    pytest.importorskip("torch_geometric")
    model = {"name": "schnet", "filter": "table", "readout": readout}
    run = TrainedRun.load(make_run(model=model, force_share=0.0, extensive=readout == "sum"))
    if readout == "mean":
        assert fitting(run) == ["state_dict", "torch_export"]  # references of elements are of sums alone
        run.standardizer.element_values[:], run.standardizer.references, run.standardizer.shift[:] = 0, ["none"], 3.0
    about, names = export(run, tmp_path, "pyg")
    theirs, given = names["model"], molecules()

    def interaction_graph(pos, batch):  # PyG's own needs a compiled package
        pairs = radius_pairs(pos.numpy(), np.array([0, len(pos)]), about["arguments"]["cutoff"]).values.astype(np.int64)
        edges = torch.from_numpy(np.concatenate([pairs, pairs[:, ::-1]]).T.copy())
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=1)

    theirs.interaction_graph.forward = interaction_graph
    with torch.no_grad():
        found = [theirs(torch.from_numpy(one.z).long(), torch.from_numpy(one.pos)).item() for one in given]
        new = theirs(torch.tensor([16, 1]), torch.eye(3, dtype=torch.float64)[:2])
    assert new.isnan().all() == (readout == "sum")  # sulfur has no reference
    np.testing.assert_allclose(found, run.predict(given)[:, 0], rtol=1e-8 if readout == "sum" else 1e-6)
    run.standardizer.shift[:] += 1.0
    assert ("pyg" in fitting(run)) == (readout == "mean")


@pytest.mark.parametrize(
    "form, sentence",
    [
        (
            "huggingface",
            "is for language models, .* without local layers, not for .* painn .*; state_dict or torch_export",
        ),
        ("pyg", "is for SchNet with one target, a number .*, not for .* painn"),
        ("onnx", "choose one of state_dict, torch_export, huggingface, pyg"),
    ],
)
def test_what_does_not_fit_says_what_does(make_run, tmp_path, form, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainedRun.load(make_run()).export(tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(EXPORTS, reason="this torch has torch.export.save")
def test_an_old_torch_says_so(make_run, tmp_path):
    with pytest.raises(ValueError, match="needs torch 2.1 or later, this is torch 2.0"):
        TrainedRun.load(make_run()).export(tmp_path / "out", "torch_export")


def test_rotary_positions_with_local_layers_have_no_form_there(text_run, tmp_path):
    run = TrainedRun.load(text_run(positions="rope", local_window=8))
    with pytest.raises(ValueError, match="local layers, not for"):
        run.export(tmp_path / "out", "huggingface")


def test_the_command_writes_once_and_replaces_nothing_but_exports(make_run, tmp_path, capsys):
    run = make_run(model={"name": "schnet"})
    words = ["export", str(run), "--format", "pyg"]
    assert main(words) == 0 and f"pyg: {run / 'export' / 'pyg'}" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in (run / "export" / "pyg").iterdir()}
    assert set(before) == {"export.json", "README.md", "model.safetensors"}
    assert main(words) == 1 and "holds an export already; --overwrite replaces it" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in (run / "export" / "pyg").iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    words += ["--overwrite", "--output", str(tmp_path / "mine")]
    assert main(words) == 1 and "exists and is no export; give another --output" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()


@NEEDS_EXPORT
def test_shapes_of_programs(make_run, tmp_path):
    run = TrainedRun.load(make_run())
    about, _ = export(run, tmp_path, "torch_export", nodes=20, edges=60, graphs=2)
    assert [one["shape"] for one in about["inputs"]][:3] == [[1, 20], [1, 20, 3], [1, 2]]
    with pytest.raises(ValueError, match="have no tokens; they have nodes=45"):
        run.export(tmp_path / "other", "torch_export", tokens=3)


def test_units_of_all_kinds_are_undone_as_the_standardizer_does():
    """Numbers and classes, elements with and without references, those that are new, and padding."""
    rng = np.random.default_rng(0)
    targets = [{"name": "a", "unit": "eV", "extensive": True}, {"name": "b", "unit": "", "extensive": False}]
    values = np.zeros((100, 2))
    values[[1, 6, 8], 0] = [-13.6, -1030.0, -2042.0]
    zero, shift = np.zeros(1), np.array([0.0, 3.0])
    units = Standardizer(
        targets, ["linear", "none"], [1, 6, 8], values, np.array([0.5, 0.0]), shift, np.array([2.0, 4.0])
    )
    binary = [{**targets[1], "kind": "binary"}]
    classes = Standardizer(binary, ["none"], [1, 6], np.zeros((100, 1)), zero, zero, np.ones(1))
    z, ends = torch.tensor([[8, 1, 1, 6, 1, 7, 99, 250]]), torch.tensor([[3, 5, 6, 6]])
    atoms = Ragged(np.array([8, 1, 1, 6, 1], np.uint8), np.array([0, 3, 5]))
    for one in (units, classes):
        output = torch.from_numpy(rng.normal(size=(1, 4, len(one.targets))).astype(np.float32))
        found = Physical(lambda *_, output=output: output, one, False)(z, torch.zeros(1, 8, 3), ends)
        np.testing.assert_allclose(found[0, :2], one.invert(atoms, output[0, :2].numpy()), rtol=1e-12)
        assert not found[0, 3].any()
        assert found[0, 2].isnan().all() == (one is units)


def test_formats_are_those_of_the_command():
    from typing import get_args, get_type_hints

    from ipu_chem.commands.export import Options

    assert get_args(get_type_hints(Options)["format"]) == tuple(FORMATS)
