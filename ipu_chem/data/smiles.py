"""SMILES to 3D: RDKit's ETKDGv3 embedding, MMFF94 minimization, and the MMFF94 energy as a label.

S. Wang et al., "Improving Conformer Generation for Small Rings and Macrocycles Based on Distance Geometry and
Experimental Torsional-Angle Preferences", J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3); T. A. Halgren,
"Merck molecular force field. I.", J. Comput. Chem. 17, 490 (1996) (MMFF94).
"""

from functools import partial
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.files.table import Entry, Failure, Line, smiles_doubt
from ipu_chem.data.fragments import KEEP, LARGEST, SEVERAL, exceeds, largest_fragment, without_maps
from ipu_chem.data.molecule import Molecule, from_rdkit
from ipu_chem.parallel import in_parallel
from ipu_chem.ranges import check_number

if TYPE_CHECKING:
    from rdkit.Chem import Mol

# Attempts at an embedding, first from the distance bounds, then from random coordinates.
_ATTEMPTS = (10, 20)
_MINIMIZER_STEPS = 1000
# Atoms of a molecule, hydrogens included: embedding takes seconds for 250, and a minute or more for twice as many.
MOST_ATOMS = 500
# kcal/mol/Å; a converged minimization ends below 0.03, a broken one (a straight angle) at thousands.
_LARGEST_FORCE = 0.1
# Below this many molecules, starting processes costs more than it gains.
_FEW = 16


class Embedding(NamedTuple):
    """One molecule in 3D; ``molecule.y`` is [1], its MMFF94 energy in kcal/mol at this geometry."""

    molecule: Molecule
    smiles: str  # canonical
    line: int
    cut: bool = False  # without its smaller fragments


def embed_smiles(
    smiles: str,
    seed: int = 0,
    name: str = "",
    line: int = 0,
    max_atoms: Optional[int] = None,
    fragments: str = KEEP,
) -> Embedding:
    """A local minimum of MMFF94 and its energy; the same for the same SMILES, seed and RDKit version.

    Args:
        smiles: one molecule in one fragment.
        seed: of the embedding, 0 or more.
        name: of the molecule; the SMILES when empty.
        line: passed on.
        max_atoms: refuse larger molecules, hydrogens included, before embedding them; None stands for `MOST_ATOMS`.
        fragments: "largest" takes the one of most heavy atoms; else a molecule of several is refused.

    Raises:
        ValueError: the reason alone, such as "no MMFF94 parameters".
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import ChemicalForceFields, rdDistGeom

    with rdBase.BlockLogs():
        mol, cut = _parsed(smiles, MOST_ATOMS if max_atoms is None else max_atoms, fragments)
        canonical = Chem.MolToSmiles(mol)
        mol = _with_hydrogens(mol)
        options = rdDistGeom.ETKDGv3()
        options.randomSeed = seed + 1  # to RDKit's generator 0 and 1 are the same seed
        for attempts, random in zip(_ATTEMPTS, (False, True)):
            options.maxIterations, options.useRandomCoords = attempts, random
            if rdDistGeom.EmbedMolecule(mol, options) >= 0:
                break
        else:
            raise ValueError(f"no 3D embedding in {sum(_ATTEMPTS)} attempts")

        properties = ChemicalForceFields.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
        field = ChemicalForceFields.MMFFGetMoleculeForceField(mol, properties)
        field.Initialize()
        if field.Minimize(maxIts=_MINIMIZER_STEPS) != 0:
            raise ValueError(f"MMFF94 minimization not converged in {_MINIMIZER_STEPS} steps")
        # The minimizer also stops, and reports success, where an angle is straight and its gradient breaks down.
        force = float(np.abs(field.CalcGrad()).max())
        if not force <= _LARGEST_FORCE:
            raise ValueError(f"MMFF94 minimization stopped off a minimum (a force above {_LARGEST_FORCE} kcal/mol/Å)")
        molecule = from_rdkit(mol, name or smiles)._replace(
            y=np.array([field.CalcEnergy()]),
            charge=Chem.GetFormalCharge(mol),
            spin=sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()),
        )
        return Embedding(molecule, canonical, line, cut)


def _parsed(smiles: str, most: int, fragments: str) -> Tuple["Mol", bool]:
    """A molecule without its hydrogens, and whether smaller fragments were cut off; see `embed_smiles`."""
    from rdkit import Chem

    doubt = smiles_doubt(smiles.strip())
    if doubt:
        raise ValueError(doubt)
    too_many = f"more than {most} atoms with hydrogens"
    if exceeds(smiles, most):  # which some RDKits parse for hours
        raise ValueError(too_many)
    mol = Chem.MolFromSmiles(without_maps(smiles))
    if mol is None or mol.GetNumAtoms() == 0:
        raise ValueError("RDKit cannot parse the SMILES")
    count = len(Chem.GetMolFrags(mol))
    cut = count > 1 and fragments == LARGEST
    if count > 1 and not cut:
        raise ValueError(f"{SEVERAL} ({count}); give one molecule per line")
    mol = largest_fragment(mol)[0] if cut else mol
    if mol.GetNumAtoms(onlyExplicit=False) > most:
        raise ValueError(too_many)
    return mol, cut


def _with_hydrogens(mol: "Mol") -> "Mol":
    """A molecule that can be minimized.

    Raises:
        ValueError: the force field does not know its atoms.
    """
    from rdkit import Chem
    from rdkit.Chem import ChemicalForceFields

    mol = Chem.AddHs(mol)
    if not ChemicalForceFields.MMFFHasAllMoleculeParams(mol):
        raise ValueError("no MMFF94 parameters")
    return mol


def count_atoms(
    lines: Sequence[Entry], workers: Optional[int] = None, progress: bool = True
) -> Tuple[np.ndarray, List[Failure]]:
    """Sizes of molecules from their SMILES alone, in a hundredth of the time of embeddings or less.

    Args:
        lines: of a file; failures are passed on.
        workers: processes; None takes the cores this process may use.
        progress: show a bar on stderr.

    Returns:
        ([I, 2] int64, atoms with hydrogens, and heavy atoms; molecules that no embedding would be tried for). Of the
        others some may have none: that alone is not known before it is tried.
    """
    results = list(in_parallel(_count_or_fail, lines, workers, chunk=256, title="counting" if progress else None))
    counts = [result for result in results if not isinstance(result, Failure)]
    return np.array(counts, np.int64).reshape(-1, 2), [result for result in results if isinstance(result, Failure)]


def _count_or_fail(line: Entry) -> Union[Tuple[int, int], Failure]:
    from rdkit import rdBase

    if isinstance(line, Failure):
        return line
    try:
        with rdBase.BlockLogs():
            mol = _with_hydrogens(_parsed(line.smiles, MOST_ATOMS, KEEP)[0])
    except (ValueError, RuntimeError) as error:
        return Failure(line.line, line.smiles, str(error).strip().split("\n")[0], line.name)
    return mol.GetNumAtoms(), mol.GetNumHeavyAtoms()


def embed_many(
    smiles: Sequence[Union[str, Entry]],
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
    strict: bool = False,
    max_atoms: Optional[int] = None,
    fragments: str = KEEP,
    title: str = "embedding",
) -> Tuple[List[Embedding], List[Failure]]:
    """Embed molecules in parallel processes; the result does not depend on how many there are.

    Args:
        smiles: texts, or what `read_smiles_file` gives; failures are passed on.
        seed: of every embedding.
        workers: processes; None takes the cores this process may use.
        progress: show a bar on stderr.
        strict: stop at the first failure instead of listing it.
        max_atoms: list larger molecules, hydrogens included, as failures.
        fragments: see `embed_smiles`.
        title: of the bar.

    Returns:
        (embeddings, failures), each in the order given.

    Raises:
        ValueError: ``strict`` and a molecule failed; names the line, the SMILES and the reason.
    """
    check_number("data.seed", seed, "from 0 to 2,147,483,646", whole=True)  # RDKit's are 32 bits, and random below 0
    lines = [
        Line(index, item, str(index)) if isinstance(item, str) else item for index, item in enumerate(smiles, start=1)
    ]
    embed = partial(_embed_or_fail, seed=seed, max_atoms=max_atoms, fragments=fragments)
    embeddings: List[Embedding] = []
    failures: List[Failure] = []
    for result in in_parallel(embed, lines, workers, chunk=_FEW, few=_FEW, title=title if progress else None):
        if isinstance(result, Embedding):
            embeddings.append(result)
        elif strict:
            raise ValueError(f"line {result.line} ({result.smiles}): {result.reason}.")
        else:
            failures.append(result)
    return embeddings, failures


def _embed_or_fail(line: Entry, seed: int, max_atoms: Optional[int], fragments: str) -> Union[Embedding, Failure]:
    if isinstance(line, Failure):
        return line
    try:
        return embed_smiles(line.smiles, seed, line.name or str(line.line), line.line, max_atoms, fragments)
    except (ValueError, RuntimeError) as error:  # RDKit reports a violated invariant as RuntimeError
        return Failure(line.line, line.smiles, str(error).strip().split("\n")[0], line.name)
