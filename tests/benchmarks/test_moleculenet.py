"""Parts of benchmarks/moleculenet.py: penalties chosen by validation, missing labels, rows that were cut, names."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import moleculenet
from benchmarks.moleculenet import Molecules, _all_targets, _linear, _read
from ipu_chem.metrics import Target
from ipu_chem.options import listed

pytest.importorskip("sklearn")


def molecules(y: np.ndarray, binary: bool) -> Molecules:
    parts = np.split(np.random.default_rng(0).permutation(len(y)), [60, 80])
    targets = [Target(f"t{column}", "", False, binary) for column in range(y.shape[1])]
    return Molecules([], y, dict(zip(("train", "validation", "test"), parts)), targets)


def test_a_linear_model_is_fitted_where_labels_are_and_measured_on_the_test_split(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 5))
    y = x @ rng.normal(size=(5, 1))
    y[::7] = np.nan
    assert _linear("esol", molecules(y, False), x) < 0.05
    # 40 features of 60 noisy molecules say nothing: the least penalty is not the one of validation.
    wide, noisy = np.hstack([x, rng.normal(size=(100, 40))]), molecules(y + rng.normal(size=y.shape), False)
    chosen = _linear("esol", noisy, wide)
    monkeypatch.setattr(moleculenet, "PENALTIES", (1e-6,))
    assert chosen < 0.98 * _linear("esol", noisy, wide)
    monkeypatch.undo()
    classes = np.stack([y[:, 0] > 0, rng.random(100) > 0.5], 1).astype(float)
    classes[np.isnan(y[:, 0]), 0] = np.nan
    assert 0.6 < _linear("bbbp", molecules(classes, True), x) < 1.0
    constant = np.hstack([classes[:, :1], np.zeros((100, 1))])  # a class that nobody has is left out of the mean
    assert _linear("bbbp", molecules(constant, True), x) > 0.9


def test_rows_of_an_earlier_start_are_read_but_one_that_was_cut(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    assert list(_read(path)) == []
    path.write_text(json.dumps({"set": "esol"}) + '\n{"set": "free')
    assert list(_read(path)) == [{"set": "esol"}] and "a line is cut" in capsys.readouterr().out


def test_names_of_targets_may_hold_commas(tmp_path):
    path = tmp_path / "sider.csv.gz"
    path.write_bytes(gzip.compress(b'smiles,Eye disorders,"Injury, poisoning",mol_id\nC,1,0,a\n'))
    assert listed(_all_targets(path)) == ["Eye disorders", "Injury, poisoning"]


def test_bad_options_are_refused_before_the_first_row(tmp_path, monkeypatch, capsys):
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    best.touch()
    (tmp_path / "data" / "moleculenet").mkdir(parents=True)
    known = ["moleculenet.py", str(tmp_path / "run"), "--shared", str(tmp_path), "--rows", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr("sys.argv", [*known, "--methods", "Morgan, linear; fresh"])
    options = moleculenet._options()
    assert options.methods == ["Morgan, linear", "fresh"]
    assert [moleculenet._epochs(molecules, options) for molecules in (513, 1000, 6264)] == [20, 15, 5]
    for words, said in (
        (["--seeds", "0"], "--seeds 0: give 1 or more"),
        (["--rows", str(tmp_path / "no" / "rows.jsonl")], f"there is no {tmp_path / 'no'}"),
        (["--methods", "Morgan"], "there is no 'Morgan'; there are Morgan, random forest; Morgan, linear; "),
    ):
        monkeypatch.setattr("sys.argv", [*known, *words])
        with pytest.raises(SystemExit):
            moleculenet._options()
        assert said in capsys.readouterr().err
