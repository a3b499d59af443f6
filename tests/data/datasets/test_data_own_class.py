"""Data sets of a user's own, and of torch_geometric, by import path."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.datasets.own_class import load_own
from ipu_chem.data.selection import load_chosen

torch = pytest.importorskip("torch")
pyg = pytest.importorskip("torch_geometric")
from torch_geometric.data import Data, InMemoryDataset  # noqa: E402
from torch_geometric.datasets import MD17, FakeDataset  # noqa: E402

Z = torch.tensor([8, 1, 1])
POS = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def water(index, **values):
    return Data(z=Z, pos=POS + 0.01 * index * torch.eye(3), **values)


class Waters(InMemoryDataset):
    """Made as torch_geometric's tutorial makes them."""

    def __init__(self, root: str, count: int = 5, dtype: str = "float32") -> None:
        self.count, self.dtype = count, getattr(torch, dtype)
        super().__init__(root)
        self.load(self.processed_paths[0])

    raw_file_names = ()

    @property
    def processed_file_names(self):
        return [f"waters_{self.count}.pt"]

    def process(self):
        energies = torch.linspace(-2000, -1990, self.count, dtype=torch.float64).to(self.dtype)
        labels = torch.stack([energies, energies**2], 1)
        self.save([water(i, y=labels[i : i + 1]) for i in range(self.count)], self.processed_paths[0])


def listed(count: int = 4) -> list:
    """A function of the user's that gives a list of Data."""
    return [water(i, y=torch.tensor(float(i), dtype=torch.float64)) for i in range(count)]


def test_an_in_memory_dataset_of_torch_geometric(tmp_path):
    store = load_own("mine:Waters", Waters, {"root": str(tmp_path), "count": 7})
    assert len(store) == 7 and store["y"].dtype == np.float64 and store["z"][3].tolist() == [8, 1, 1]
    assert [one["name"] for one in store.info["targets"]] == ["y0", "y1"]
    np.testing.assert_array_equal(store["y"][:, 0], np.linspace(-2000, -1990, 7).astype(np.float32))
    assert store.info["notes"] == ["labels come in float32: where they are largest, 4e+06, they go in steps of 0.25"]
    exact = load_own("mine:Waters", Waters, {"root": str(tmp_path / "64"), "dtype": "float64"}, limit=3)
    assert len(exact) == 3 and exact.info["notes"] == []
    np.testing.assert_array_equal(exact["y"][:, 0], np.linspace(-2000, -1990, 5)[:3])


def test_a_function_that_gives_a_list_of_data():
    store = load_own("mine:listed", listed, {"count": 6})
    assert store["y"][:, 0].tolist() == [0, 1, 2, 3, 4, 5] and store.info["notes"] == []
    assert store.info["targets"] == [{"name": "y", "unit": "", "extensive": True}] and "forces" not in store
    np.testing.assert_allclose(store["pos"][5][0], [0.05, 0, 0], atol=1e-7)


def test_forces_and_energy_by_their_names_there():
    force = torch.arange(9.0).reshape(3, 3)
    items = [water(i, energy=torch.tensor([-1.5]), force=force) for i in range(2)]
    store = load_own("mine:md", lambda: items, {})
    assert store.info["targets"][0]["name"] == "energy" == store.info["forces_of"]
    np.testing.assert_array_equal(store["forces"][1], force.numpy())
    assert store["y"][:, 0].tolist() == [-1.5, -1.5]


def test_half_precision_and_charges():
    item = SimpleNamespace(z=Z.numpy(), pos=POS.numpy().astype(np.float16), y=1.0, charge=torch.tensor([1]), spin=1)
    store = load_own("mine:ions", lambda: [item], {})
    assert (store["charge"].tolist(), store["spin"].tolist()) == ([1], [1])
    assert store.info["notes"] == [
        "positions (Å) come in float16: where they are largest, 0.959961, they go in steps of 0.00049"
    ]


def test_charges_of_atoms_are_not_the_molecules():
    store = load_own("mine:partial", lambda: [water(0, charge=torch.tensor([-0.8, 0.4, 0.4]), spin=0)], {})
    assert "charge" not in store and store["spin"].tolist() == [0]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: [water(0, charge=0.5)], "mine:set 0: charge is 0.5; a molecule has a whole number of electrons"),
        (lambda: FakeDataset(num_graphs=2), "needs z .n. and pos .n, 3.; this Data has edge_index, x, y"),
        (lambda: [Data(z=Z.float(), pos=POS)], "mine:set 0: atomic numbers are integers, not float32"),
        (lambda: [water(0, y=torch.zeros(2, 3))], "y has shape .2, 3.; labels of one molecule are"),
        (lambda: [SimpleNamespace(pos=POS)], "needs z .n. and pos .n, 3.; this SimpleNamespace has others"),
        (lambda: open("/nowhere/at/all"), "mine:set cannot be made: .*No such file.*put its files where it looks"),
    ],
)
def test_what_are_no_molecules(make, words):
    with pytest.raises(ValueError, match=words):
        load_own("mine:set", make, {})


def test_md17_of_torch_geometric_is_that_of_our_own_reader(shared_data, tmp_path):
    raw = tmp_path / "raw" / "rmd17" / "npz_data"
    raw.mkdir(parents=True)
    shutil.copy(shared_data / "md17" / "raw" / "rmd17" / "npz_data" / "rmd17_ethanol.npz", raw)
    options = {"root": str(tmp_path), "name": "revised ethanol"}
    theirs = load_chosen("torch_geometric.datasets:MD17", options, limit=50)
    ours = load_dataset("rmd17", Path(raw), tmp_path / "cache", molecule="ethanol", limit=50)
    assert len(theirs) == len(ours) == 50 and theirs.info["forces_of"] == "energy"
    np.testing.assert_array_equal(theirs["z"][7], ours["z"][7])
    np.testing.assert_allclose(theirs["pos"][7], ours["pos"][7], atol=1e-6)
    factor = 1 / 0.0433641042  # theirs are in kcal/mol
    np.testing.assert_allclose(theirs["forces"][7], ours["forces"][7] * factor, rtol=1e-5, atol=1e-4)
    error = np.abs(theirs["y"] - ours["y"] * factor).max()
    assert 0.0005 < error < 0.005  # their float32, which is said
    assert theirs.info["notes"][0].startswith("labels come in float32: where they are largest, 97,")
    assert "they go in steps of 0.0078" in theirs.info["notes"][0]
    assert isinstance(MD17(**options)[0], Data)
