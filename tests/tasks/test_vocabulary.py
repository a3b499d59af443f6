"""New tokens of a vocabulary begin as the same atoms written plainly, in either representation."""

import pytest

from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.tasks.vocabulary import _begins_as

SMILES = ["C", "N", "n", "[nH]", "[N+]", "[NH3+]", "S", "Br"]


@pytest.mark.parametrize(
    ("symbol", "plain"),
    [
        ("[C@@H]", "C"), ("[C@]", "C"), ("[13CH3]", "C"), ("[N@@+]", "[N+]"), ("[NH2+]", "[N+]"), ("[15nH]", "[nH]"),
        ("[15NH3+]", "[NH3+]"), ("[S@@]", "S"), ("[79Br]", "Br"), ("[Br-]", None), ("[Pt]", None), ("/", None),
    ],
)  # fmt: skip
def test_in_smiles(symbol, plain):
    tokenizer = Tokenizer.build(SMILES, robust_alphabet=False, representation="smiles")
    assert _begins_as(tokenizer, symbol) == (None if plain is None else tokenizer.id_of(plain))


@pytest.mark.parametrize(
    ("symbol", "plain"), [("[C@@H1]", "[C]"), ("[CH3]", "[C]"), ("[=13C]", "[=C]"), ("[Pt]", None), ("[N+1]", None)]
)
def test_in_selfies(symbol, plain):
    tokenizer = Tokenizer.build(["[C]", "[=C]", "[Ring1]"], robust_alphabet=False)
    assert _begins_as(tokenizer, symbol) == (None if plain is None else tokenizer.id_of(plain))
