"""What becomes of symbols that a vocabulary lacks, of stereochemistry and of salts, in runs of text and of graphs."""

import pytest

from ipu_chem.config import from_dict
from ipu_chem.data.molecule import decode_texts
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.tasks.registry import load_task

ALCOHOLS = ["C" * n + "O" for n in range(1, 21)]
TEXT = {"name": "chemgpt", "hidden_features": 16, "num_layers": 1}
GRAPHS = {"name": "schnet", "hidden_features": 8, "num_filters": 8, "num_interactions": 1}


def task_of(tmp_path, smiles, model=TEXT, **data):
    rows = "".join(f"{text},{number}\n" for number, text in enumerate(smiles))
    (tmp_path / "a.csv").write_text(f"smiles,y\n{rows}")
    common = {"name": "file", "path": str(tmp_path / "a.csv"), "cache": str(tmp_path / "cache"), "workers": 1}
    return load_task(from_dict({"data": {**common, **data}, "model": model, "accelerator": "cpu"}))


@pytest.fixture
def vocabulary(tmp_path):
    """A vocabulary of carbon and oxygen alone."""
    Tokenizer.build(["[C]", "[O]"], robust_alphabet=False).save(tmp_path / "t.json")
    return str(tmp_path / "t.json")


@pytest.mark.parametrize("target", ["", "y"])
def test_symbols_that_the_vocabulary_lacks(tmp_path, capsys, vocabulary, target):
    smiles = [*ALCOHOLS, "CCS", "CCN"]
    options = {"tokenizer": vocabulary, "target": target}
    with pytest.raises(ValueError, match=r"\(CCS, line 22\): token '\[S\]' is not in .*set data.unknown=drop .*=map"):
        task_of(tmp_path, smiles, unknown="error", **options)
    dropped = task_of(tmp_path, smiles, unknown="drop", **options)
    assert len(dropped.store) == 20 and dropped.cut["unknown symbols"] == 2
    assert (
        "left out: 2 molecules that the vocabulary cannot write; the first is CCS (line 22)" in capsys.readouterr().out
    )
    mapped = task_of(tmp_path, smiles, unknown="map", **options)
    assert len(mapped.store) == 22
    assert (mapped.ids.values == mapped.tokenizer.unk_id).sum() == 2
    state = {**mapped.state(), "budget": mapped.budget.as_dict()}
    config = from_dict({"data": {"name": "file", "path": "a.csv", "target": target}, "model": TEXT})
    assert type(mapped).restored(config, state).tokenizer.unknown == "map"  # predictions obey


def test_stereochemistry_is_kept_or_dropped(tmp_path):
    smiles = [*ALCOHOLS, "C[C@H](N)O", "C[C@@H](N)O"]
    assert len(task_of(tmp_path, smiles).store) == 22
    dropped = task_of(tmp_path, smiles, stereo="drop")
    assert len(dropped.store) == 21 and decode_texts(dropped.store, "smiles")[-1] == "CC(N)O"


@pytest.mark.parametrize("model", [TEXT, GRAPHS], ids=["text", "graphs"])
def test_salts(tmp_path, capsys, model):
    smiles = [*ALCOHOLS, "CCN.Cl", "[Na+].CC(=O)[O-]"]
    kept = task_of(tmp_path, smiles, model, target="y")
    assert len(kept.store) == (22 if model is TEXT else 20)
    cut = task_of(tmp_path, smiles, model, target="y", fragments="largest")
    assert decode_texts(cut.store, "smiles")[-2:] == ["CCN", "CC(=O)[O-]"]
    assert "of 2 molecules of several fragments the largest is taken" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"a\.csv line 22 \(CCN\.Cl\): several fragments.*, as 2 .*data.fragments"):
        task_of(tmp_path, smiles, model, target="y", fragments="error")


def test_graphs_of_other_sets_have_their_fragments_as_they_are():
    config = from_dict({"data": {"name": "nci3d", "fragments": "largest"}, "model": GRAPHS})
    with pytest.raises(ValueError, match="data.fragments=largest is for data.name=file and for models of text"):
        load_task(config)
