import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipu_chem.data.molecule import decode_texts
from ipu_chem.data.splits import (
    Split,
    check_split,
    deepchem_scaffold_split,
    describe,
    file_split,
    fingerprint,
    random_split,
    scaffold_split,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 300), st.integers(0, 2**31), st.floats(0, 0.3), st.integers(0, 1))
def test_random_split_is_a_partition(n, seed, val, test):
    split = random_split(n, val, test, seed)
    assert sorted(np.concatenate(split).tolist()) == list(range(n))
    assert len(split.test) == test and len(split.val) == (max(1, round(n * val)) if val else 0)
    assert all(items.dtype == np.int32 and (np.diff(items) > 0).all() for items in split)


def test_random_split_is_the_same_everywhere():
    # Pinned: another numpy, Python or machine must give these very molecules.
    assert fingerprint(random_split(130_831, 10_000, 10_831, seed=0)) == "be278ab5733b6f7a"
    assert random_split(10, 2, 3, seed=0).test.tolist() == [2, 4, 6]


def test_random_split_follows_seed_and_keeps_test_when_train_shrinks():
    whole, few = random_split(1000, 0.1, 0.1, 7), random_split(1000, 0.1, 0.1, 7, train=50)
    np.testing.assert_array_equal(whole.test, few.test)
    np.testing.assert_array_equal(whole.val, few.val)
    assert len(few.train) == 50 and set(few.train.tolist()) < set(whole.train.tolist())
    assert fingerprint(random_split(1000, 0.1, 0.1, 8)) != fingerprint(whole)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(n=0, val=0, test=0), "n=0 is 1 or more"),
        (dict(n=10, val=5, test=5), "10 items are not enough for val=5, test=5"),
        (dict(n=10, val=2, test=2, train=7), "not enough for val=2, test=2 and train=7"),
        (dict(n=10, val=2, test=2, train=0), "not enough"),
        (dict(n=10, val=1.0, test=2), "val=1.0: give a count .* or a fraction"),
        (dict(n=10, val=0.1, test=-1), "test=-1: give a count"),
        (dict(n=10, val=True, test=1), "val=True: give a count"),
        (dict(n=10, val=1, test=1, seed=-1), "seed=-1 is 0 or more"),
    ],
)
def test_random_split_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        random_split(**arguments)


def test_fingerprint_ignores_order_and_nothing_else():
    split = Split(np.array([3, 1]), np.array([2]), np.array([0]))
    assert fingerprint(split) == fingerprint(check_split([1, 3], [2], [0], 4))
    others = [([1, 3], [0], [2]), ([1, 3, 2], [], [0]), ([1, 4], [2], [0])]
    assert len({fingerprint(split), *(fingerprint(check_split(*other, 5)) for other in others)}) == 4
    assert describe(split) == f"train 2, val 1, test 1 (split {fingerprint(split)})"


@pytest.mark.parametrize(
    "parts, sentence",
    [
        (([0, 1], [1], []), r"item 1 occurs 2 times \(train, val\)"),
        (([0, 0], [1], []), r"item 0 occurs 2 times \(train, train\)"),
        (([0, 5], [1], []), "train split names item 5, but items are 0 to 4"),
        (([0], [1], [-1]), "test split names item -1"),
        (([], [1], [2]), "train split is empty"),
        (([0.5], [1], [2]), "train split is a list of item numbers"),
        (([[0]], [1], [2]), "train split is a list of item numbers"),
    ],
)
def test_check_split_refuses(parts, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_split(*parts, 5)


@pytest.mark.parametrize(
    "keys", [("train", "val", "test"), ("idx_train", "idx_val", "idx_test"), ("train_idx", "valid_idx", "test_idx")]
)
def test_file_split(tmp_path, keys):
    parts = dict(zip(keys, ([4, 0], [1], [3, 2])))
    np.savez(tmp_path / "split.npz", **{key: np.array(items) for key, items in parts.items()})
    (tmp_path / "split.json").write_text(json.dumps(parts))
    for name in ("split.npz", "split.json"):
        split = file_split(tmp_path / name, 5)
        assert [items.tolist() for items in split] == [[0, 4], [1], [2, 3]]
        with pytest.raises(ValueError, match=f"{name}: the train split names item 4, but items are 0 to 3"):
            file_split(tmp_path / name, 4)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.json", b'{"train": [0], "val": [1]}', "has no test split .*; it has train, val"),
        ("a.json", b"[1, 2]", "is no split file"),
        ("a.json", b"{", "is no split file"),
        ("a.npz", b"PK\x03\x04nonsense", "is no split file"),
        ("a.npz", b"nonsense", "is no split file"),
        ("a.txt", b"1 2", "is no split file"),
        ("a.npz", b"", "is empty"),
    ],
)
def test_bad_split_files(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        file_split(tmp_path / name, 3)
    with pytest.raises(ValueError, match="there is no file"):
        file_split(tmp_path / "none.npz", 3)


def test_scaffolds_stay_together(nci3d_small):
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmilesFromSmiles

    smiles = decode_texts(nci3d_small, "smiles")
    split = scaffold_split(smiles, 0.1, 0.2, seed=3)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(smiles)))
    scaffolds = [{MurckoScaffoldSmilesFromSmiles(smiles[item]) for item in part} for part in split]
    assert not (scaffolds[0] & scaffolds[1] or scaffolds[0] & scaffolds[2] or scaffolds[1] & scaffolds[2])
    assert len(split.train) > len(split.test) > len(split.val) > 0
    assert fingerprint(scaffold_split(smiles, 0.1, 0.2, seed=3)) == fingerprint(split)
    assert fingerprint(scaffold_split(smiles, 0.1, 0.2, seed=4)) != fingerprint(split)


def test_largest_scaffold_trains():
    smiles = ["c1ccccc1"] + ["C" * k for k in range(1, 9)] + ["C1CC1"]
    split = scaffold_split(smiles, 0.1, 0.1)
    assert split.train.tolist() == list(range(1, 9))
    assert sorted(split.val.tolist() + split.test.tolist()) == [0, 9]


def test_deepchem_fills_training_validation_and_test_by_the_size_of_scaffolds():
    rings = {3: "C1CC1", 4: "C1CCC1", 5: "C1CCCC1", 6: "C1CCCCC1", 7: "C1CCCCCC1"}
    counts = {6: 5, 5: 2, 3: 1, 4: 1, 7: 1}  # the largest scaffold comes last in the file
    smiles = [f"{'C' * number}{rings[size]}" for size in (7, 4, 3, 5, 6) for number in range(counts[size])]
    split = deepchem_scaffold_split(smiles, 0.1, 0.2)
    # 7 of 10 train; of scaffolds of one molecule the later ones come first.
    assert [part.tolist() for part in split] == [[3, 4, 5, 6, 7, 8, 9], [2], [0, 1]]
    # 0.8 x 14 = 11.2: a twelfth molecule is not of training, although 0.1 x 14 is rounded to 1.
    many = [f"{'C' * number}C1CCCCC1" for number in range(11)] + [rings[3], rings[4], rings[5]]
    assert [part.tolist() for part in deepchem_scaffold_split(many, 0.1, 0.1)] == [list(range(11)), [13], [11, 12]]
    with pytest.raises(ValueError, match="leave val empty; set data.split=random"):
        deepchem_scaffold_split(smiles[5:], 0.2, 0.2)


def test_scaffold_split_refuses():
    with pytest.raises(ValueError, match="SMILES 'C1' of item 1"):
        scaffold_split(["C", "C1", "C"], 1, 1)
    with pytest.raises(ValueError, match="1 scaffolds of 5 molecules leave val and test empty"):
        scaffold_split(["C", "CC", "CCC", "CO", "CN"], 1, 1)
    with pytest.raises(ValueError, match="leave none of 2 to train"):
        scaffold_split(["C", "CC"], 1, 1)
