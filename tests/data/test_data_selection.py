import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data import selection
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.selection import select_targets

HELIUM = Molecule(np.array([2]), np.zeros((1, 3)), np.array([1.0, 2.0]), "he", np.ones((1, 3)))


def two_labels():
    targets = [{"name": name, "unit": "eV", "extensive": True} for name in ("u0", "gap")]
    return molecules_to_store([HELIUM, HELIUM], {"targets": targets, "forces_of": "u0"})


def test_forces_go_with_the_label_that_they_are_forces_of():
    for names in ("u0", "gap, u0", ""):
        chosen = select_targets(two_labels(), names)
        assert "forces" in chosen and chosen.info["forces_of"] == "u0"
    chosen = select_targets(two_labels(), "gap")
    assert "forces" not in chosen and "forces_of" not in chosen.info and "forces" not in chosen.axis_of
    assert chosen["y"].tolist() == [[2.0], [2.0]]
    whole = two_labels()
    select_targets(whole, "gap")
    assert "forces" in whole and "forces_of" in whole.info, "the store that was given is as it was"


def test_options_are_passed_to_data_sets_that_have_them(monkeypatch):
    asked = []
    monkeypatch.setattr(selection, "load_dataset", lambda name, **options: asked.append((name, options)))
    data = DataConfig("rmd17", molecule="uracil", limit=3, workers=2)
    selection.load_chosen(data.name, data.arguments(), "cache", data.limit, data.workers, "energy")
    assert asked == [("rmd17", {"cache": "cache", "path": None, "molecule": "uracil", "limit": 3})]
    assert DataConfig("rmd17").arguments() == {"path": None, "molecule": None}
    with pytest.raises(ValueError, match="data.molecule belongs to rmd17 and md17; nci3d has max_atoms"):
        DataConfig("nci3d", molecule="uracil")
    with pytest.raises(ValueError, match="data.subset belongs to hydronet; rmd17 has molecule"):
        DataConfig("rmd17", subset="small")
    with pytest.raises(ValueError, match="data.force_key belongs to file; rmd17 has molecule"):
        DataConfig("rmd17", force_key="F")
    with pytest.raises(ValueError, match="rmd17 knows what its labels are; data.unit, data.extensive and data.kind"):
        DataConfig("rmd17", unit="eV")
