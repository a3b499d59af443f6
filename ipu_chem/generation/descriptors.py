"""Descriptions that metrics compare molecules by: fingerprint, scaffold, fragments, properties and descriptors.

D. Rogers, M. Hahn, J. Chem. Inf. Model. 50, 742 (2010) (Morgan fingerprints); G. W. Bemis, M. A. Murcko, J. Med.
Chem. 39, 2887 (1996) (scaffolds); J. Degen et al., ChemMedChem 3, 1503 (2008) (BRICS); G. R. Bickerton et al., Nat.
Chem. 4, 90 (2012) (QED); P. Ertl, A. Schuffenhauer, J. Cheminform. 1, 8 (2009) (SA).
"""

import math
from functools import lru_cache, partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.parallel import in_parallel

FINGERPRINT_BITS = 1024
_FINGERPRINT_RADIUS = 2
_SCAFFOLD_RINGS = 2  # a scaffold of fewer rings is none, as in MOSES
PROPERTIES = ("logP", "SA", "QED", "weight")

# RDKit's functions in rdMolDescriptors whose values, with the counts of elements below, make the vector of `describe`.
_CALCULATED = tuple(
    "ExactMolWt TPSA LabuteASA FractionCSP3 NumHBA NumHBD NumHeteroatoms NumRotatableBonds NumAmideBonds "
    "NumRings NumAromaticRings NumSaturatedRings NumAliphaticRings NumHeterocycles NumAromaticHeterocycles "
    "NumSpiroAtoms NumBridgeheadAtoms NumAtomStereoCenters Chi0v Chi1v Chi2v Chi3v".split()
)
_ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
_LOGP_BINS, _REFRACTIVITY_BINS = 12, 10
DESCRIPTORS: Tuple[str, ...] = (
    *_CALCULATED,
    "MolLogP",
    "MolMR",
    "charged atoms",
    "largest ring",
    *(f"{element} atoms" for element in _ELEMENTS),
    *(f"SlogP_VSA{i}" for i in range(1, _LOGP_BINS + 1)),
    *(f"SMR_VSA{i}" for i in range(1, _REFRACTIVITY_BINS + 1)),
)
_NO_PROPERTIES, _NO_DESCRIPTORS = (math.nan,) * len(PROPERTIES), (math.nan,) * len(DESCRIPTORS)


class Described(NamedTuple):
    """N molecules as numbers.

    Attributes:
        smiles: N canonical SMILES.
        fingerprints: [N, 128] uint8, 1,024 bits of Morgan fingerprints of radius 2.
        scaffolds: N SMILES of Bemis-Murcko scaffolds, "" below two rings.
        fragments: N lists of SMILES of the pieces between BRICS bonds.
        properties: [N, 4] float64: logP (Crippen), SA (NaN without RDKit's Contrib), QED, weight in g/mol.
        descriptors: [N, D] float64, the `DESCRIPTORS`.
    """

    smiles: List[str]
    fingerprints: np.ndarray
    scaffolds: List[str]
    fragments: List[List[str]]
    properties: np.ndarray
    descriptors: np.ndarray


def describe(
    smiles: Sequence[str], workers: Optional[int] = None, title: Optional[str] = None, structures_only: bool = False
) -> Described:
    """Describe molecules in parallel processes, in the order given; what RDKit cannot parse or describe is left out.

    Args:
        smiles: of molecules; "" is none.
        workers: processes; None takes the cores this process may use.
        title: of a bar on stderr; None shows none.
        structures_only: leave properties and descriptors NaN, which take most of the time.
    """
    sa_score()  # read its table once, before processes start
    one = partial(_describe_one, structures_only=structures_only)
    rows = [row for row in in_parallel(one, smiles, workers, title=title) if row is not None]
    columns = list(zip(*rows)) if rows else [()] * 6
    return Described(
        list(columns[0]),
        np.array(columns[1], np.uint8).reshape(-1, FINGERPRINT_BITS // 8),
        list(columns[2]),
        list(columns[3]),
        np.array(columns[4], np.float64).reshape(-1, len(PROPERTIES)),
        np.array(columns[5], np.float64).reshape(-1, len(DESCRIPTORS)),
    )


@lru_cache(maxsize=None)
def sa_score() -> Optional[Callable[[Any], float]]:
    """RDKit's synthetic accessibility of a molecule (1 easy .. 10 hard); None where Contrib is not installed."""
    from rdkit import RDConfig, rdBase

    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    if not path.is_file() or not path.with_name("fpscores.pkl.gz").is_file():
        return None
    # Contrib is no package: its module is loaded from where it lies.
    loader = SourceFileLoader("rdkit_sascorer", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    with rdBase.BlockLogs():
        loader.exec_module(module)
        module.readFragmentScores()
    return module.calculateScore


def _describe_one(smiles: str, structures_only: bool = False) -> Optional[Tuple[Any, ...]]:
    """One row of `Described`, or None."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() == 0:
            return None
        try:
            return _row(mol, structures_only)
        except (RuntimeError, ValueError):  # an invariant of RDKit is violated
            return None


def _row(mol: Any, structures_only: bool) -> Tuple[Any, ...]:
    from rdkit import Chem
    from rdkit.Chem import QED, Descriptors, rdMolDescriptors, rdmolops

    fragments = Chem.MolToSmiles(rdmolops.FragmentOnBRICSBonds(mol)).split(".")
    smiles, structure = Chem.MolToSmiles(mol), (fingerprint(mol), _scaffold(mol), fragments)
    if structures_only:
        return (smiles, *structure, _NO_PROPERTIES, _NO_DESCRIPTORS)
    sa = sa_score()
    accessibility = math.nan if sa is None else float(sa(mol))
    crippen = rdMolDescriptors.CalcCrippenDescriptors(mol)  # logP and molar refractivity
    properties = (crippen[0], accessibility, QED.qed(mol), Descriptors.MolWt(mol))
    return (smiles, *structure, properties, _descriptors(mol, crippen))


def fingerprint(mol: Any) -> np.ndarray:
    """Morgan fingerprint of a molecule, [128] uint8: 1,024 bits, packed."""
    return np.packbits(_generator().GetFingerprintAsNumPy(mol))


@lru_cache(maxsize=None)
def _generator() -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=_FINGERPRINT_RADIUS, fpSize=FINGERPRINT_BITS)


def _scaffold(mol: Any) -> str:
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    try:
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
    except (ValueError, RuntimeError):  # hypervalent atoms may not be parts of a scaffold
        return ""
    return Chem.MolToSmiles(scaffold) if scaffold.GetRingInfo().NumRings() >= _SCAFFOLD_RINGS else ""


def _descriptors(mol: Any, crippen: Tuple[float, float]) -> List[float]:
    from rdkit.Chem import rdMolDescriptors

    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    return [
        *(getattr(rdMolDescriptors, f"Calc{name}")(mol) for name in _CALCULATED),
        *crippen,
        sum(atom.GetFormalCharge() != 0 for atom in mol.GetAtoms()),
        max((len(ring) for ring in mol.GetRingInfo().AtomRings()), default=0),
        *(symbols.count(element) for element in _ELEMENTS),
        *rdMolDescriptors.SlogP_VSA_(mol),
        *rdMolDescriptors.SMR_VSA_(mol),
    ]
