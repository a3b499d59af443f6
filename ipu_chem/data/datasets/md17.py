"""md17: small molecules in up to a million frames of a simulation at 500 K, with energies and forces.

S. Chmiela et al., Sci. Adv. 3, e1603015 (2017), PBE+vdW-TS; S. Chmiela et al., Nat. Commun. 9, 3887 (2018), coupled
cluster, whose files are a training and a test split: the field official. Energies of the former are known to be noisy
(a reason for `rmd17`). Files are those of www.sgdml.org in the layout of torch_geometric.datasets.MD17.
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from ipu_chem.data.datasets.info import check_limit, failures_info, target_info
from ipu_chem.data.datasets.rmd17 import MOST_TRAINING, check_formula, check_molecule_name, find_npz, molecule_of
from ipu_chem.data.download import download, unpack
from ipu_chem.data.trajectory import Frames, frames_to_store, read_frames
from ipu_chem.units import in_ev
from packing.files import file_digest
from packing.store import Store

URL = "https://www.quantum-machine.org/gdml/data/npz"
_DFT = "PBE+vdW-TS, frames of a simulation at 500 K"


class Source(NamedTuple):
    """A trajectory.

    Attributes:
        file: .npz of all frames, or .zip of a training and a test split.
        folder: PyG's, in which raw/ has it.
        level: of theory.
    """

    file: str
    folder: str
    level: str


SOURCES: Dict[str, Source] = {
    "aspirin": Source("md17_aspirin.npz", "aspirin", _DFT),
    "azobenzene": Source("azobenzene_dft.npz", "azobenzene", _DFT),
    "benzene": Source("md17_benzene2017.npz", "benzene", _DFT),
    "benzene_2018": Source("benzene2018_dft.npz", "benzene FHI-aims", _DFT + ", tight settings"),
    "ethanol": Source("md17_ethanol.npz", "ethanol", _DFT),
    "malonaldehyde": Source("md17_malonaldehyde.npz", "malonaldehyde", _DFT),
    "naphthalene": Source("md17_naphthalene.npz", "naphthalene", _DFT),
    "paracetamol": Source("paracetamol_dft.npz", "paracetamol", _DFT),
    "salicylic": Source("md17_salicylic.npz", "salicylic acid", _DFT),
    "toluene": Source("md17_toluene.npz", "toluene", _DFT),
    "uracil": Source("md17_uracil.npz", "uracil", _DFT),
    "aspirin_ccsd": Source("aspirin_ccsd.zip", "aspirin CCSD", "CCSD/cc-pVDZ"),
    "benzene_ccsd_t": Source("benzene_ccsd_t.zip", "benzene CCSD(T)", "CCSD(T)/cc-pVDZ"),
    "ethanol_ccsd_t": Source("ethanol_ccsd_t.zip", "ethanol CCSD(T)", "CCSD(T)/cc-pVTZ"),
    "malonaldehyde_ccsd_t": Source("malonaldehyde_ccsd_t.zip", "malonaldehyde CCSD(T)", "CCSD(T)/cc-pVDZ"),
    "toluene_ccsd_t": Source("toluene_ccsd_t.zip", "toluene CCSD(T)", "CCSD(T)/cc-pVDZ"),
}


def inputs(path: Optional[Path], cache: Path, molecule: Optional[str] = None) -> Dict[str, Any]:
    """Checksums of the files, fetched first where ``path`` is None."""
    return {file.name: file_digest(file) for file in _find(path, cache, molecule)}


def prepare(path: Optional[Path], cache: Path, molecule: Optional[str] = None, limit: Optional[int] = None) -> Store:
    """Read the frames of one molecule.

    Args:
        path: the .npz file, or a folder with it, also in raw/ or PyG's "ethanol CCSD(T)/raw/"; None downloads it.
            Beside a file ...-train.npz that of its test split is read, too, if it is there.
        cache: folder in which a download is kept.
        molecule: whose frames, such as ethanol or aspirin (`SOURCES`); None takes ethanol, or the file that is given.
        limit: take the first frames only.

    Returns:
        As `rmd17.prepare`; official [I] (0 training, 1 test) for coupled cluster with both splits.

    Raises:
        ValueError: no such molecule or file, or one that does not hold it.
    """
    check_limit("md17", limit)
    files = _find(path, cache, molecule)
    parts = [read_frames(file) for file in files]
    name = molecule or _name_of(files[0])
    for frames, file in zip(parts, files):
        check_formula(frames, molecule_of(Path(name)) if name else "", file)
        if not np.array_equal(frames.z, parts[0].z):
            raise ValueError(f"{file} has its atoms in another order than {files[0]}; they do not belong together.")
    old = [part.old_indices for part in parts if part.old_indices is not None]
    frames = Frames(
        parts[0].z,
        np.concatenate([part.pos for part in parts]),
        np.concatenate([part.energy for part in parts]),
        np.concatenate([part.forces for part in parts]),
        np.concatenate(old) if len(old) == len(parts) else None,
        parts[0].unit,
    )
    if any(part.unit != parts[0].unit for part in parts):
        raise ValueError(f"{files[0]} states {parts[0].unit!r} as its unit of energy, the other file another one.")
    info = {
        "name": f"md17 {name}".strip(),
        "targets": [target_info("energy", "eV", True)],
        "forces_of": "energy",
        "level": SOURCES[name].level if name in SOURCES else _DFT,
        "source": ", ".join(file.name for file in files),
        "licence": "none stated (http://www.sgdml.org)",
        "citation": [
            "S. Chmiela, A. Tkatchenko, H. E. Sauceda, I. Poltavsky, K. T. Schuett, K.-R. Mueller, Sci. Adv. 3, "
            "e1603015 (2017)",
            "S. Chmiela, H. E. Sauceda, K.-R. Mueller, A. Tkatchenko, Nat. Commun. 9, 3887 (2018) (coupled cluster)",
        ],
        "options": {"molecule": name, "limit": limit},
        "failures": failures_info([]),
        "most_training": MOST_TRAINING,
    }
    fields = {}
    if len(parts) == 2:
        fields["official"] = np.repeat(np.array([0, 1], np.uint8), [len(part.energy) for part in parts])
    store = frames_to_store(frames, name or files[0].stem, in_ev(frames.unit or "kcal/mol"), info, fields)
    return store if limit is None else store.take(np.arange(min(limit, len(store))))


def _find(path: Optional[Path], cache: Path, molecule: Optional[str]) -> List[Path]:
    """The file of all frames, or those of the training split and, if it is there, of the test split."""
    check_molecule_name("md17", molecule, list(SOURCES))
    source = SOURCES[molecule or "ethanol"]
    archive = source.file.endswith(".zip")
    if path is None:
        file = download("md17", f"{URL}/{source.file}", cache / source.file)
        if not archive:
            return [file]
        path = unpack("md17", file, cache / file.stem)
    wanted = source.file[:-4] + "-train.npz" if archive else source.file
    train = find_npz("md17", path, wanted, ("", "raw", f"{source.folder}/raw"))
    test = train.with_name(train.name.replace("-train.npz", "-test.npz"))
    return [train, test] if test != train and test.is_file() else [train]


def _name_of(file: Path) -> str:
    """The molecule of a file that is given, by the name that it was published with; else by what its name holds."""
    stem = file.stem.replace("-train", "").replace("-test", "")
    published = {Path(source.file).stem: name for name, source in SOURCES.items()}
    return published.get(stem, molecule_of(file))
