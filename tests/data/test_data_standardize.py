import json

import numpy as np
import pytest

from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.standardize import Standardizer, composition_baseline, element_counts
from packing.types import Ragged

TARGETS = [
    {"name": "energy", "unit": "eV", "extensive": True},
    {"name": "gap", "unit": "eV", "extensive": False},
]
FREE = {1: -13.6, 6: -1029.9, 8: -2042.6}


def make_store(count=200, seed=0, elements=(1, 6, 8), noise=0.1):
    """Energy = free atoms - 4 eV of binding per atom + noise; gap = 5 eV + noise, some labels missing."""
    random = np.random.default_rng(seed)
    molecules = []
    for index in range(count):
        z = random.choice(elements, random.integers(2, 12)).astype(np.uint8)
        pos = np.arange(len(z))[:, None] * np.ones(3)
        energy = sum(FREE.get(int(number), -500.0) for number in z) - 4.0 * len(z) + noise * random.normal()
        y = np.array([energy, 5 + noise * random.normal()])
        if index % 7 == 3:
            y[index % 2] = np.nan
        molecules.append(Molecule(z, pos, y, f"m{index}"))
    info = {"targets": TARGETS, "reference_energies": {"energy": {str(z): value for z, value in FREE.items()}}}
    return molecules_to_store(molecules, info)


STORE = make_store()
TRAIN = np.arange(0, 150)


@pytest.mark.parametrize("references", ["none", "atoms", "linear", None])
def test_standardized_training_labels_are_of_order_one(references):
    standardizer = Standardizer.fit(STORE, TRAIN, references)
    y = standardizer.apply(STORE.ragged("z").take(TRAIN), STORE["y"][TRAIN])
    np.testing.assert_allclose(np.sqrt(np.nanmean(y**2, axis=0)), 1, rtol=1e-9)
    assert abs(np.nanmean(y[:, 1])) < 1e-9
    if references != "linear":
        assert abs(np.nanmean(y[:, 0])) < 1e-9
    np.testing.assert_array_equal(np.isnan(y), np.isnan(STORE["y"][TRAIN]))


def test_planted_values_are_found():
    atoms, linear = Standardizer.fit(STORE, TRAIN, "atoms"), Standardizer.fit(STORE, TRAIN, "linear")
    assert atoms.references == ["atoms", "none"] and atoms.shift_per_atom == pytest.approx([-4.0, 0], abs=0.01)
    assert atoms.scale == pytest.approx([0.1, 0.1], rel=0.2) and atoms.shift == pytest.approx([0, 5], abs=0.05)
    assert linear.element_values[[1, 6, 8], 0] == pytest.approx([FREE[z] - 4 for z in (1, 6, 8)], abs=0.05)
    assert linear.shift.tolist()[0] == linear.shift_per_atom.tolist()[0] == 0  # two far molecules add up
    assert not linear.element_values[[0, 2, 7, 99]].any()
    none = Standardizer.fit(STORE, TRAIN, "none")
    assert not none.element_values.any() and none.scale[0] > 1000 > none.scale[1]


def test_default_takes_free_atoms_where_known():
    assert Standardizer.fit(STORE, TRAIN).references == ["atoms", "none"]
    assert Standardizer.fit(STORE, TRAIN, {"gap": "linear"}).references == ["atoms", "linear"]


@pytest.mark.parametrize("references", ["none", "atoms", "linear", {"gap": "linear", "energy": "none"}])
def test_invert_undoes_apply(references):
    standardizer = Standardizer.fit(STORE, TRAIN, references)
    z, y = STORE["z"], STORE["y"]
    back = standardizer.invert(z, standardizer.apply(z, y))
    np.testing.assert_allclose(back, y, rtol=0, atol=1e-9)  # energies of 10,000 eV


def test_fit_sees_training_molecules_only():
    other = make_store()
    other.fields["y"][150:] += 1e6
    one, two = Standardizer.fit(STORE, TRAIN, "linear"), Standardizer.fit(other, TRAIN, "linear")
    assert one.to_dict() == two.to_dict()


def test_json_round_trip_is_exact():
    standardizer = Standardizer.fit(STORE, TRAIN, "linear")
    again = Standardizer.from_dict(json.loads(json.dumps(standardizer.to_dict())))
    assert again.to_dict() == standardizer.to_dict()
    z, y = STORE["z"], STORE["y"]
    np.testing.assert_array_equal(again.apply(z, y), standardizer.apply(z, y))


@pytest.mark.parametrize("references", ["atoms", "linear"])
def test_unseen_element_is_named(references):
    standardizer = Standardizer.fit(STORE, TRAIN, references)
    z = Ragged.from_list([np.array([1, 6], np.uint8), np.array([6, 9, 17], np.uint8)])
    with pytest.raises(ValueError, match="molecule 1 holds F, Cl, but the training molecules hold only H, C, O"):
        standardizer.invert(z, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="molecule 1 holds F, Cl"):
        standardizer.apply(z, np.zeros((2, 2)))
    assert standardizer.unseen(z).tolist() == [False, True]
    none = Standardizer.fit(STORE, TRAIN, "none")
    assert none.invert(z, np.zeros((2, 2)))[1, 0] == pytest.approx(3 * none.shift_per_atom[0])


def test_elements_that_always_come_together():
    """Isomers alone do not tell the elements apart; the fit is still exact and finite."""
    z = np.array([6, 1, 1, 1, 1], np.uint8)
    pos = np.arange(5)[:, None] * np.ones(3)
    molecules = [Molecule(z, pos, np.array([value, 1.0])) for value in (-10.0, -12.0)]
    store = molecules_to_store(molecules, {"targets": TARGETS})
    standardizer = Standardizer.fit(store, np.arange(2), "linear")
    np.testing.assert_allclose(standardizer.apply(store["z"], store["y"])[:, 0], [1, -1])
    assert standardizer.scale[1] == 1.0  # all gaps alike: nothing to scale
    np.testing.assert_allclose(standardizer.invert(store["z"], np.zeros((2, 2)))[:, 0], -11)


def test_refusals():
    with pytest.raises(ValueError, match="references='atom' for target energy: choose none, atoms, linear"):
        Standardizer.fit(STORE, TRAIN, "atom")
    with pytest.raises(ValueError, match="references name the target 'u0'; the store has energy, gap"):
        Standardizer.fit(STORE, TRAIN, {"u0": "none"})
    with pytest.raises(ValueError, match="target gap: the data set has no free-atom values"):
        Standardizer.fit(STORE, TRAIN, {"gap": "atoms"})
    with pytest.raises(ValueError, match="target energy: .* no free-atom value of N"):
        Standardizer.fit(make_store(elements=(1, 7)), TRAIN, "atoms")
    blank = make_store()
    blank.fields["y"][TRAIN, 1] = np.nan
    with pytest.raises(ValueError, match="target gap has no label among the 150 training"):
        Standardizer.fit(blank, TRAIN)
    with pytest.raises(ValueError, match="no labels"):
        Standardizer.fit(molecules_to_store([Molecule(np.array([2], np.uint8), np.zeros((1, 3)))]), np.array([0]))
    blank.info["targets"] = TARGETS[:1]
    with pytest.raises(ValueError, match="2 labels per molecule"):
        Standardizer.fit(blank, TRAIN)


def test_composition_baseline():
    test = np.arange(150, 200)
    errors = composition_baseline(STORE, TRAIN, test)
    # Noise of 0.1 has a mean absolute value of 0.08; everything else is composition.
    assert list(errors) == ["energy", "gap"] and all(0.05 < error < 0.12 for error in errors.values())
    exact = composition_baseline(make_store(noise=0), TRAIN, test)
    assert max(exact.values()) < 1e-6
    counts, elements = element_counts(STORE["z"])
    assert elements == [1, 6, 8] and (counts.sum(1) == STORE.sizes()["nodes"]).all()


def test_composition_baseline_of_real_labels(nci3d_small):
    items = np.arange(len(nci3d_small))
    error = composition_baseline(nci3d_small, items[:-10], items[-10:])["mmff94_energy"]
    assert 1 < error < 1000  # composition does not give a force-field energy away
