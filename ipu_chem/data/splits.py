"""Splits into training, validation and test molecules: at random, by scaffold, as the data set's authors or a file say.

A split is made before anything is packed, and its fingerprint is kept with every result, because figures on
another split of the same data set do not compare.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.files.text import existing_file
from ipu_chem.data.fragments import without_maps
from packing.arrays import open_arrays
from packing.files import PathLike

# Names of the splits in the split files of the field (SchNetPack, PhysNet, TorchMD-Net, Cormorant).
_KEYS = {
    "train": ("train", "idx_train", "train_idx", "train_indices"),
    "val": ("val", "valid", "validation", "idx_val", "val_idx", "idx_valid", "valid_idx", "val_indices"),
    "test": ("test", "idx_test", "test_idx", "test_indices"),
}

_ROUNDING = 1e-6  # of sums of fractions of molecules
_MOST_JSON = 1 << 28  # bytes; read as a whole, in some ten times as many
# Names of published splits, and of the fields of a store that say which items are in them.
RULES = ("random", "scaffold", "scaffold_deepchem")  # splits that need no file
OFFICIAL = re.compile(r"official(_\d\d)?")


class Split(NamedTuple):
    """Items of each split, rising: the order in which they train is the plan's affair.

    Attributes:
        train: [I_train] int32, at least one.
        val: [I_val] int32.
        test: [I_test] int32.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def random_split(
    n: int,
    val: Union[int, float],
    test: Union[int, float],
    seed: int = 0,
    train: Union[int, float, None] = None,
    groups: Optional[np.ndarray] = None,
) -> Split:
    """Items at random; the same for the same arguments on every machine.

    Args:
        n: items there are.
        val, test: a count (int) or a fraction below 1 (float), which gives at least one item unless 0.
        seed: 0 or more. The test and validation splits do not depend on ``train``.
        train: a count or a fraction, likewise; None takes the rest.
        groups: [n] integer, the molecule that each item is, from 0. All items of one go to one side, that of the first
            in the random order, and counts are hit as nearly as they let. All others go where they go without groups.

    Raises:
        ValueError: a count is out of range, nothing is left to train on, or there are too few groups.
    """
    if n < 1 or seed < 0:
        raise ValueError(f"random_split: n={n} is 1 or more and seed={seed} is 0 or more.")
    num_val, num_test = _count(n, val, "val"), _count(n, test, "test")
    left = n - num_val - num_test
    train = round(n * train) if isinstance(train, float) else train
    if train is not None and train < 1 or left < (train or 1):
        raise ValueError(
            f"random_split: {n} items are not enough for val={num_val}, test={num_test} "
            f"and train={train or 'at least 1'}."
        )
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed]))).permutation(n)
    if groups is not None:
        return _grouped_split(order, groups, num_val, num_test, train)
    rest = order[num_test + num_val :]
    return check_split(rest[:train], order[num_test : num_test + num_val], order[:num_test], n)


def file_split(path: PathLike, n: int) -> Split:
    """A split from an .npz or .json file with integer arrays train, val, test (or idx_train, train_idx, ...).

    Args:
        path: the file.
        n: rows there are; the indices count them from 0.

    Raises:
        ValueError: no such file, another format, a split is missing, or `check_split` refuses it.
    """
    path = existing_file(path)
    try:
        parts = _read_parts(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no split file (.npz or .json with train, val and test): {error}") from None
    found = []
    for part, keys in _KEYS.items():
        key = next((key for key in keys if key in parts), None)
        if key is None:
            raise ValueError(f"{path} has no {part} split ({', '.join(keys)}); it has {', '.join(parts) or 'nothing'}.")
        found.append(np.asarray(parts[key]))
    try:
        return check_split(found[0], found[1], found[2], n)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def items_of_rows(split: Split, rows: np.ndarray) -> Tuple[Split, Dict[str, np.ndarray]]:
    """The items of a split that names rows of a file, and the rows that are no items, by split.

    Args:
        split: of rows.
        rows: [I] integer, the row of each item, all different.

    Raises:
        ValueError: none of the training rows is an item.
    """
    order = np.argsort(rows, kind="stable")
    found, left = [], {}
    for name, wanted in zip(Split._fields, split):
        place = np.minimum(np.searchsorted(rows[order], wanted), len(rows) - 1)
        there = rows[order][place] == wanted
        found.append(order[place[there]])
        if not there.all():
            left[name] = wanted[~there]
    if len(found[0]) == 0:
        raise ValueError(f"all {len(split.train):,} rows of the train split were left out.")
    return check_split(*found, len(rows)), left


def official_split(
    part: np.ndarray,
    val: Union[int, float],
    seed: int = 0,
    train: Union[int, float, None] = None,
    groups: Optional[np.ndarray] = None,
) -> Split:
    """Splits that a data set was published with; without one for validation, some training items are it.

    Args:
        part: [I] integer, 0 for training, 1 for test, 2 for neither, 3 for validation.
        val: a count, or a fraction of the training items; not used where there is a split for validation.
        seed: of the choice for validation.
        train: likewise; None takes all that validation leaves.
        groups: [I], see `random_split`; of the choice for validation.

    Raises:
        ValueError: there are not that many training items.
    """
    items = np.flatnonzero(part == 0)
    if not len(items):
        raise ValueError("none of these molecules are of the official training split; was data.limit too small?")
    published = np.flatnonzero(part == 3)
    of_items = None if groups is None else numbered(groups[items])
    inner = random_split(len(items), 0 if len(published) else val, 0, seed, train, of_items)
    validation = published if len(published) else items[inner.val]
    return check_split(items[inner.train], validation, np.flatnonzero(part == 1), len(part))


def scaffold_split(smiles: Sequence[str], val: Union[int, float], test: Union[int, float], seed: int = 0) -> Split:
    """Whole Bemis-Murcko scaffolds in one split each, the largest ones in training: a test of transfer.

    Args:
        smiles: of every item, in the order of the store. Molecules without rings have one, empty, scaffold in common.
        val, test: count or fraction to aim at; whole scaffolds hit it only nearly.
        seed: order of scaffolds with equally many molecules.

    Raises:
        ValueError: a SMILES cannot be parsed, or a split stays empty because scaffolds are too few.
    """
    n = len(smiles)
    if n < 1 or seed < 0:
        raise ValueError(f"scaffold_split: there are {n} SMILES (1 or more) and seed={seed} (0 or more).")
    wanted = {"val": _count(n, val, "val"), "test": _count(n, test, "test")}
    room = {"train": n - sum(wanted.values()), **wanted}
    if room["train"] < 1:
        raise ValueError(f"scaffold_split: val={wanted['val']} and test={wanted['test']} leave none of {n} to train.")
    groups = list(_scaffold_groups(smiles).values())
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
    shuffled = [groups[index] for index in random.permutation(len(groups))]
    parts: Dict[str, List[int]] = {"train": [], "val": [], "test": []}
    for group in sorted(shuffled, key=len, reverse=True):
        # The first goes to train even if it is too large for it; it fits nowhere better.
        if not parts["train"] or len(group) <= room["train"]:
            part = "train"
        else:
            part = max(("val", "test"), key=lambda side: room[side])
        parts[part] += group
        room[part] -= len(group)
    empty = [part for part, count in wanted.items() if count and not parts[part]]
    if empty:
        raise ValueError(
            f"scaffold_split: {len(groups)} scaffolds of {n} molecules leave {' and '.join(empty)} empty; "
            "use random_split or more varied molecules."
        )
    return check_split(parts["train"], parts["val"], parts["test"], n)


def deepchem_scaffold_split(smiles: Sequence[str], val: Union[int, float], test: Union[int, float]) -> Split:
    """Whole Bemis-Murcko scaffolds in one split each, as DeepChem's ScaffoldSplitter gives them, for published figures.

    The largest scaffolds are in training until it is full, the next ones in validation, and single molecules in test;
    there is nothing random in it.

    Args:
        smiles, val, test: see `scaffold_split`.

    Raises:
        ValueError: a SMILES cannot be parsed, or a split stays empty.
    """
    n = len(smiles)
    wanted = {"val": _count(n, val, "val"), "test": _count(n, test, "test")}
    # Fractions are not rounded there: a scaffold that fills 513.6 molecules to 514 does not fit.
    for_val, for_test = (size * n if isinstance(size, float) else size for size in (val, test))
    parts: Dict[str, List[int]] = {"train": [], "val": [], "test": []}
    # Equal scaffolds go by their first item, the later one first.
    for group in sorted(_scaffold_groups(smiles).values(), key=lambda one: (len(one), one[0]), reverse=True):
        trained = len(parts["train"]) + len(group)
        if trained <= n - for_val - for_test + _ROUNDING:
            part = "train"
        else:
            part = "val" if trained + len(parts["val"]) <= n - for_test + _ROUNDING else "test"
        parts[part] += group
    empty = [part for part, count in wanted.items() if count and not parts[part]]
    if empty:
        raise ValueError(f"the scaffolds of {n} molecules leave {' and '.join(empty)} empty; set data.split=random.")
    return check_split(parts["train"], parts["val"], parts["test"], n)


def check_split(train: Any, val: Any, test: Any, n: int) -> Split:
    """A split of ``n`` items from anything like three integer arrays.

    Raises:
        ValueError: nothing to train on, an index out of range, or one that occurs twice.
    """
    parts = []
    for name, items in (("train", train), ("val", val), ("test", test)):
        items = np.asarray(items)
        if items.ndim != 1 or (items.size and items.dtype.kind not in "iu"):
            raise ValueError(f"the {name} split is a list of item numbers, not {items.dtype} of {list(items.shape)}.")
        if items.size and (items.min() < 0 or items.max() >= n):
            outside = items.min() if items.min() < 0 else items.max()
            raise ValueError(
                f"the {name} split names item {outside}, but items are 0 to {n - 1}; "
                "is the split for another version of the data set?"
            )
        parts.append(np.sort(items).astype(np.int32))
    if len(parts[0]) == 0:
        raise ValueError("the train split is empty.")
    items, counts = np.unique(np.concatenate(parts), return_counts=True)
    if len(items) and counts.max() > 1:
        twice = int(items[np.argmax(counts)])
        sides = [name for name, part in zip(Split._fields, parts) for _ in range(int((part == twice).sum()))]
        raise ValueError(f"item {twice} occurs {counts.max()} times ({', '.join(sides)}); splits must not overlap.")
    return Split(*parts)


def fingerprint(split: Split, molecules: Optional[np.ndarray] = None) -> str:
    """16 hex digits that change with any molecule of any split.

    Args:
        split: items.
        molecules: [I] uint64, a number for each (`ipu_chem.data.identity`); None takes the numbers of the items, which
            mean nothing beyond one store.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, items in zip(Split._fields, split):
        numbers = np.asarray(items).astype("<i4") if molecules is None else molecules[items].astype("<u8")
        digest.update(f"{name} {len(items)} ".encode())
        digest.update(np.sort(numbers).tobytes())
    return digest.hexdigest()


def describe(split: Split, known: str = "") -> str:
    """One line for logs and reports, with the `fingerprint` that is known, or that of the items."""
    counts = ", ".join(f"{name} {len(items):,}" for name, items in zip(Split._fields, split))
    return f"{counts} (split {known or fingerprint(split)})"


def numbered(molecules: np.ndarray) -> Optional[np.ndarray]:
    """The same, numbered from 0, [I] int64; None if all are different."""
    first, of_item = np.unique(molecules, return_inverse=True)
    return None if len(first) == len(molecules) else of_item.reshape(-1)


def _grouped_split(order: np.ndarray, groups: np.ndarray, num_val: int, num_test: int, train: Optional[int]) -> Split:
    """Whole groups in the order of items; one that is larger than what is left of a side goes to the next side."""
    sizes = np.bincount(groups)
    left = list(dict.fromkeys(groups[order].tolist()))
    wanted = {"test": num_test, "val": num_val, "train": len(groups) if train is None else train}
    chosen: Dict[str, List[int]] = {}
    for side, room in wanted.items():
        taken: List[int] = []
        passed: List[int] = []
        for place, group in enumerate(left):
            if room == 0:
                passed += left[place:]
                break
            fits = sizes[group] <= room
            (taken if fits else passed).append(group)
            room -= int(sizes[group]) if fits else 0
        if wanted[side] and not taken and passed:  # all are larger: the smallest oversteps least
            taken = [min(passed, key=sizes.__getitem__)]
            passed.remove(taken[0])
        chosen[side], left = taken, passed
    empty = [side for side in wanted if wanted[side] and not chosen[side]]
    if empty:
        raise ValueError(
            f"{len(groups):,} molecules, of which {len(sizes):,} are different, leave the {' and '.join(empty)} split "
            "empty if replicates stay on one side; set data.replicates=apart, or data.validation or data.test to 0."
        )
    parts = [np.flatnonzero(np.isin(groups, chosen[side])) for side in ("train", "val", "test")]
    return check_split(*parts, len(groups))


def _count(n: int, size: Union[int, float], name: str) -> int:
    """A count from a count or a fraction."""
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size >= 0:
        return int(size)
    if isinstance(size, (float, np.floating)) and 0 <= size < 1:
        return max(1, round(n * float(size))) if size else 0
    raise ValueError(f"{name}={size!r}: give a count (0 or more) or a fraction (0.0 to below 1.0).")


def _read_parts(path: Path) -> Dict[str, Any]:
    if path.suffix == ".npz":
        with open_arrays(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    if path.suffix == ".json":
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"{path.stat().st_size:,} bytes of JSON are too many; save the indices as .npz.")
        parts = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(parts, dict):
            return parts
        raise ValueError(f"it holds a {type(parts).__name__}, not names and lists.")
    raise ValueError(f"unknown suffix {path.suffix!r}.")


def _scaffold_groups(smiles: Sequence[str]) -> Dict[str, List[int]]:
    """Scaffold SMILES -> items, in the order of their first item."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    groups: Dict[str, List[int]] = {}
    with rdBase.BlockLogs():
        for item, text in enumerate(smiles):
            mol = Chem.MolFromSmiles(without_maps(text))
            if mol is None:
                raise ValueError(f"scaffold_split: RDKit cannot parse SMILES {text!r} of item {item}.")
            groups.setdefault(MurckoScaffoldSmiles(mol=mol, includeChirality=False), []).append(item)
    return groups
