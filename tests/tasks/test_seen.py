"""Charges, unpaired electrons and compositions of molecules as text, which a run was not trained on."""

import numpy as np
import pytest

from ipu_chem.data.corpora import corpus_in_memory
from ipu_chem.tasks.seen import doubts, seen

pytest.importorskip("selfies")


def of_text(known, asked):
    """Sentences on molecules asked about, by a run that was trained on others."""
    store, _ = corpus_in_memory(known)
    found = seen(store, np.arange(len(store)))
    asked_of, failures = corpus_in_memory(asked)
    assert not failures
    return found, doubts(asked_of, {"seen": found}, lambda item: asked[item])


def test_radicals_and_ions_as_text():
    known = ["CCO", "C[N+](=O)[O-]", "C[C@H](N)C(=O)O", "c1cc[nH]c1", "C[NH2+]CC(=O)[O-]"]
    found, said = of_text(known, ["CC", "C[CH2]", "C[NH3+]", "[O][O]", "C[N+](C)C", "O=[N+]([O-])C"])
    assert found == {"charges": [0], "spins": [0], "sizes": [3, 6], "composition": None}
    assert said[0].startswith(
        "2 of 6 molecules have a charge that no training molecule had (those had 0); the first is C[N"
    )
    assert said[1].startswith("3 of 6 molecules have a number of unpaired electrons that no training molecule had")
    assert said[1].endswith("the first is C[CH2] with 1")
    assert said[2:] == [
        "4 of 6 molecules have fewer or more heavy atoms than any training molecule (those had 3 to 6); the first is "
        "CC with 2"
    ]


def test_one_composition_as_text():
    found, said = of_text(["CCO", "COC", "[H]OCC"], ["COC", "CC=O", "CCN"])
    assert found["composition"] == {"1": 6, "6": 2, "8": 1}
    assert said == ["2 of 3 molecules are no H6C2O, which all training molecules were; the first is CC=O"]
    assert of_text(["CCO", "CC=O"], ["CCN"]) == (
        {"charges": [0], "spins": [0], "sizes": [3, 3], "composition": None},
        [],
    )


def test_runs_of_before_do_not_doubt_what_they_did_not_note():
    store, _ = corpus_in_memory(["C[CH2]", "CC"])
    state = {"seen": {"charges": [0], "spins": None, "composition": None}}
    assert doubts(store, state, str) == [] == doubts(store, {}, str)
