"""nci3d: small organic molecules with MMFF94 energies, made on this machine from what RDKit ships; no download.

The first 4,999 structures of the NCI open compound collection as SMILES, embedded by ETKDGv3, minimized in
MMFF94; the label is the MMFF94 energy at that minimum. It is a data set for trying things out on real,
varied molecules, not a quantum-chemical benchmark: one conformer each, and a force-field energy. The same
RDKit version gives the same store; another version may give other conformers.

What is left out, always counted and listed with its reason: SMILES that RDKit cannot parse, several
fragments (a choice of the largest would silently rename salts), more than ``max_atoms`` atoms, no MMFF94
parameters, no embedding, minimizations that did not end at a minimum, and elements that fewer than
``min_element_count`` molecules hold, because nothing can be learned of them and a random split may keep all
of them from training. Nothing is left out for its energy: the tail (down to -590 kcal/mol) is MMFF94's own
electrostatics of sulfonic acids, melamines and ammonium cages, not failed minimizations.
"""

import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.datasets.info import failures_info, target_info
from ipu_chem.data.files.table import Failure, read_smiles_file
from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.data.smiles import Embedding, embed_many
from packing.files import file_digest
from packing.store import Store


def inputs(path: Optional[Path], cache: Path) -> Dict[str, Any]:
    """Checksum of the SMILES and the version of RDKit, on which conformers depend."""
    import rdkit

    return {"smiles": file_digest(_smiles_file(path)), "rdkit": rdkit.__version__}


def prepare(
    path: Optional[Path],
    cache: Path,
    limit: Optional[int] = None,
    max_atoms: int = 64,
    min_element_count: int = 10,
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
) -> Store:
    """Embed and label; all 4,999 lines take about 40 seconds on two cores.

    Args:
        path: another copy of the SMILES file; None takes RDKit's.
        cache: not used.
        limit: take the first lines of the file only.
        max_atoms: leave out larger molecules, hydrogens included.
        min_element_count: leave out molecules with an element that fewer of them hold.
        seed: of the embeddings.
        workers: processes; None takes all cores.
        progress: show a bar.

    Returns:
        z, pos, y [I, 1] (kcal/mol), id [I] (NSC number), name and smiles (canonical).

    Raises:
        ValueError: an option is out of range, or no molecule is left.
    """
    if limit is not None and limit < 1 or max_atoms < 1 or min_element_count < 1 or seed < 0:
        raise ValueError(
            f"nci3d: limit={limit}, max_atoms={max_atoms}, min_element_count={min_element_count} are 1 or more "
            f"and seed={seed} is 0 or more."
        )
    lines = read_smiles_file(_smiles_file(path), limit=limit or 0)
    embeddings, failures = embed_many(lines, seed, workers, progress, max_atoms=max_atoms)
    embeddings, rare = _without_rare_elements(embeddings, min_element_count)
    failures = sorted(failures + rare)
    if not embeddings:
        raise ValueError(f"nci3d: none of {len(lines)} molecules is left; lower min_element_count or raise limit.")
    import rdkit

    info = {
        "name": "nci3d",
        "targets": [target_info("mmff94_energy", "kcal/mol", extensive=True)],
        "level": "MMFF94 energy at a local MMFF94 minimum; geometry from ETKDGv3, one conformer per molecule",
        "source": f"NCI/first_5K.smi of RDKit {rdkit.__version__}",
        "licence": "file shipped with RDKit (BSD-3-Clause); NCI DTP open compound collection",
        "citation": [
            "J. H. Voigt et al., J. Chem. Inf. Comput. Sci. 41, 702 (2001) (NCI open database)",
            "S. Wang et al., J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3)",
            "T. A. Halgren, J. Comput. Chem. 17, 490 (1996) (MMFF94)",
            "RDKit: open-source cheminformatics, https://www.rdkit.org",
        ],
        "options": {"limit": limit, "max_atoms": max_atoms, "min_element_count": min_element_count, "seed": seed},
        "lines": len(lines),
        "failures": failures_info(failures),
    }
    # Another SMILES file may have names that are no numbers; its line numbers do then.
    ids = [int(e.molecule.name) if e.molecule.name.isdecimal() else e.line for e in embeddings]
    return molecules_to_store(
        [embedding.molecule for embedding in embeddings],
        info,
        [embedding.smiles for embedding in embeddings],
        {"id": np.array(ids, np.int64)},
    )


def _without_rare_elements(
    embeddings: List[Embedding], min_element_count: int
) -> Tuple[List[Embedding], List[Failure]]:
    """Leave out molecules with a rare element, until no element is rare among those that stay."""
    failures: List[Failure] = []
    while embeddings:
        holds = np.zeros((len(embeddings), len(SYMBOLS)), bool)
        for row, embedding in enumerate(embeddings):
            holds[row, embedding.molecule.z] = True
        counts = holds.sum(axis=0)
        rare = (counts > 0) & (counts < min_element_count)
        if not rare.any():
            break
        out = (holds & rare).any(axis=1)
        for row in np.flatnonzero(out):
            symbol = SYMBOLS[int(np.argmax(holds[row] & rare))]
            reason = f"element {symbol} in fewer than {min_element_count} molecules"
            failures.append(Failure(embeddings[row].line, embeddings[row].smiles, reason))
        embeddings = [embedding for embedding, leave in zip(embeddings, out) if not leave]
    return embeddings, failures


def _smiles_file(path: Optional[Path]) -> Path:
    if path is None:
        try:
            from rdkit import RDConfig
        except ImportError:
            raise ValueError("nci3d is made with RDKit: pip install rdkit.") from None
        path = Path(os.path.join(RDConfig.RDDataDir, "NCI", "first_5K.smi"))
    if not path.is_file():
        raise ValueError(f"there is no file {path}; nci3d needs first_5K.smi, pass its path.")
    return path
