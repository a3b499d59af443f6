"""Splits name molecules: rows of the file whatever is left out, replicates on one side, fingerprints of molecules."""

import json
from collections import defaultdict

import numpy as np
import pytest

import ipu_chem.tasks.splits
import ipu_chem.tasks.text_labels
import ipu_chem.train
from ipu_chem.config import from_dict
from ipu_chem.data.identity import molecule_digests, replicates
from ipu_chem.data.molecule import Molecule, encode_texts, molecules_to_store
from ipu_chem.tasks.registry import load_task
from ipu_chem.trained_run import TrainedRun
from packing.store import Store

MODELS = {
    "graphs": {"name": "schnet", "hidden_features": 8, "num_filters": 8, "num_interactions": 1},
    "text": {"name": "chemgpt", "hidden_features": 16, "num_layers": 1},
}
KINDS = pytest.mark.parametrize("kind", MODELS)
# Neither MMFF94 nor SELFIES know the first; the fifth gets no label.
ROWS = ["CI(Cl)Cl", "CCN", "CO", "CCO", "CN", *("C" * n + end for n in range(3, 7) for end in "ON"), "CCCC"]


def config_of(tmp_path, kind, text, **data):
    """Options of a run on a table."""
    (tmp_path / "a.csv").write_text(text)
    values = {
        "data": {
            "name": "file",
            "path": str(tmp_path / "a.csv"),
            "cache": str(tmp_path / "cache"),
            "target": "y",
            "workers": 1,
            **data,
        },
        "model": MODELS[kind],
        "training": {"epochs": 1, "progress": False, "report": False},
        "accelerator": "cpu",
        "out": str(tmp_path / kind),
    }
    return from_dict(values)


def table(smiles, skip=()):
    rows = "".join(f"{text},{'' if row in skip else row}\n" for row, text in enumerate(smiles))
    return f"smiles,y\n{rows}"


def labels_by_split(task):
    """The labels, which are rows of the file, of each split."""
    return {split: task.store["y"][items, 0].astype(int).tolist() for split, items in task.items.items()}


@KINDS
@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_an_index_file_names_rows_of_the_file(tmp_path, capsys, kind, suffix):
    parts = {"train": [0, 1, 2, 3, 4, 5, 6], "val": [7, 8], "test": [9, 11, 12]}
    if suffix == "json":
        (tmp_path / "s.json").write_text(json.dumps(parts))
    else:
        np.savez(tmp_path / "s.npz", **parts)
    split = str(tmp_path / f"s.{suffix}")
    task = load_task(config_of(tmp_path, kind, table(ROWS, skip=[4]), split=split))
    assert labels_by_split(task) == {"train": [1, 2, 3, 5, 6], "validation": [7, 8], "test": [9, 11, 12]}
    assert "2 of the 7 rows of the train split were left out: rows 0, 4\n" in capsys.readouterr().out
    limited = load_task(config_of(tmp_path, kind, table(ROWS, skip=[4]), split=split, limit=12))
    assert labels_by_split(limited)["test"] == [9, 11]
    assert "1 of the 3 rows of the test split were left out: rows 12\n" in capsys.readouterr().out


@KINDS
def test_an_index_file_for_another_table_is_refused(tmp_path, kind):
    (tmp_path / "s.json").write_text(json.dumps({"train": [2, 3], "val": [5], "test": [14]}))
    with pytest.raises(ValueError, match=r"s\.json: the test split names item 14, but items are 0 to 13"):
        load_task(config_of(tmp_path, kind, table(ROWS), split=str(tmp_path / "s.json")))
    (tmp_path / "s.json").write_text(json.dumps({"train": [0], "val": [5], "test": [6]}))
    with pytest.raises(ValueError, match=r"s\.json: all 1 rows of the train split were left out"):
        load_task(config_of(tmp_path, kind, table(ROWS), split=str(tmp_path / "s.json")))


# Six molecules of four rows in different spellings, one with atom maps, and twelve of one row.
TWICE = [["CCO", "OCC", "C(C)O", "[CH3:1][CH2:2][OH:7]"], ["CCN", "NCC", "C(N)C", "CCN"], ["CO", "OC", "CO", "CO"]]
TWICE += [["CCCO", "OCCC", "C(O)CC", "CCCO"], ["CCCN", "NCCC", "CCCN", "CCCN"], ["CN", "NC", "CN", "CN"]]
ONCE = ["C" * n for n in range(1, 13)]


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_replicates_go_to_one_side(tmp_path, capsys, kind, seed):
    from rdkit import Chem

    rows = [one[place] for place in range(4) for one in TWICE] + ONCE
    task = load_task(config_of(tmp_path, kind, table(rows), split_seed=seed, validation=7, test=7))
    assert (
        "replicates: 24 of 36 molecules are 6 different ones, each on one side of the split" in capsys.readouterr().out
    )
    sides = defaultdict(set)
    for split, found in labels_by_split(task).items():
        for row in found:
            sides[Chem.CanonSmiles(rows[row].replace("[CH3:1][CH2:2][OH:7]", "CCO"))].add(split)
    assert len(sides) == 18 and all(len(side) == 1 for side in sides.values())
    assert sum(map(len, task.items.values())) == 36  # none is lost
    assert len(task.items["test"]) == 7 and 4 <= len(task.items["validation"]) <= 7
    apart = load_task(config_of(tmp_path, kind, table(rows), split_seed=seed, validation=7, test=7, replicates="apart"))
    assert [len(items) for items in apart.items.values()] == [22, 7, 7]
    assert "replicates: " not in capsys.readouterr().out


def test_graphs_and_text_split_the_same_way(tmp_path):
    rows = [one[place] for place in range(4) for one in TWICE] + ONCE
    tasks = [load_task(config_of(tmp_path, kind, table(rows), validation=7, test=7)) for kind in MODELS]
    assert labels_by_split(tasks[0]) == labels_by_split(tasks[1])
    assert tasks[0].split_fingerprint == tasks[1].split_fingerprint


@KINDS
def test_too_few_molecules_for_three_sides_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="30 molecules, of which 2 are different, leave .*set data.replicates=apart"):
        load_task(config_of(tmp_path, kind, table(["CCO", "OCC", "CCCO"] * 10)))
    task = load_task(config_of(tmp_path, kind, table(["CCO", "OCC", "CCCO"] * 10), test=0))
    assert sorted(len(items) for items in task.items.values()) == [0, 10, 20]


def test_fingerprints_are_of_molecules(tmp_path):
    """The same molecules split the same way, in another order and with others left out, have one fingerprint."""
    parts = {"train": [5, 6, 7], "val": [8], "test": [9]}
    (tmp_path / "s.json").write_text(json.dumps(parts))
    split = str(tmp_path / "s.json")
    first = load_task(config_of(tmp_path, "graphs", table(ROWS), split=split))
    again = load_task(config_of(tmp_path, "graphs", table(["CC"] * 5 + ROWS[5:]), split=split))
    assert first.split_fingerprint == again.split_fingerprint
    (tmp_path / "s.json").write_text(json.dumps({**parts, "val": [9], "test": [8]}))
    assert (
        load_task(config_of(tmp_path, "graphs", table(ROWS), split=split)).split_fingerprint != first.split_fingerprint
    )


@KINDS
def test_a_run_of_an_earlier_version_finds_its_split(tmp_path, kind, monkeypatch):
    """It counted items, kept replicates apart, and as text took the first of them; its checkpoint has no split."""
    rows = [one[place] for place in range(4) for one in TWICE] + ONCE
    config = config_of(tmp_path, kind, table(rows), validation=4, test=4)
    kept = ipu_chem.train._kept
    with monkeypatch.context() as earlier:
        for module in (ipu_chem.tasks.splits, ipu_chem.tasks.text_labels):
            earlier.setattr(module, "by_molecules", lambda state: False)
        without = lambda *given: {key: value for key, value in kept(*given).items() if key != "split"}  # noqa: E731
        earlier.setattr(ipu_chem.train, "_kept", without)
        results = ipu_chem.train.train(config)["results"]
    task = TrainedRun.load(tmp_path / kind).loaded_task()
    assert [len(items) for items in task.items.values()] == ([28, 4, 4] if kind == "graphs" else [10, 4, 4])
    assert ipu_chem.train.evaluate(tmp_path / kind, "test") == pytest.approx(results["test"], rel=1e-5)


def test_another_split_than_the_run_s_is_refused(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"train": [5, 6, 7], "val": [8], "test": [9]}))
    ipu_chem.train.train(config_of(tmp_path, "graphs", table(ROWS), split=str(tmp_path / "s.json")))
    (tmp_path / "s.json").write_text(json.dumps({"train": [5, 6, 7], "val": [8], "test": [10]}))
    with pytest.raises(ValueError, match="the split is not that of the run"):
        ipu_chem.train.evaluate(tmp_path / "graphs", "test")


def smiles_store(smiles):
    values, offsets = encode_texts(smiles)
    return Store({"smiles": offsets}, {"smiles": values}, {"smiles": "smiles"})


def test_digests_tell_molecules_apart_and_nothing_else():
    smiles = ["C" * n for n in range(1, 300)] + [f"C{'O' * n}C" for n in range(1, 300)]
    found = molecule_digests(smiles_store(smiles))
    assert len(set(found.tolist())) == len(smiles)
    order = np.random.default_rng(0).permutation(len(smiles))
    np.testing.assert_array_equal(molecule_digests(smiles_store([smiles[item] for item in order])), found[order])
    mapped = molecule_digests(smiles_store(["[CH3:1][OH:2]", "CO", "c1cc[cH:5]cc1", "c1ccccc1", "C:C"]))
    assert mapped[0] == mapped[1] and mapped[2] == mapped[3] and len(set(mapped.tolist())) == 3
    # Pinned: fingerprints are the same on every machine.
    assert molecule_digests(smiles_store(["CCO"])).tolist() == [16619379329148136025]


def test_frames_of_one_molecule_are_no_replicates():
    frames = [Molecule(np.array([8, 1, 1]), np.eye(3) + step, name="water") for step in range(4)]
    store = molecules_to_store(frames)
    assert replicates(store) is None and len(set(molecule_digests(store).tolist())) == 4
    named = molecules_to_store([one._replace(name=f"water {step}") for step, one in enumerate(frames)])
    np.testing.assert_array_equal(molecule_digests(named.take(np.array([2, 3]))), molecule_digests(named)[2:])
    assert replicates(smiles_store(["CO", "CC", "CO"])).tolist() == [1, 0, 1]


def test_scaffolds_have_no_atom_maps():
    from ipu_chem.data.splits import scaffold_split

    smiles = [
        "c1ccccc1C",
        "[cH:1]1[cH:2][cH:3][cH:4][cH:5][c:6]1C",
        "c1cc[cH:9]cc1CC",
        "C1CCCCC1",
        "CC",
        "CCC",
        "C1CC1",
    ]
    split = scaffold_split(smiles, 1, 1)
    assert {0, 1, 2} <= set(split.train.tolist())


@pytest.mark.parametrize("split", ["scaffold", "scaffold_deepchem"])
def test_scaffold_splits_take_no_number_to_train(tmp_path, split):
    text = "smiles,y\n" + "".join(f"{'C' * n}c1cc{end}cc1,{n}\n" for n in range(1, 5) for end in ("c", "n", "c(F)"))
    with pytest.raises(ValueError, match=f"data.train=3: data.split={split} trains on all .*leave data.train out"):
        load_task(config_of(tmp_path, "text", text, target="y", split=split, train=3, validation=1, test=1))
