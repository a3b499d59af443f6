"""Runs that learn labels of molecules as text: labels of the right molecules, learned, resumed, measured, predicted."""

import csv
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Descriptors
from support import CHAINS

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.cli import main
from ipu_chem.config import KINDS, from_dict
from ipu_chem.data.corpora.labels import load_labeled_corpus
from ipu_chem.data.molecule import decode_texts
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.huggingface import save_chemgpt
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.options import merge
from ipu_chem.prediction.predict import predict_file
from ipu_chem.tasks.language_model import load_language_model
from ipu_chem.tasks.registry import load_task
from ipu_chem.tasks.text_labels import with_head
from ipu_chem.train import evaluate, train
from ipu_chem.training.trainer import Trainer


def labels_of(smiles: str) -> Dict[str, float]:
    """Two that grow with the molecule, two that do not."""
    mol = Chem.MolFromSmiles(smiles)
    atoms = [atom.GetSymbol() for atom in mol.GetAtoms()]
    hydrogens = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    hetero = sum(symbol != "C" for symbol in atoms)
    return {
        "weight": Descriptors.MolWt(mol),
        "hetero": hetero,
        "share": hetero / len(atoms),
        "hydrogens": hydrogens / len(atoms),
    }


def write_table(path: Path, rows: List[List[Any]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def rows_of(path: Path) -> List[Dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def property_options(text_options, tmp_path):
    """Options of a run that learns "share" of 72 small molecules."""
    names = list(labels_of("C"))
    write_table(
        tmp_path / "chains.csv",
        [["id", "smiles", *names], *([f"m{i}", one, *labels_of(one).values()] for i, one in enumerate(CHAINS))],
    )
    data = {**text_options["data"], "path": str(tmp_path / "chains.csv"), "target": "share", "extensive": False}
    return {**text_options, "data": data}


def run_of(options) -> Dict[str, Any]:
    train(from_dict(options))
    return json.loads((Path(options["out"]) / "run.json").read_text())


@pytest.mark.parametrize(("extensive", "target"), [(True, "weight,hetero"), (False, "share,hydrogens")])
def test_it_learns_labels_that_grow_and_labels_that_do_not(property_options, extensive, target):
    property_options["data"].update(target=target, extensive=extensive, unit="u")
    property_options["training"]["epochs"] = 60
    property_options["optimizer"]["learning_rate"] = 3e-3  # at 1e-2 what is learned is a matter of luck
    run = run_of(property_options)
    assert run["kind"] == "text property" and [one["name"] for one in run["targets"]] == target.split(",")
    for name in target.split(","):
        for kind in ("mae", "rmse"):
            learned, simple = (run[key]["test"][f"{kind}_{name}_u"] for key in ("results", "baseline"))
            assert learned < 0.4 * simple, name
    losses = [row for row in rows_of(Path(property_options["out"]) / "metrics.csv") if row["kind"] == "train"]
    assert np.mean([float(row["loss"]) for row in losses[-4:]]) < 0.3 * float(losses[0]["loss"])


def test_the_baseline_is_the_mean_and_of_extensive_labels_the_mean_per_heavy_atom(property_options):
    for extensive in (False, True):
        property_options["data"].update(target="weight", extensive=extensive)
        config = from_dict(property_options)
        task = load_task(config)
        heavy, y = task.store.fields["heavy_atoms"].astype(float), task.store.fields["y"][:, 0]
        mine, others = task.items["test"], task.items["train"]
        guess = heavy[mine] * y[others].sum() / heavy[others].sum() if extensive else np.full(8, y[others].mean())
        found = task.labels.on("test", mine).baselines()["baseline"]
        assert found["mae_weight"] == pytest.approx(np.abs(guess - y[mine]).mean())
        assert found["rmse_weight"] == pytest.approx(np.sqrt(np.square(guess - y[mine]).mean()))


def test_labels_stay_with_their_molecules_whatever_else_is_in_the_file(tmp_path, capsys):
    rows: List[List[Any]] = [["name", "a", "smiles", "b"], ["not read", 1, "C1CC", 2]]
    for number, smiles in enumerate(CHAINS[:20]):
        rows.append([f"two\nlines {number}" if number % 5 == 2 else "", len(smiles), smiles, -number])
    rows[7][1] = ""  # one label is missing
    rows[9][1] = rows[9][3] = ""  # both are
    rows.insert(12, ["again, the same", len(CHAINS[0]), CHAINS[0], 0])
    rows.insert(15, ["again, another", 99, CHAINS[1], 99])
    rows.insert(17, ["later with labels", 7, CHAINS[7], 8])  # the one whose labels are missing
    write_table(tmp_path / "in.csv", rows)
    text = (tmp_path / "in.csv").read_text().splitlines(keepends=True)
    text.insert(6, "\n")
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress("".join(text).encode()))
    options = {"cache": str(tmp_path / "cache"), "replicates": False}
    store = load_labeled_corpus(tmp_path / "in.csv.gz", ["b", "a"], "eV", False, **options)
    found = dict(zip(decode_texts(store, "smiles"), store.fields["y"].tolist()))
    expected = {Chem.CanonSmiles(one): [-float(i), float(len(one))] for i, one in enumerate(CHAINS[:20])}
    expected[Chem.CanonSmiles(CHAINS[5])][1] = float("nan")
    expected[Chem.CanonSmiles(CHAINS[7])] = [8.0, 7.0]
    assert len(store) == 20 and found.keys() == expected.keys()
    for smiles, values in expected.items():
        np.testing.assert_array_equal(found[smiles], values)
    assert store.info["left out"] == {"without label": 1, "duplicates": 2, "of them with other labels": 1}
    assert store.info["failures"]["count"] == 1
    assert [one["name"] for one in store.info["targets"]] == ["b", "a"] and store.info["targets"][0]["unit"] == "eV"
    assert "1 without label, 2 duplicates, 1 of them with other labels" in capsys.readouterr().out
    every = load_labeled_corpus(tmp_path / "in.csv.gz", ["b", "a"], "eV", False, cache=str(tmp_path / "cache"))
    texts, labels = decode_texts(every, "smiles"), every.fields["y"].tolist()
    assert len(every) == 22 and [labels[item] for item, text in enumerate(texts) if text == texts[1]][1] == [99.0, 99.0]
    assert every.info["left out"] == {"without label": 1}
    few = load_labeled_corpus(tmp_path / "in.csv.gz", ["a"], cache=str(tmp_path / "cache"), limit=5)
    assert len(few) == 4 and few.fields["y"][:, 0].tolist() == [float(len(one)) for one in CHAINS[:4]]


def test_every_label_of_esol_is_that_of_its_molecule(shared, tmp_path):
    path = shared / "data" / "moleculenet" / "delaney-processed.csv.gz"
    name = "measured log solubility in mols per litre"
    store = load_labeled_corpus(path, [name], cache=str(tmp_path), workers=1)
    with gzip.open(path, "rt") as file:
        expected = [(Chem.CanonSmiles(row["smiles"]), float(row[name])) for row in csv.DictReader(file)]
    assert len(expected) == 1128 and list(zip(decode_texts(store, "smiles"), store.fields["y"][:, 0])) == expected


def test_measured_and_predicted_again_the_numbers_are_the_same_and_those_of_each_molecule_alone(
    property_options, tmp_path
):
    property_options["data"].update(target="weight,hetero", extensive=True)
    run, folder = run_of(property_options), Path(property_options["out"])
    for split in ("validation", "test"):
        assert evaluate(folder, split) == pytest.approx(run["results"][split], rel=1e-6)
    predict_file(folder, property_options["data"]["path"], tmp_path / "out.csv", workers=1)
    again = {Chem.CanonSmiles(CHAINS[int(row["line"]) - 2]): row for row in rows_of(tmp_path / "out.csv")}

    tensors, state = load_checkpoint(folder / "checkpoints" / "best.safetensors")
    config = from_dict(state["config"])
    task = load_task(config, folder / "plans", state)
    model = with_head(config.model, ChemGPT(**state["chemgpt"]), task.labels).eval()
    model.load_state_dict(tensors["model"])
    written = rows_of(folder / "predictions_test.csv")
    assert [int(row["item"]) for row in written] == task.items["test"].tolist() and len(written) == 8
    for row in written:
        ids = torch.from_numpy(task.ids[int(row["item"])].astype(np.int64))[None]
        with torch.no_grad():
            alone = model(ids, torch.arange(ids.shape[1])[None], torch.tensor([[ids.shape[1]]]))[0].numpy()
        alone = task.labels.to_units(np.array([int(row["item"])]), alone)[0]
        labels = labels_of(row["name"])
        for column, name in enumerate(("weight", "hetero")):
            prediction = float(row[f"{name}_prediction"])
            assert prediction == pytest.approx(float(again[row["name"]][name]), rel=1e-5)
            assert prediction == pytest.approx(alone[column], rel=1e-5)
            assert float(row[f"{name}_label"]) == pytest.approx(labels[name], rel=1e-6)


def test_a_stopped_run_goes_on_to_the_same_weights(property_options, tmp_path, monkeypatch):
    train(from_dict({**property_options, "out": str(tmp_path / "whole")}))
    original = Trainer._train_epoch

    def stop_in_the_second(self, *args):
        if self.progress.epoch == 1:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(Trainer, "_train_epoch", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(from_dict(property_options))
    monkeypatch.setattr(Trainer, "_train_epoch", original)
    train(from_dict(property_options), resume=True)
    one, other = (
        load_checkpoint(Path(out) / "checkpoints" / "last.safetensors")[0]["model"]
        for out in (tmp_path / "whole", tmp_path / "run")
    )
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_row_of_a_file_is_predicted_or_has_a_reason(property_options, tmp_path):
    run_of(property_options)
    rows = [["name", "note", "SMILES"], ["ethanol", "", "CCO"], ["", "", "C1CC"], ["platinum", "", "C[Pt]C"]]
    rows += [["", "", "CCN"], ["long", "", "C" * 200], ["nothing", "", ""], ["cut"]]
    write_table(tmp_path / "in.csv", rows)
    with open(tmp_path / "in.csv", "ab") as file:
        file.write(b'broken,"quote,CCO\n' + "\xff,,CCO\n".encode("latin-1"))
    done, refused = predict_file(property_options["out"], tmp_path / "in.csv", tmp_path / "out.csv", workers=1)
    table = rows_of(tmp_path / "out.csv")
    assert done == 3 and [entry.line for entry in refused] == [3, 4, 6, 7, 8, 9]
    assert [row["line"] for row in table] == [str(line) for line in range(2, 11)]
    assert [row["name"] for row in table if not row["reason"]] == ["ethanol", "5", "ÿ"]
    assert all(np.isfinite(float(row["share"])) for row in table if not row["reason"])
    for line, words in {3: "parse", 4: "not in the vocabulary", 6: "202 tokens", 7: "no SMILES", 8: "1 cell"}.items():
        assert words in table[line - 2]["reason"] and not table[line - 2]["share"]
    assert table[2]["name"] == "platinum" and table[2]["reason"].startswith("token '[")
    assert table[2]["reason"].endswith("is not in the vocabulary")  # predict has no option that would help
    with pytest.raises(ValueError, match=r"line 3 \(C1CC\): RDKit cannot parse the SMILES"):
        predict_file(property_options["out"], tmp_path / "in.csv", tmp_path / "strict.csv", strict=True, workers=1)
    (tmp_path / "bad.smi").write_text("C1CC none\nCO methanol\n")
    assert main(["predict", property_options["out"], str(tmp_path / "bad.smi"), f"--output={tmp_path / 'o.csv'}"]) == 0
    assert [row["name"] for row in rows_of(tmp_path / "o.csv")] == ["none", "methanol"]


def test_a_language_model_is_tuned_whole_or_stays_as_it_was_under_the_head(text_options, property_options, tmp_path):
    text_options["model"].update(hidden_features=16, num_layers=2)
    train(from_dict({**text_options, "out": str(tmp_path / "language")}))
    language = load_checkpoint(tmp_path / "language" / "checkpoints" / "best.safetensors")[0]["model"]
    property_options["training"]["start_from"] = str(tmp_path / "language")
    for freeze in (True, False):
        out = tmp_path / f"frozen {freeze}"
        run_of({**property_options, "out": str(out), "model": {"name": "chemgpt", "freeze": freeze}})
        tuned = load_checkpoint(out / "checkpoints" / "best.safetensors")[0]["model"]
        body = {name for name in tuned if ".lin_" not in name}  # sizes are those of the language model
        assert body == set(language) - {"head.weight"} and tuned["head.lin_hidden.weight"].shape == (16, 16)
        assert all(torch.equal(tuned[name], language[name]) for name in body) == freeze
        assert bool(tuned["head.lin_out.weight"].abs().max() > 0)
    before = evaluate(out, "test")
    (tmp_path / "language").rename(tmp_path / "elsewhere")  # what a run started from is not needed again
    assert evaluate(out, "test") == before
    values = load_checkpoint(out / "checkpoints" / "last.safetensors")[1]["config"]
    longer = {**values, "training": {**values["training"], "epochs": 4}}
    assert train(from_dict(longer), resume=True)["epoch"] == 4


def test_weights_from_hugging_face_bring_their_sizes_and_vocabulary(text_options, property_options, tmp_path):
    train(from_dict({**text_options, "out": str(tmp_path / "language")}))
    language = load_language_model(tmp_path / "language")
    save_chemgpt(language.model, language.tokenizer, tmp_path / "hub")
    property_options["training"]["start_from"] = str(tmp_path / "hub")
    config = from_dict({**property_options, "model": {"name": "chemgpt"}})
    task = load_task(config)
    assert task.tokenizer.fingerprint() == language.tokenizer.fingerprint()
    body = task.model().state_dict()
    weights = load_language_model(tmp_path / "hub").model.state_dict()  # GPT-Neo's scores are scaled by weights
    assert all(torch.equal(weight, body[name]) for name, weight in weights.items() if name != "head.weight")
    Tokenizer.build(["[C]", "[O]", "[N]", "[S]", "[F]", "[Cl]", "[I]"]).save(tmp_path / "vocabulary.json")
    other = replace(config, data=replace(config.data, tokenizer=str(tmp_path / "vocabulary.json")))
    with pytest.raises(ValueError, match="was trained with another vocabulary"):
        load_task(other)


def test_what_a_language_model_cannot_read_is_left_out_or_refused(text_options, property_options, tmp_path, capsys):
    short = [one for one in CHAINS if len(one) < 6 and "I" not in one]
    (tmp_path / "short.smi").write_text("\n".join(short))
    text_options["data"].update(path=str(tmp_path / "short.smi"), validation=4, test=4)
    text_options["pack"] = {"tokens": 8}
    train(from_dict({**text_options, "out": str(tmp_path / "language")}))
    property_options["training"]["start_from"] = str(tmp_path / "language")
    with pytest.raises(ValueError, match="is longer than the 8 tokens, begin and end included, that the model of"):
        load_task(from_dict(property_options))
    for long in ("drop", "truncate"):
        property_options["data"]["long"] = long
        task = load_task(from_dict(property_options))
        assert task.ids.lengths.max() == 8 and task.budget["tokens"] > 8
        assert (task.ids.values[task.ids.offsets[1:] - 1] == task.tokenizer.eos_id).all()
        assert len(task.ids) == len(task.store) and (task.cut["dropped"] > 0) == (long == "drop")
        written = decode_texts(task.store, "smiles")
        assert task.store.fields["y"][:, 0].tolist() == [labels_of(one)["share"] for one in written]
    with open(property_options["data"]["path"], "a") as file:
        file.write("p,C[Pt]C,1,1,1,1\n")
    property_options["data"]["unknown"] = "drop"
    task = load_task(from_dict(property_options))
    assert task.cut["unknown symbols"] == 1 and "Pt" not in "".join(decode_texts(task.store, "smiles"))
    printed = capsys.readouterr().out  # RDKit's versions write it in two ways
    assert re.search(
        r"1 molecules that the vocabulary cannot write; the first is \S*\[Pt\]\S* \(line \d+\): token", printed
    )
    assert np.array_equal(task.store.fields["y"][:, 0], [labels_of(one)["share"] for one in written])
    result = train(from_dict({**property_options, "out": str(tmp_path / "run")}))
    assert np.isfinite(list(result["results"]["test"].values())).all()
    done, refused = predict_file(tmp_path / "run", property_options["data"]["path"], tmp_path / "o.csv", workers=1)
    assert done == 72 and [entry.line for entry in refused] == [74]  # truncated as the run's own molecules were


def test_the_report_is_that_of_labels(property_options):
    pytest.importorskip("matplotlib")
    property_options["training"]["report"] = True
    page = Path(train(from_dict(property_options))["report"]).read_text(encoding="utf-8")
    run = json.loads((Path(property_options["out"]) / "run.json").read_text())
    assert "training-mean baseline" in page and f"{run['results']['test']['rmse_share']:.4g}" in page
    assert f"{run['baseline']['test']['rmse_share']:.4g}" in page and "Predictions" in page


@pytest.mark.parametrize("command", ["generate", "embed"])
def test_it_writes_and_embeds_no_molecules_and_nothing_starts_from_it(property_options, tmp_path, capsys, command):
    run_of(property_options)
    (tmp_path / "in.smi").write_text("CCO\n")
    words = [command, property_options["out"], *([str(tmp_path / "in.smi")] if command == "embed" else [])]
    assert main(words) == 1 and "learned labels: use `ipu-chem predict`" in capsys.readouterr().err
    again = {**property_options, "out": str(tmp_path / "again")}
    again["training"] = {**property_options["training"], "start_from": property_options["out"]}
    with pytest.raises(ValueError, match="learned labels: use `ipu-chem predict`"):
        train(from_dict(again))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": {"name": "nci"}}, "labels of molecules as text come from a .csv of your own"),
        ({"data": {"path": ""}}, "data.name=file needs data.path: the file with your molecules"),
        ({"data": {"references": "linear"}}, "data.references=linear: .*leave it out"),
        ({"data": {"target": "shares"}}, "has no column 'shares'; it has id, smiles, weight, hetero, share"),
        ({"data": {"target": "id"}}, "chains.csv line 2: id is 'm0', no number"),
        ({"data": {"extensive": True}, "model": {"readout": "mean"}}, "model.readout=mean: only a sum grows"),
        ({"model": {"readout": "average"}}, "model.readout='average': choose one of auto, mean"),
        ({"data": {"target": ""}, "model": {"freeze": True}}, "name them with data.target"),
        ({"loss": "mes"}, "loss='mes': choose one of auto, mse, mae, huber, bce"),
        ({"pack": {"tokens": 6}}, "set pack.tokens=11 or more"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(property_options, changed, words):
    options, _ = merge(KINDS, property_options, changed)
    with pytest.raises(ValueError, match=words):
        train(from_dict(options))
    assert not Path(property_options["out"]).exists()


def test_files_without_labels_are_refused(property_options, tmp_path):
    config = from_dict(property_options)
    (tmp_path / "in.smi").write_text("CCO 1\n")
    with pytest.raises(ValueError, match="in.smi holds no labels, only SMILES; write SMILES and labels as columns"):
        load_task(replace(config, data=replace(config.data, path=str(tmp_path / "in.smi"))))
    write_table(tmp_path / "in.csv", [["smiles", "share"], ["CCO", ""], ["CC", ""]])
    with pytest.raises(ValueError, match="no molecule has a label in share"):
        load_task(replace(config, data=replace(config.data, path=str(tmp_path / "in.csv"))))
