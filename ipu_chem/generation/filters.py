"""Medicinal chemistry filters of MOSES: the rules by which its molecules were chosen, and PAINS.

A molecule passes if it has no formal charge, no element beside C, N, S, O, F, Cl, Br and H, no ring of eight atoms or
more (as in MOSES' code; its article says more than eight), and matches neither PAINS (J. B. Baell, G. A. Holloway, J.
Med. Chem. 53, 2719 (2010)), as RDKit's catalog has them, nor one of the alerts below. These stand for the list "MCF" of
D. Polykovskiy et al., Front. Pharmacol. 11, 565644 (2020), whose file is not shipped here: its rules written anew for
molecules without explicit hydrogens, with the same verdict on each of 64,991 molecules of ZINC, ChEMBL and NCI. Three
of its 22 rules (furans, thiophenes and anilines as Kekule structures) match no molecule that RDKit has read, and are
left out.
"""

from functools import lru_cache
from typing import Any, Optional, Sequence, Tuple

from ipu_chem.parallel import in_parallel

ELEMENTS = frozenset(("C", "N", "S", "O", "F", "Cl", "Br", "H"))
_SMALLEST_FORBIDDEN_RING = 8

# Name, SMARTS, and the number of matches from which on it counts.
ALERTS: Tuple[Tuple[str, str, int], ...] = (
    ("nitrile on a C=C bond", "[#6]=!@[#6]-C#N", 1),
    ("sulfonyl on a C=C bond", "[#6]=!@[#6]-S(=O)=O", 1),
    ("carboxamide on a C=C bond", "[#6]=!@[#6;!H0]-!@[#6](=O)-!@[#7]", 1),
    ("alkyl halide at the end of a chain", "[CH2;X4]([#6])[F,Cl,Br,I]", 1),
    ("epoxide", "C1CO1", 1),
    ("isocyanate", "[#6]N=C=O", 1),
    ("aldehyde or formyl", "[#6;!H0]=O", 1),
    ("imine with a hydrogen", "[#6](=!@[#7;!H0])-!@[#6,#7,#8,#16]", 1),
    ("aziridine", "C1CN1", 1),
    ("hydrazine, hydrazone or azine in a chain", "[#6]~!@[#7]~!@[#7]~!@[#6]", 1),
    ("azo group", "[#7]=!@[#7]", 1),
    ("halogen beside an aromatic heteroatom", "[Cl,Br,I]-c:[a;!#6]", 1),
    ("sulfur bound to sulfur", "[#16]~[#16]", 1),
    ("azide or triazene", "[#7]~!@[#7]~!@[#7]", 1),
    ("aminal of a CH2", "[#7]-!@[CH2]-!@[#7]", 1),
    ("acetal with a hydrogen", "[#8]-!@[#6;!H0]-!@[#8]", 1),
    ("three bromines", "Br", 3),
    ("four chlorines", "Cl", 4),
    ("seven fluorines", "F", 7),
)


def fraction_passing(smiles: Sequence[str], workers: Optional[int] = None, title: Optional[str] = None) -> float:
    """Fraction of molecules that pass the filters.

    Args:
        smiles: of 1 or more molecules; what RDKit cannot parse passes none.
        workers: processes; None takes the cores this process may use.
        title: of a bar on stderr; None shows none.
    """
    return sum(in_parallel(passes, smiles, workers, title=title)) / len(smiles)


def passes(smiles: str) -> bool:
    """True of a molecule that passes the filters."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return False
    if any(atom.GetFormalCharge() or atom.GetSymbol() not in ELEMENTS for atom in mol.GetAtoms()):
        return False
    if any(len(ring) >= _SMALLEST_FORBIDDEN_RING for ring in mol.GetRingInfo().AtomRings()):
        return False
    return not any(catalog.HasMatch(mol) for catalog in _catalogs())  # the slow one is the last


@lru_cache(maxsize=None)
def _catalogs() -> Tuple[Any, Any]:
    """RDKit's catalogs of the alerts and of PAINS."""
    from rdkit.Chem import FilterCatalog as rdkit

    alerts = rdkit.FilterCatalog()
    for name, smarts, count in ALERTS:
        alerts.AddEntry(rdkit.FilterCatalogEntry(name, rdkit.SmartsMatcher(name, smarts, count)))
    chosen = rdkit.FilterCatalogParams()
    chosen.AddCatalog(rdkit.FilterCatalogParams.FilterCatalogs.PAINS)
    return alerts, rdkit.FilterCatalog(chosen)
