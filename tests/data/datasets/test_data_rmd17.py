import tarfile

import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data.datasets import load_dataset, rmd17
from ipu_chem.data.datasets.rmd17 import FORMULAS
from ipu_chem.data.molecule import decode_text
from ipu_chem.tasks.graphs import load_store
from ipu_chem.tasks.splits import split_items
from ipu_chem.units import KCAL_PER_MOL

Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], np.uint8)


def made_up(folder, count=40, z=Z, **changes):
    """Frames of the published form with random numbers in them."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[: len(z)] * 1.3
    arrays = {
        "nuclear_charges": z,
        "coords": grid + random.uniform(-0.1, 0.1, (count, len(z), 3)),
        "energies": random.normal(-97_000, 5, count),
        "forces": random.normal(0, 20, (count, len(z), 3)),
        "old_indices": random.permutation(100_000)[:count],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rmd17_ethanol.npz", **arrays)
    return arrays


def write_splits(folder, train, test, number=1):
    folder.mkdir(exist_ok=True)
    for name, items in (("train", train), ("test", test)):
        (folder / f"index_{name}_{number:02d}.csv").write_text("".join(f"{item}\n" for item in items))


def test_frames_are_molecules_with_forces(tmp_path):
    arrays = made_up(tmp_path / "npz_data")
    store = load_dataset("rmd17", tmp_path, tmp_path / "cache")
    assert len(store) == 40 and store.info["name"] == "rmd17 ethanol" and store.info["forces_of"] == "energy"
    assert store.info["targets"] == [{"name": "energy", "unit": "eV", "extensive": True}]
    np.testing.assert_allclose(store["y"][:, 0], arrays["energies"] * 0.0433641042, rtol=1e-9)
    np.testing.assert_allclose(store["forces"][7], arrays["forces"][7] * 0.0433641042, rtol=1e-6)
    np.testing.assert_allclose(store["pos"][7], arrays["coords"][7], rtol=1e-6)
    assert store.fields["forces"].dtype == np.float32 and store.axis_of["forces"] == "nodes"
    assert (store["charge"] == 0).all() and (store["spin"] == 0).all()
    assert decode_text(store, "name", 7) == "ethanol_7" and "official" not in store
    np.testing.assert_array_equal(store["old_indices"], arrays["old_indices"])
    assert len(load_dataset("rmd17", tmp_path, tmp_path / "cache", limit=3)) == 3


@pytest.mark.parametrize("place", ["", "npz_data", "rmd17/npz_data", "raw/rmd17/npz_data"])
def test_layouts(tmp_path, place):
    made_up(tmp_path / "data" / place, 3)
    file = tmp_path / "data" / place / "rmd17_ethanol.npz"
    for path in (tmp_path / "data", file):
        assert len(load_dataset("rmd17", path, tmp_path / "cache", molecule="ethanol")) == 3


def test_official_splits_of_the_archive(tmp_path, capsys):
    made_up(tmp_path / "npz_data")
    write_splits(tmp_path / "splits", range(1, 21), range(30, 40))
    write_splits(tmp_path / "splits", [0, 1], [2], number=3)
    write_splits(tmp_path / "splits", [0, 1], [1], number=4)
    write_splits(tmp_path / "splits", [0, 40], [1], number=5)
    data = DataConfig(
        "rmd17", path=str(tmp_path), cache=str(tmp_path / "cache"), split="official", validation=5, split_seed=1
    )
    store = load_store(data, 5.0)
    output = capsys.readouterr().out
    assert "split 04 is left out" in output and "frame 1 is in the training split, too" in output
    assert "split 05 is left out" in output and "names frames other than 0 to 39" in output
    items = split_items(store, data)
    assert [len(items[part]) for part in ("train", "validation", "test")] == [15, 5, 10]
    assert set(items["train"]) | set(items["validation"]) == set(range(1, 21))
    assert items["test"].tolist() == list(range(30, 40))
    other = split_items(store, DataConfig("rmd17", split="official", validation=5, split_seed=2))
    assert other["test"].tolist() == items["test"].tolist() and other["train"].tolist() != items["train"].tolist()
    few = split_items(store, DataConfig("rmd17", split="official", validation=5, train=4))
    assert len(few["train"]) == 4 and set(few["train"]) < set(range(1, 21))
    third = split_items(store, DataConfig("rmd17", split="official_03", validation=1))
    assert sorted([*third["train"], *third["validation"]]) == [0, 1] and third["test"].tolist() == [2]
    with pytest.raises(ValueError, match="rmd17 has no split 'official_02' here; it has official, official_03"):
        split_items(store, DataConfig("rmd17", split="official_02"))
    with pytest.raises(ValueError, match="none of these molecules are of the official training split"):
        split_items(store.take(np.array([0])), data)


def test_two_thousand_frames_are_the_first_official_split(tmp_path):
    made_up(tmp_path / "a", 2000)
    store = load_dataset("rmd17", tmp_path / "a", tmp_path / "cache")
    assert store["official"].tolist() == [0] * 1000 + [1] * 1000
    made_up(tmp_path / "b", 2000, old_indices=np.arange(2000) % 1999)
    store = load_dataset("rmd17", tmp_path / "b", tmp_path / "cache")
    assert "official" not in store, "a frame occurs twice: this is no split"


def test_more_frames_than_are_advised(tmp_path, capsys):
    made_up(tmp_path, 1200)
    data = DataConfig("rmd17", path=str(tmp_path), cache=str(tmp_path / "cache"))
    store = load_dataset("rmd17", tmp_path, tmp_path / "cache")
    split_items(store, DataConfig("rmd17", train=1000, validation=0.05, test=0.05))
    assert "advise" not in capsys.readouterr().out
    split_items(store, DataConfig("rmd17", validation=0.05, test=0.05))
    assert "1,080 frames train; its authors advise against more than 1,000" in capsys.readouterr().out
    with pytest.raises(ValueError, match="data set rmd17 has no split 'official' here; use random"):
        split_items(store, DataConfig(**{**vars(data), "split": "official"}))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(z=np.array([6, 6, 8, 1, 1, 1, 1, 1, 8], np.uint8)), "holds C2H5O2, but ethanol is C2H6O"),
        (dict(energies=np.zeros(3)), r"energies float64 \[3\] and coords \[40, 9, 3\] do not belong together"),
        (
            dict(forces=np.zeros((40, 8, 3))),
            r"forces float64 \[40, 8, 3\] and coords .* do not belong together",
        ),
        (dict(old_indices=np.arange(3)), r"old_indices int64 \[3\] and coords \[40, 9, 3\] do not belong together"),
        (dict(energies=np.full(40, np.nan)), "the energy of frame 0 is not finite"),
        (dict(forces=np.full((40, 9, 3), np.inf)), "the forces of frame 0 are not finite"),
        (dict(coords=np.zeros((40, 9, 3))), r"ethanol_0: atoms 0 \(C\) and 1 \(C\) are 0.000 Å apart"),
    ],
)
def test_damaged_files(tmp_path, changes, sentence):
    made_up(tmp_path, **changes)
    with pytest.raises(ValueError, match=sentence):
        load_dataset("rmd17", tmp_path, tmp_path / "cache")


def test_files_that_are_none(tmp_path):
    (tmp_path / "rmd17_ethanol.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="rmd17_ethanol.npz holds no molecules that can be read"):
        load_dataset("rmd17", tmp_path, tmp_path / "cache")
    np.savez(tmp_path / "rmd17_ethanol.npz", nuclear_charges=Z, coords=np.zeros((1, 9, 3)))
    with pytest.raises(
        ValueError,
        match="no frames of one molecule .*; it has nuclear_charges, coords",
    ):
        load_dataset("rmd17", tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match="there is no rmd17_uracil.npz in .*, nor in .*raw/rmd17/npz_data/ there"):
        load_dataset("rmd17", tmp_path, tmp_path / "cache", molecule="uracil")
    with pytest.raises(ValueError, match="rmd17 has no molecule 'methanol'; data.molecule is one of aspirin"):
        load_dataset("rmd17", tmp_path, tmp_path / "cache", molecule="methanol")
    with pytest.raises(ValueError, match="data.molecule belongs to rmd17 and md17; qm9 has keep_uncharacterized"):
        load_store(DataConfig("qm9", molecule="ethanol"), 5.0)


def test_download(tmp_path, monkeypatch):
    monkeypatch.setattr(rmd17, "URL", "http://127.0.0.1:9/rmd17.tar.bz2")
    with pytest.raises(ValueError, match="rmd17: http.*cannot be downloaded.*put it at .*/cache/rmd17.tar.bz2, or"):
        load_dataset("rmd17", cache=tmp_path / "cache")
    made_up(tmp_path / "made" / "npz_data", 5)
    write_splits(tmp_path / "made" / "splits", [0, 1, 2], [3])
    with tarfile.open(tmp_path / "cache" / "rmd17.tar.bz2", "w:bz2") as archive:
        archive.add(tmp_path / "made", "rmd17")
    store = load_dataset("rmd17", cache=tmp_path / "cache")  # fetched by hand, and put there
    assert store["official"].tolist() == [0, 0, 0, 1, 2]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rmd17.tar.bz2").write_bytes(b"cut")
    with pytest.raises(ValueError, match="rmd17.tar.bz2 is damaged .*; delete it and fetch it again"):
        load_dataset("rmd17", cache=tmp_path / "other")


@pytest.mark.parametrize("molecule", ["aspirin", "benzene", "ethanol", "malonaldehyde", "toluene"])
def test_real_frames(shared_data, tmp_path, molecule):
    store = load_dataset("rmd17", shared_data / "md17", tmp_path, molecule=molecule)
    assert len(store) == 2000 and (store["official"][:1000] == 0).all() and (store["official"][1000:] == 1).all()
    forces = store.fields["forces"].reshape(2000, -1, 3)
    assert np.abs(forces.sum(1)).max() < 1e-3 and 0.5 < np.sqrt((forces**2).mean()) < 3
    assert store.info["name"] == f"rmd17 {molecule}" and molecule in FORMULAS
    if molecule == "ethanol":
        assert store["y"][0, 0] / KCAL_PER_MOL == pytest.approx(-97079.92222178938, rel=1e-12)
        assert store["z"][0].tolist() == Z.tolist()


def test_it_is_pygs_rmd17(shared_data, tmp_path):
    from torch_geometric.datasets import MD17

    (tmp_path / "raw").symlink_to(shared_data / "md17" / "raw")
    theirs = MD17(str(tmp_path), "revised ethanol")
    store = load_dataset("rmd17", tmp_path, tmp_path / "cache")
    for item in (0, 999, 1000, 1999):
        np.testing.assert_array_equal(store["z"][item], theirs[item].z.numpy())
        np.testing.assert_array_equal(store["pos"][item], theirs[item].pos.numpy())
        force = theirs[item].force.numpy() * KCAL_PER_MOL
        np.testing.assert_allclose(store["forces"][item], force, rtol=1e-5, atol=1e-6)
