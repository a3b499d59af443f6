import zipfile

import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data.datasets import load_dataset, md17
from ipu_chem.data.datasets.rmd17 import FORMULAS
from ipu_chem.data.force_check import check_energy_forces
from ipu_chem.tasks.graphs import load_store
from ipu_chem.tasks.splits import split_items
from ipu_chem.units import KCAL_PER_MOL

Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], np.uint8)


def made_up(file, count=10, seed=0, z=Z):
    """Frames of the published form with random numbers in them."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[: len(z)] * 1.3
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "z": z,
        "R": grid + random.uniform(-0.1, 0.1, (count, len(z), 3)),
        "E": random.normal(-97_000, 5, (count, 1)),
        "F": random.normal(0, 20, (count, len(z), 3)),
        "name": np.array(b"ethanol"),
    }
    np.savez(file, **arrays)
    return arrays


@pytest.mark.parametrize("place", ["", "raw", "ethanol/raw"])
def test_frames_of_all_layouts(tmp_path, place):
    arrays = made_up(tmp_path / "data" / place / "md17_ethanol.npz")
    for path in (tmp_path / "data", tmp_path / "data" / place / "md17_ethanol.npz"):
        store = load_dataset("md17", path, tmp_path / "cache")
        assert len(store) == 10 and store.info["name"] == "md17 ethanol" and "official" not in store
        np.testing.assert_allclose(store["y"], arrays["E"] * 0.0433641042, rtol=1e-9)
        np.testing.assert_allclose(store["forces"][3], arrays["F"][3] * 0.0433641042, rtol=1e-6)
        assert (store["charge"] == 0).all() and (store["spin"] == 0).all()
    assert len(load_dataset("md17", tmp_path / "data", tmp_path / "cache", limit=4)) == 4


def test_coupled_cluster_has_an_official_split(tmp_path):
    folder = tmp_path / "ethanol CCSD(T)" / "raw"
    train = made_up(folder / "ethanol_ccsd_t-train.npz", 6)
    data = DataConfig(
        "md17",
        path=str(tmp_path),
        cache=str(tmp_path / "cache"),
        molecule="ethanol_ccsd_t",
        split="official",
        validation=2,
    )
    store = load_store(data, 5.0)
    assert len(store) == 6 and store.info["level"] == "CCSD(T)/cc-pVTZ"
    with pytest.raises(ValueError, match="data set md17 has no split 'official' here; use random"):
        split_items(store, data)
    test = made_up(folder / "ethanol_ccsd_t-test.npz", 3, seed=1)
    store = load_store(data, 5.0)
    assert store["official"].tolist() == [0] * 6 + [1] * 3
    np.testing.assert_allclose(store["pos"][7], test["R"][1], rtol=1e-6)
    np.testing.assert_allclose(store["pos"][5], train["R"][5], rtol=1e-6)
    assert [len(items) for items in split_items(store, data).values()] == [4, 2, 3]
    direct = load_dataset("md17", folder / "ethanol_ccsd_t-train.npz", tmp_path / "cache")
    assert direct.info["name"] == "md17 ethanol_ccsd_t" and len(direct) == 9
    made_up(folder / "ethanol_ccsd_t-test.npz", 3, z=Z[::-1].copy())
    with pytest.raises(ValueError, match="-test.npz has its atoms in another order than .*-train.npz"):
        load_store(data, 5.0)


def test_what_is_not_there(tmp_path, monkeypatch):
    made_up(tmp_path / "md17_ethanol.npz", z=np.array([6, 6, 8, 1, 1, 1, 1, 1, 7], np.uint8))
    with pytest.raises(ValueError, match="holds C2H5NO, but ethanol is C2H6O; pass the file of that molecule"):
        load_dataset("md17", tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"there is no aspirin_ccsd-train.npz in .*, nor in raw/, aspirin CCSD/raw/"):
        load_dataset("md17", tmp_path, tmp_path / "cache", molecule="aspirin_ccsd")
    with pytest.raises(ValueError, match="md17 has no molecule 'water'; data.molecule is one of aspirin, .*ccsd_t"):
        load_dataset("md17", tmp_path, tmp_path / "cache", molecule="water")
    monkeypatch.setattr(md17, "URL", "http://127.0.0.1:9")
    for molecule, file in (("uracil", "md17_uracil.npz"), ("ethanol_ccsd_t", "ethanol_ccsd_t.zip")):
        with pytest.raises(ValueError, match=f"md17: http.*/{file} cannot be downloaded.*put it at .*/cache/{file}"):
            load_dataset("md17", cache=tmp_path / "cache", molecule=molecule)


def test_files_that_were_fetched_by_hand(tmp_path):
    made_up(tmp_path / "cache" / "md17_ethanol.npz")
    assert len(load_dataset("md17", cache=tmp_path / "cache")) == 10
    made_up(tmp_path / "ethanol_ccsd_t-train.npz", 4)
    made_up(tmp_path / "ethanol_ccsd_t-test.npz", 2)
    with zipfile.ZipFile(tmp_path / "cache" / "ethanol_ccsd_t.zip", "w") as archive:
        for part in ("train", "test"):
            archive.write(tmp_path / f"ethanol_ccsd_t-{part}.npz", f"ethanol_ccsd_t-{part}.npz")
    assert len(load_dataset("md17", cache=tmp_path / "cache", molecule="ethanol_ccsd_t")) == 6


def test_names_are_pygs():
    from torch_geometric.datasets import MD17

    # Older versions wrote naphtalene.
    names = {folder.replace("phtal", "phthal"): file for folder, file in MD17.file_names.items()}
    theirs = {folder: file for folder, file in names.items() if "revised" not in folder}
    assert {source.folder: source.file for source in md17.SOURCES.values()} == theirs
    assert set(FORMULAS) <= set(md17.SOURCES)


def test_real_frames(shared_data, tmp_path):
    store = load_dataset("md17", shared_data / "md17", tmp_path)
    assert len(store) == 2000 and store["z"][0].tolist() == Z.tolist()
    revised = load_dataset("rmd17", shared_data / "md17", tmp_path)
    np.testing.assert_array_equal(store.fields["pos"], revised.fields["pos"])  # the same frames, computed anew
    coupled = load_dataset("md17", shared_data / "md17", tmp_path, molecule="ethanol_ccsd_t")
    assert len(coupled) == 1000 and coupled["y"][0, 0] / KCAL_PER_MOL == pytest.approx(-97089.0709, abs=1e-4)
    for one in (store, coupled):
        found = check_energy_forces(one)
        assert 0.9 < found.ratio < 1.1 and found.net < 1e-3
