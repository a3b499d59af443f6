"""SELFIES to molecules: what is valid, what is not and why, in however many processes."""

import numpy as np
import pytest
import selfies
from rdkit import Chem

from ipu_chem.data.selfies.representation import NOT_DECODED
from ipu_chem.generation.molecules import (
    EMPTY,
    NO_MOLECULE,
    Decoded,
    canonical_smiles,
    count_reasons,
    decode_many,
)

WRITTEN = {
    "[C][C][O]": Decoded("CCO", ""),
    "[O][C][C]": Decoded("CCO", ""),
    "[C][=C][C][=C][C][=C][Ring1][=Branch1]": Decoded("c1ccccc1", ""),
    "": Decoded("", EMPTY),
    "[nop]": Decoded("", EMPTY),
    "[C][Nonsense]": Decoded("", NOT_DECODED),
    "[C": Decoded("", NOT_DECODED),
}


@pytest.mark.parametrize("workers", [1, 2])
def test_reasons_stand_in_the_place_of_molecules(workers, monkeypatch, capfd):
    monkeypatch.setattr("ipu_chem.parallel._FEW", 2)
    found = decode_many(list(WRITTEN) * 20, workers)
    assert found == list(WRITTEN.values()) * 20
    assert count_reasons(found) == {EMPTY: 40, NOT_DECODED: 40}
    assert capfd.readouterr().err == ""


def test_any_row_of_symbols_is_a_molecule():
    """Which is why validity says nothing about a sampler of SELFIES."""
    rng = np.random.default_rng(0)
    alphabet = sorted(selfies.get_semantic_robust_alphabet())
    rows = ["[C]" + "".join(rng.choice(alphabet, 12)) for _ in range(150)]
    found = decode_many(rows, workers=1)
    assert not count_reasons(found)
    assert len({entry.smiles for entry in found}) > 100


def test_canonical_smiles_names_what_is_none(capfd):
    found = canonical_smiles(["OCC", "C1CC", "", "c1ccccc1C"])
    toluene = Decoded(Chem.CanonSmiles("Cc1ccccc1"), "")
    assert found == [Decoded("CCO", ""), Decoded("", NO_MOLECULE), Decoded("", EMPTY), toluene]
    assert capfd.readouterr().err == ""
