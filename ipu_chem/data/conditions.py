"""Values of the properties that a language model is given: computed by RDKit, or columns of the molecules' table."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np

from ipu_chem.cache import cache_folder, content_key
from ipu_chem.data.files.layout import TableOptions, read_layout
from ipu_chem.data.files.numbers import read_labels
from ipu_chem.data.molecule import decode_texts
from ipu_chem.parallel import in_parallel
from packing.arrays import open_arrays
from packing.files import atomic_file
from packing.store import Store

_FORMAT = 1


def _logp(mol: Any) -> float:
    from rdkit.Chem import Crippen

    return Crippen.MolLogP(mol)


def _qed(mol: Any) -> float:
    from rdkit.Chem import QED

    return QED.qed(mol)


def _descriptor(name: str, mol: Any) -> float:
    from rdkit.Chem import Descriptors

    return getattr(Descriptors, name)(mol)


# Wildman and Crippen's logP; Bickerton's drug-likeness; weight in g/mol; polar surface in Å²; counts.
COMPUTED: Dict[str, Callable[[Any], float]] = {
    "logp": _logp,
    "qed": _qed,
    "weight": partial(_descriptor, "MolWt"),
    "tpsa": partial(_descriptor, "TPSA"),
    "donors": partial(_descriptor, "NumHDonors"),
    "acceptors": partial(_descriptor, "NumHAcceptors"),
    "rotatable": partial(_descriptor, "NumRotatableBonds"),
    "rings": partial(_descriptor, "RingCount"),
}


def computed(smiles: Sequence[str], names: Sequence[str], workers: int = 0) -> np.ndarray:
    """Properties of `COMPUTED`, [I, P] float64; NaN where RDKit reads no molecule or has no value.

    Args:
        smiles: of I molecules.
        names: P of `COMPUTED`.
        workers: processes; 0 takes the cores this process may use.
    """
    calculate = partial(_values_of, names=tuple(names))
    return np.array(list(in_parallel(calculate, smiles, workers or None)), np.float64).reshape(len(smiles), len(names))


def condition_values(
    store: Store, names: Sequence[str], path: str, cache: str, limit: int, workers: int, table: TableOptions
) -> np.ndarray:
    """Values of properties of all molecules of a corpus, [I, P] float64, NaN where they are missing.

    Args:
        store: the corpus.
        names: P names; those of `COMPUTED` are computed, and kept in the cache folder, others are columns.
        path: of the table that the corpus was made of, for columns.
        cache, limit, workers, table: as the corpus was read.

    Raises:
        ValueError: a name is neither, or a column holds something else than numbers.
    """
    values = np.full((len(store), len(names)), np.nan)
    mine = [name for name in names if name in COMPUTED]
    if mine:
        values[:, [names.index(name) for name in mine]] = _kept(store, mine, cache, workers)
    columns = [name for name in names if name not in COMPUTED]
    if columns:
        if not path or not Path(path).expanduser().is_file():
            raise ValueError(
                f"data.condition={columns[0]}: RDKit computes {', '.join(COMPUTED)}; any other is a column of "
                "data.path, which is no file."
            )
        file = Path(path).expanduser()
        lines, labels = read_labels(file, read_layout(file, table), columns, limit)
        places = np.searchsorted(lines, store.fields["line"])
        assert np.array_equal(lines[places], store.fields["line"]), "every molecule's line was read for its values"
        values[:, [names.index(name) for name in columns]] = labels[places]
    return values


def _kept(store: Store, names: Sequence[str], cache: str, workers: int) -> np.ndarray:
    """Computed properties, read where they were computed before."""
    import rdkit

    smiles = decode_texts(store, "smiles")
    digest = hashlib.blake2b("\n".join(smiles).encode("utf-8"), digest_size=16).hexdigest()
    identity = {"format": _FORMAT, "rdkit": rdkit.__version__, "names": list(names), "smiles": digest}
    file = cache_folder(cache or None) / f"conditions-{content_key(identity)}.npz"
    try:
        with open_arrays(file) as arrays:
            found = arrays["values"]
        if found.shape == (len(store), len(names)):
            return found
    except (FileNotFoundError, ValueError, KeyError):  # not there, or damaged: computed again
        pass
    print(f"computing {', '.join(names)} of {len(store):,} molecules")
    found = computed(smiles, names, workers)
    with atomic_file(file) as made:
        np.savez(made, values=found)
    return found


def _values_of(smiles: str, names: Sequence[str]) -> List[float]:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return [float("nan")] * len(names)
    found = []
    for name in names:
        try:
            value = float(COMPUTED[name](mol))
        except (RuntimeError, ValueError):  # an invariant of RDKit is violated
            value = float("nan")
        found.append(value if np.isfinite(value) else float("nan"))
    return found
