"""rmd17: ten small molecules in 100,000 frames each of a simulation at 500 K, with PBE/def2-SVP energies and forces.

A. S. Christensen, O. A. von Lilienfeld, "On the role of gradients for machine learning of molecular energies and
forces", Mach. Learn.: Sci. Technol. 1, 045018 (2020): the frames of MD17, computed anew with tight convergence.
Their five splits of 1,000 training and 1,000 test frames are the fields official, official_02, ... official_05.
"""

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np

from ipu_chem.data.datasets.info import check_limit, failures_info, target_info
from ipu_chem.data.download import fetch, find_file
from ipu_chem.data.trajectory import Frames, frames_to_store, read_frames
from ipu_chem.units import KCAL_PER_MOL, in_ev
from packing.files import file_digest
from packing.store import Store

URL = "https://figshare.com/ndownloader/files/23950376"
ARCHIVE = "rmd17.tar.bz2"
# Elements of the molecules as their files are called, to notice one that holds another.
FORMULAS = {
    "aspirin": "C9H8O4",
    "azobenzene": "C12H10N2",
    "benzene": "C6H6",
    "ethanol": "C2H6O",
    "malonaldehyde": "C3H4O2",
    "naphthalene": "C10H8",
    "paracetamol": "C8H9NO2",
    "salicylic": "C7H6O3",
    "toluene": "C7H8",
    "uracil": "C4H4N2O2",
}
CITATION = "A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), arXiv:2007.09593"
MOST_TRAINING = 1000  # frames; "more than 1,000 ... is not advised", readme of the data set
# Where the file may lie in the folder that is given: the archive's layout, alone or in PyG's.
_PLACES = ("", "npz_data", "rmd17/npz_data", "raw/rmd17/npz_data")
# Frames of a file that holds the first official split only: its training frames, then its test frames.
_SPLIT_ONLY = 2000

# MAE of a component of forces on the original MD17, 1,000 training frames with energies and forces, kcal/mol/Å.
# SchNet: K. T. Schuett et al., J. Chem. Phys. 148, 241722 (2018), table II. PaiNN: K. T. Schuett, O. T. Unke,
# M. Gastegger, ICML 2021, arXiv:2102.03150, table 2.
_MD17_FORCES = {
    "aspirin": {"SchNet 2018": 1.35, "PaiNN 2021": 0.371},
    "benzene": {"SchNet 2018": 0.31},
    "ethanol": {"SchNet 2018": 0.39, "PaiNN 2021": 0.230},
    "malonaldehyde": {"SchNet 2018": 0.66, "PaiNN 2021": 0.319},
    "naphthalene": {"SchNet 2018": 0.58, "PaiNN 2021": 0.083},
    "salicylic": {"SchNet 2018": 0.85, "PaiNN 2021": 0.209},
    "toluene": {"SchNet 2018": 0.57, "PaiNN 2021": 0.102},
    "uracil": {"SchNet 2018": 0.56, "PaiNN 2021": 0.140},
}


def inputs(path: Optional[Path], cache: Path, molecule: Optional[str] = None) -> Dict[str, Any]:
    """Checksums of the molecule's file and of the index files, fetched first where ``path`` is None."""
    file = _find(path, cache, molecule)
    return {one.name: file_digest(one) for one in (file, *_index_files(file).values())}


def prepare(path: Optional[Path], cache: Path, molecule: Optional[str] = None, limit: Optional[int] = None) -> Store:
    """Read the frames of one molecule.

    Args:
        path: the .npz file, or a folder with it, also in npz_data/, rmd17/npz_data/ or raw/rmd17/npz_data/; None
            downloads the archive.
        cache: folder in which a download is kept.
        molecule: whose frames, such as ethanol or aspirin (`FORMULAS`); None takes ethanol, or the file that is given.
        limit: take the first frames only.

    Returns:
        z, pos, y [I, 1] (eV), forces (eV/Å), charge, spin, name, old_indices [I] and official [I] (0 training, 1
        test, 2 neither), where the index files lie beside the frames or these are the 2,000 of split 01.

    Raises:
        ValueError: no such molecule or file, or one that does not hold it.
    """
    file = _find(path, cache, molecule)
    check_limit("rmd17", limit)
    frames = read_frames(file)
    name = molecule or molecule_of(file)
    check_formula(frames, name, file)
    info = {
        "name": f"rmd17 {name}",
        "targets": [target_info("energy", "eV", True)],
        "forces_of": "energy",
        "level": "PBE/def2-SVP, frames of a PBE+vdW-TS simulation at 500 K",
        "source": file.name,
        "licence": "CC0 (figshare 12672038)",
        "citation": [CITATION],
        "options": {"molecule": name, "limit": limit},
        "failures": failures_info([]),
        "most_training": MOST_TRAINING,
        "published": _published(name),
    }
    store = frames_to_store(frames, name, in_ev(frames.unit or "kcal/mol"), info, _official(file, frames))
    return store if limit is None else store.take(np.arange(min(limit, len(store))))


def find_npz(name: str, path: Path, file: str, places: Sequence[str]) -> Path:
    """A file, itself or in one of some places of a folder.

    Raises:
        ValueError: it is in none of them.
    """
    if path.is_file():
        return path
    found = find_file(path, [file], places)
    if found is not None:
        return found
    others = ", ".join(f"{place}/" for place in places if place)
    raise ValueError(f"{name}: there is no {file} in {path}, nor in {others} there; put it there or pass its path.")


def molecule_of(file: Path) -> str:
    """ethanol of rmd17_ethanol.npz; "" if no name of a molecule is in that of the file."""
    return next((name for name in FORMULAS if name in file.stem.lower()), "")


def check_molecule_name(dataset: str, molecule: Optional[str], names: Sequence[str]) -> None:
    """Refuse a molecule that the data set does not have.

    Raises:
        ValueError: names those that there are.
    """
    if molecule is not None and molecule not in names:
        raise ValueError(f"{dataset} has no molecule {molecule!r}; data.molecule is one of {', '.join(names)}.")


def check_formula(frames: Frames, name: str, file: Path) -> None:
    """Refuse a file of another molecule than it should hold.

    Raises:
        ValueError: gives both formulas.
    """
    symbols = {6: "C", 1: "H", 7: "N", 8: "O"}
    counts = [(symbol, int((frames.z == z).sum())) for z, symbol in symbols.items()]
    found = "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in counts if count)
    expected = FORMULAS.get(name)
    if expected is not None and found != expected:
        raise ValueError(f"{file} holds {found}, but {name} is {expected}; pass the file of that molecule.")


def _find(path: Optional[Path], cache: Path, molecule: Optional[str]) -> Path:
    check_molecule_name("rmd17", molecule, list(FORMULAS))
    if path is None:
        path = fetch("rmd17", URL, cache / ARCHIVE, cache / "rmd17-raw")
    return find_npz("rmd17", path, f"rmd17_{molecule or 'ethanol'}.npz", _PLACES)


def _index_files(file: Path) -> Dict[str, Path]:
    """Index files of the archive beside the folder of the frames: "train_01" -> path."""
    found: Dict[str, Path] = {}
    for folder in (file.parent / "splits", file.parent.parent / "splits"):
        for number in range(1, 6):
            for part in ("train", "test"):
                index = folder / f"index_{part}_{number:02d}.csv"
                if index.is_file():
                    found.setdefault(f"{part}_{number:02d}", index)
    return found


def _official(file: Path, frames: Frames) -> Dict[str, np.ndarray]:
    """The fields official, official_02, ...: [I] uint8, 0 training, 1 test, 2 neither."""
    count = len(frames.energy)
    index_files = _index_files(file)
    if not index_files:
        old = frames.old_indices
        if count == _SPLIT_ONLY and old is not None and len(np.unique(old)) == count:
            return {"official": np.repeat(np.array([0, 1], np.uint8), count // 2)}
        return {}
    fields: Dict[str, np.ndarray] = {}
    for number in range(1, 6):
        if f"train_{number:02d}" not in index_files or f"test_{number:02d}" not in index_files:
            continue
        try:
            part = _part(index_files[f"train_{number:02d}"], index_files[f"test_{number:02d}"], count)
        except ValueError as error:  # other splits are still good
            print(f"rmd17: split {number:02d} is left out: {error}")
            continue
        fields["official" if number == 1 else f"official_{number:02d}"] = part
    return fields


def _part(train: Path, test: Path, count: int) -> np.ndarray:
    """[I] uint8 from two index files.

    Raises:
        ValueError: they hold no frame numbers, those of frames that are not there, or one in both.
    """
    part = np.full(count, 2, np.uint8)
    for value, index in enumerate((train, test)):
        try:
            items = np.array(index.read_text(encoding="utf-8").split(), np.int64)
        except ValueError as error:
            raise ValueError(f"{index} is no list of frame numbers ({error}).") from None
        if not len(items) or items.min() < 0 or items.max() >= count:
            raise ValueError(f"{index} names frames other than 0 to {count - 1}.")
        if (part[items] != 2).any():
            raise ValueError(f"{index}: frame {items[part[items] != 2][0]} is in the training split, too.")
        part[items] = value
    return part


def _published(molecule: str) -> Dict[str, Dict[str, float]]:
    """Metric -> whose -> error, by `ipu_chem.metrics.Target.metric` and in its unit; empty where we know none."""
    forces = {f"{who} on MD17": error * KCAL_PER_MOL * 1000 for who, error in _MD17_FORCES.get(molecule, {}).items()}
    return {"mae_forces_meV_per_A": forces} if forces else {}
