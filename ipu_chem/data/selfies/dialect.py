"""Symbols of SELFIES 2.x and of SELFIES 1.0.4, the language that ChemGPT was trained on: same grammar, other spelling.

    2.x          [=Branch1]   [=Ring1]       [NH1]     [NH1+1]    [O-1]      [Si]
    1.0.4        [Branch1_2]  [Expl=Ring1]   [NHexpl]  [NH+expl]  [O-expl]   [Siexpl]

The symbols stand for the same things and both versions count rings and branches with the same sixteen of them, so that
a molecule is translated symbol by symbol.
"""

import re

# Written without brackets in SMILES, and in SELFIES without "expl" where nothing is said but the bond.
_ORGANIC = frozenset("B C N O S P F Cl Br I".split())
_ATOM_2 = re.compile(r"\[([=#/\\]?)(\d*)([A-Z][a-z]?)(@{0,2})(?:H(\d))?(?:([+-])(\d+))?\]")
_ATOM_1 = re.compile(r"\[([=#/\\]?)(\d*)([A-Z][a-z]?)(@{0,2})(?:(H)(\d*))?(?:([+-])(\d*))?expl\]")
_BRANCH_2 = re.compile(r"\[([=#]?)Branch([1-3])\]")
_BRANCH_1 = re.compile(r"\[Branch([1-3])_([1-3])\]")
_RING_2 = re.compile(r"\[([=#])Ring([1-3])\]")
_RING_1 = re.compile(r"\[Expl([=#])Ring([1-3])\]")
_STEREO_RING = re.compile(r"\[[-/\\]{2}(Ring[1-3])\]")
_BONDS = ("", "=", "#")


def to_version_1(symbol: str) -> str:
    """The 1.0.4 spelling of a 2.x symbol; a symbol that both share, or neither knows, comes back as it is."""
    branch = _BRANCH_2.fullmatch(symbol)
    if branch:
        return f"[Branch{branch[2]}_{_BONDS.index(branch[1]) + 1}]"
    ring = _RING_2.fullmatch(symbol)
    if ring:
        return f"[Expl{ring[1]}Ring{ring[2]}]"
    atom = _ATOM_2.fullmatch(symbol)
    if not atom:
        return symbol
    bond, isotope, element, chirality, hydrogens, sign, charge = atom.groups(default="")
    if element in _ORGANIC and not (isotope or chirality or hydrogens or sign):
        return symbol
    count = {"": "", "0": "", "1": "H"}.get(hydrogens, "H" + hydrogens)
    return f"[{bond}{isotope}{element}{chirality}{count}{sign}{charge if charge != '1' else ''}expl]"


def to_version_2(symbol: str) -> str:
    """The 2.x spelling of a 1.0.4 symbol, the inverse of `to_version_1`."""
    branch = _BRANCH_1.fullmatch(symbol)
    if branch:
        return f"[{_BONDS[int(branch[2]) - 1]}Branch{branch[1]}]"
    ring = _RING_1.fullmatch(symbol)
    if ring:
        return f"[{ring[1]}Ring{ring[2]}]"
    atom = _ATOM_1.fullmatch(symbol)
    if not atom:
        return symbol
    bond, isotope, element, chirality, h, hydrogens, sign, charge = atom.groups(default="")
    count = f"H{hydrogens or 1}" if h else ""
    if element in _ORGANIC and not (isotope or chirality or h or sign):
        count = "H0"  # [C] of 2.x has as many hydrogens as fit, [Cexpl] has none
    return f"[{bond}{isotope}{element}{chirality}{count}{sign}{charge or 1 if sign else ''}]"


def without_stereo(symbol: str) -> str:
    """A 2.x symbol without chirality, direction of its bond and isotope.

    What has said these was an atom in brackets with its hydrogens. Without them an uncharged atom of the organic
    subset is written plainly, as SMILES without stereo write it: [C@@H1] and [13CH3] both become [C].
    """
    ring = _STEREO_RING.fullmatch(symbol)
    if ring:
        return f"[{ring[1]}]"
    atom = _ATOM_2.fullmatch(symbol)
    if not atom:
        return symbol
    bond, isotope, element, chirality, hydrogens, sign, charge = atom.groups(default="")
    if bond in ("/", "\\"):
        bond = ""
    if (isotope or chirality) and element in _ORGANIC and not sign:
        hydrogens = ""
    return f"[{bond}{element}{'H' + hydrogens if hydrogens else ''}{sign}{charge}]"
