"""Filters of medicinal chemistry, one alert after the other."""

import pytest
from rdkit import Chem

from ipu_chem.generation.filters import ALERTS, _catalogs, fraction_passing, passes

# Of each alert a molecule that it catches, and one much like it that it does not.
CASES = {
    "nitrile on a C=C bond": ("CC=CC#N", "N#CC1=CCCC1"),
    "sulfonyl on a C=C bond": ("CC=CS(C)(=O)=O", "CCCS(C)(=O)=O"),
    "carboxamide on a C=C bond": ("CC=CC(=O)NC", "CC=C(C)C(=O)NC"),
    "alkyl halide at the end of a chain": ("CCCCl", "CC(C)Cl"),
    "epoxide": ("CC1CO1", "C1CCO1"),
    "isocyanate": ("CCN=C=O", "CCNC=O"),
    "aldehyde or formyl": ("CCC=O", "CCC(C)=O"),
    "imine with a hydrogen": ("CC(C)=N", "CC(C)=NC"),
    "aziridine": ("CC1CN1", "C1CCN1"),
    "hydrazine, hydrazone or azine in a chain": ("CNNC", "C1CNNC1"),
    "azo group": ("CN=NC", "c1ccnnc1"),
    "halogen beside an aromatic heteroatom": ("Clc1ccccn1", "Clc1cccnc1"),
    "sulfur bound to sulfur": ("CSSC", "CSCSC"),
    "azide or triazene": ("CCN=[N+]=[N-]", "c1cnn[nH]1"),
    "aminal of a CH2": ("CNCNC", "CNCCNC"),
    "acetal with a hydrogen": ("COC(C)OC", "COC(C)(C)OC"),
    "three bromines": ("Brc1cc(Br)cc(Br)c1", "Brc1cccc(Br)c1"),
    "four chlorines": ("Clc1cc(Cl)c(Cl)cc1Cl", "Clc1cc(Cl)cc(Cl)c1"),
    "seven fluorines": ("FC(F)(F)C(F)(F)C(F)(F)C", "FC(F)(F)C(F)(F)C(F)C"),
}


def caught(smiles):
    return {match.GetDescription() for match in _catalogs()[0].GetMatches(Chem.MolFromSmiles(smiles))}


@pytest.mark.parametrize("name", [name for name, _, _ in ALERTS])
def test_each_alert_catches_its_group(name):
    bad, good = CASES[name]
    assert name in caught(bad) and not passes(bad)
    assert name not in caught(good)


def test_drugs_of_moses_pass():
    assert (
        fraction_passing(["CC1C2CCC(C2)C1CN(CCO)C(=O)c1ccc(Cl)cc1", "O=C1OCCC1Sc1nnc(-c2c[nH]c3ccccc23)n1C1CC1"]) == 1
    )


@pytest.mark.parametrize(
    ("smiles", "why"),
    [
        ("C[N+](C)(C)C", "a charge"),
        ("CC[Si](C)C", "an element"),
        ("C1CCCCCCC1", "a ring of eight"),
        ("O=C1C(=Cc2ccccc2)SC(=S)N1C", "PAINS: rhodanine"),
        ("C1CC", "no molecule"),
        ("", "no molecule"),
    ],
)
def test_what_does_not_pass(smiles, why):
    assert not passes(smiles), why
    assert fraction_passing([smiles, "CCO"]) == 0.5


def test_rings_of_seven_pass():
    assert passes("C1CCCCCC1")
