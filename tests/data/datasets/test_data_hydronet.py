import io
import zipfile

import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data import water_xyz
from ipu_chem.data.datasets import hydronet, load_dataset
from ipu_chem.data.files.structures import read_molecules
from ipu_chem.data.molecule import decode_text, decode_texts
from ipu_chem.data.water_xyz import read_clusters
from ipu_chem.tasks.graphs import load_store
from ipu_chem.tasks.splits import split_items
from ipu_chem.units import KCAL_PER_MOL

WATER = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def cluster(size, energy=-20.5, seed=0):
    """A frame as the data base writes it."""
    random = np.random.default_rng(seed)
    pos = np.concatenate([WATER + [3.0 * index, 0, 0] + random.normal(0, 0.05, (3, 3)) for index in range(size)])
    rows = [f" {'OHH'[row % 3]}   {x:.8f}   {y:.6E}   {z:.8f}    " for row, (x, y, z) in enumerate(pos)]
    return "\n".join([f"          {3 * size}", f" Ord_Energy   {energy}    ", *rows]) + "\n"


def write(folder, counts, place="raw"):
    """Zips of made-up clusters: size -> how many."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    for size, count in counts.items():
        text = "".join(cluster(size, -10.0 * size - index / 8, index) for index in range(count))
        with zipfile.ZipFile(folder / place / f"W{size}_geoms_all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"W{size}_geoms_all.xyz", text)
    return folder


def load(path, tmp_path, **options):
    return load_dataset("hydronet", path, tmp_path / "cache", progress=False, **options)


@pytest.mark.parametrize("place", ["", "raw", "W3-W30_all_geoms_TTM2.1-F"])
def test_clusters_of_several_sizes(tmp_path, place):
    store = load(write(tmp_path / "data", {4: 3, 3: 2, 11: 1}, place), tmp_path)
    assert store.sizes()["nodes"].tolist() == [9, 9, 12, 12, 12, 33]
    assert decode_texts(store, "name") == ["W3_0", "W3_1", "W4_0", "W4_1", "W4_2", "W11_0"]
    np.testing.assert_allclose(store["y"][:, 0] / KCAL_PER_MOL, [-30, -30.125, -40, -40.125, -40.25, -110])
    assert store.info["targets"] == [{"name": "energy", "unit": "eV", "extensive": True}]
    assert (store["charge"] == 0).all() and (store["spin"] == 0).all() and "forces" not in store
    assert store["z"][5].tolist() == [8, 1, 1] * 11
    assert len(load(tmp_path / "data", tmp_path, limit=4)) == 4


@pytest.mark.parametrize("at_once", [11, 30, 1 << 19])
def test_blocks_are_the_frames_that_ase_reads(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(water_xyz, "_LINES", at_once)
    text = "".join(cluster(size, seed=seed) for seed, size in enumerate([3, 3, 3, 5, 5, 3])) + "\n\n"
    if at_once == 11:  # no more than one of the smallest
        text = "".join(cluster(3, seed=seed) for seed in range(5)) + "\n"
    (tmp_path / "a.xyz").write_text(text.replace("Ord_Energy  ", "energy="))
    theirs = read_molecules(tmp_path / "a.xyz", None)
    blocks = list(read_clusters(io.BytesIO(text.encode()), "a"))
    ours = [pos for block in blocks for pos in block.pos]
    assert len(ours) == len(theirs) and sum(len(block.energy) for block in blocks) == len(theirs)
    for pos, molecule in zip(ours, theirs):
        np.testing.assert_array_equal(pos, molecule.pos)


GOOD = cluster(3)


@pytest.mark.parametrize(
    "text, sentence",
    [
        (GOOD * 2 + GOOD.replace(" O ", " N ", 1), "frame 2 is damaged: its atoms are not O H H O H H"),
        (GOOD + GOOD.replace(" O ", " H ", 1) + GOOD, "frame 1 is damaged: its atoms are not O H H"),
        (GOOD + GOOD.replace("-20.5", "much"), "frame 1 is damaged: its second line does not end in an energy"),
        (GOOD + GOOD.replace("-20.5", "nan"), "frame 1 is damaged: its energy is not finite"),
        (GOOD + GOOD.replace("E-0", "E-", 1).replace("E-", "E--", 1), "frame 1 is damaged: a coordinate is no number"),
        (GOOD + GOOD.replace(" O ", " O 1.0 ", 1), "frame 1 is damaged: a line of an atom has other than three"),
        (GOOD + GOOD.replace("  9\n", "  8\n", 1), "frame 1 is damaged: 8 atoms are no molecules of water"),
        (GOOD + GOOD.replace("  9\n", " 12\n", 1), "frame 1 is cut: 11 lines are left of 14"),
        (GOOD + GOOD.replace("  9\n", " 12\n", 1) + GOOD, "frame 1 is damaged: "),
        (GOOD + "\n" + GOOD, "frame 1 is damaged: it begins with b'.n', not with a number of atoms"),
        (GOOD + GOOD[:-60], "frame 1 is "),
        (GOOD + "\n".join(GOOD.splitlines()[:-1]), "frame 1 is cut: 10 lines are left of 11"),
        ("hello\n", "frame 0 is damaged: it begins with b'hello"),
    ],
)
def test_a_damaged_frame_is_named(text, sentence):
    with pytest.raises(ValueError, match=f"W3.xyz {sentence}"):
        list(read_clusters(io.BytesIO(text.encode()), "W3.xyz"))


def test_atoms_at_one_place_and_cut_archives(tmp_path):
    folder = write(tmp_path / "data", {3: 2})
    file = folder / "raw" / "W3_geoms_all.zip"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="W3_geoms_all.zip is cut or damaged"):
        load(folder, tmp_path)
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match="W3_geoms_all.zip (is cut or damaged|frame .* is)"):
        load(folder, tmp_path)
    rows = cluster(3).splitlines()
    rows[3] = rows[2].replace("O", "H")
    (folder / "raw" / "W4_geoms_all.xyz").write_text("\n".join(rows) + "\n")
    file.unlink()
    with pytest.raises(ValueError, match=r"W4_0: atoms 0 \(O\) and 1 \(H\) are 0.000 Å apart"):
        load(folder, tmp_path)
    (folder / "raw" / "W4_geoms_all.xyz").write_text("")
    with pytest.raises(ValueError, match="W4_geoms_all.xyz holds no clusters"):
        load(folder, tmp_path)


def test_subsets(tmp_path, monkeypatch):
    folder = write(tmp_path / "data", {size: 2 for size in range(3, 31)})
    assert len(load(folder, tmp_path, subset="medium")) == 46 and len(load(folder, tmp_path, subset="large")) == 56
    with pytest.raises(ValueError, match="lacks split_00_small.npz; unpack hydronet_splits.zip .* there"):
        load(folder, tmp_path, subset="small")
    np.savez(folder / "raw" / "split_00_small.npz", train_idx=np.array([40, 3, 7]), val_idx=np.array([5, 1]))
    with pytest.raises(ValueError, match="numbers the 2,726,710 published clusters, but 46 are here"):
        load(folder, tmp_path, subset="small")
    monkeypatch.setitem(hydronet.SUBSETS, "small", (25, 46))
    data = DataConfig("hydronet", path=str(folder), cache=str(tmp_path), subset="small", split="official", validation=1)
    store = load_store(data, 5.0)
    names = decode_texts(store, "name")
    assert names == ["W3_1", "W4_1", "W5_1", "W6_1", "W23_0"] and store["official"].tolist() == [1, 0, 1, 0, 0]
    items = split_items(store, data)
    assert items["test"].tolist() == [0, 2] and len(items["train"]) == 2 and len(items["validation"]) == 1
    assert len(load(folder, tmp_path, subset="small", limit=2)) == 2
    np.savez(folder / "raw" / "split_00_small.npz", train=np.array([40, 3, 7]))
    with pytest.raises(ValueError, match="is no index file with train_idx and val_idx"):
        load(folder, tmp_path, subset="small")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path / "data", {3: 1})
    with pytest.raises(ValueError, match="lacks W4_geoms_all.zip to W25_geoms_all.zip; unpack W3-W30"):
        load(folder, tmp_path, subset="medium")
    with pytest.raises(ValueError, match="lacks W3_geoms_all.zip to W30_geoms_all.zip"):
        load(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="hydronet has no subset 'tiny'; data.subset is one of small, medium, large"):
        load(folder, tmp_path, subset="tiny")
    with pytest.raises(ValueError, match="is one file; pass the folder of all for data.subset=small"):
        load(folder / "raw" / "W3_geoms_all.zip", tmp_path, subset="small")
    monkeypatch.setattr(hydronet, "URL", "http://127.0.0.1:9/hydronet.zip")
    with pytest.raises(ValueError, match=r"cannot be downloaded .*; fetch it by hand.*cache/W3-W30_all_geoms_TTM2.1-F"):
        load(None, tmp_path)


def test_archives_that_were_fetched_by_hand(tmp_path):
    write(tmp_path / "made", {3: 2}, "W3-W30_all_geoms_TTM2.1-F")
    (tmp_path / "cache").mkdir()
    inside = "W3-W30_all_geoms_TTM2.1-F/W3_geoms_all.zip"
    with zipfile.ZipFile(tmp_path / "cache" / "W3-W30_all_geoms_TTM2.1-F.zip", "w") as archive:
        archive.write(tmp_path / "made" / inside, inside)
    with zipfile.ZipFile(tmp_path / "cache" / "hydronet_splits.zip", "w") as archive:
        archive.writestr("split_00_small.npz", b"")
    assert len(load(None, tmp_path)) == 2


def test_real_clusters(shared_data, tmp_path):
    store = load(shared_data / "hydronet", tmp_path)
    assert len(store) == 1228 and store.sizes()["nodes"].max() == 90
    assert store["y"][0, 0] / KCAL_PER_MOL == pytest.approx(-15.9416428, rel=1e-12)
    np.testing.assert_allclose(store["pos"][0][0], [25.3875809, 2.28446364, 8.01933861], rtol=1e-7)
    # The lowest clusters of all sizes, from another collection of the same data base.
    lowest = load(shared_data / "hydronet" / "lowest_w3_w30.xyz", tmp_path)
    sizes = store.sizes()["nodes"]
    for item, size in enumerate(range(9, 91, 3)):
        best = int(np.argmin(np.where(sizes == size, store["y"][:, 0], 0)))
        assert store["y"][best, 0] == lowest["y"][item, 0]
        assert decode_text(store, "name", best).startswith(f"W{size // 3}_")


def test_ase_reads_the_same(shared_data, tmp_path):
    import ase.io

    store = load(shared_data / "hydronet", tmp_path)
    item = 0
    for size in range(3, 8):
        with zipfile.ZipFile(shared_data / "hydronet" / "raw" / f"W{size}_geoms_all.zip") as archive:
            text = archive.read(f"W{size}_geoms_all.xyz").decode()
        energies = [float(line.split()[1]) for line in text.splitlines() if "Ord_Energy" in line]
        for atoms, energy in zip(ase.io.read(io.StringIO(text), ":", "xyz"), energies):
            np.testing.assert_array_equal(store["z"][item], atoms.numbers)
            np.testing.assert_array_equal(store["pos"][item], atoms.positions.astype(np.float32))
            assert store["y"][item, 0] == energy * KCAL_PER_MOL
            item += 1
    assert item == 2 + 10 + 19 + 106 + 470
