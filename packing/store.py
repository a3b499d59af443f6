"""Items on disk as flat arrays: written once and whole, memory-mapped by any number of readers.

A store is a folder: ``meta.json``, one ``<field>.npy`` per field and one ``<axis>.offsets.npy`` per axis.
Fields on an axis ("nodes", "edges", "tokens") have as many rows per item as the axis says; the other
fields have one row per item. Plain numpy reads every file.
"""

import hashlib
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from packing.files import PathLike, atomic_folder, read_folder
from packing.types import Ragged, offsets_of
from packing.verify import META, DamagedStore, describe, read_meta, verify_files

_FORMAT = 1


class Store:
    """Variable-size items in flat arrays, in memory or memory-mapped from a folder.

    Attributes:
        axes: axis name -> offsets [I + 1] int64.
        fields: field name -> values; [total, ...] on an axis, else [I, ...].
        axis_of: field name -> axis name, for fields on an axis.
        info: anything JSON can hold: origin, units, counts.
    """

    def __init__(
        self,
        axes: Mapping[str, np.ndarray],
        fields: Mapping[str, np.ndarray],
        axis_of: Mapping[str, str],
        info: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.axes = {name: np.asarray(offsets, np.int64) for name, offsets in axes.items()}
        self.fields = dict(fields)
        self.axis_of = dict(axis_of)
        self.info: Dict[str, Any] = dict(info or {})
        for name, offsets in self.axes.items():
            if len(offsets) != len(self) + 1:
                raise ValueError(f"axis {name} has {len(offsets) - 1} items, another one {len(self)}.")
        for name, values in self.fields.items():
            if name in self.axis_of:
                Ragged(values, self.axes[self.axis_of[name]])  # checks that the two belong together
            elif len(values) != len(self):
                raise ValueError(f"field {name} has {len(values)} rows for {len(self)} items.")

    def __len__(self) -> int:
        """Number of items."""
        if self.axes:
            return len(next(iter(self.axes.values()))) - 1
        return len(next(iter(self.fields.values())))

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __getitem__(self, name: str) -> Union[Ragged, np.ndarray]:
        """A field: `Ragged` on an axis, else an array [I, ...]."""
        if name not in self.fields:
            raise KeyError(f"the store has no field {name!r}; it has {', '.join(sorted(self.fields))}.")
        return self.ragged(name) if name in self.axis_of else self.fields[name]

    def ragged(self, name: str) -> Ragged:
        """A field on an axis."""
        return Ragged(self.fields[name], self.axes[self.axis_of[name]])

    def sizes(self) -> Dict[str, np.ndarray]:
        """Rows per item on every axis, [I] int64: what `make_plan` takes."""
        return {name: np.diff(offsets) for name, offsets in self.axes.items()}

    def take(self, items: np.ndarray) -> "Store":
        """The given items in the given order, in memory."""
        items = np.asarray(items)
        fields = {
            name: self.ragged(name).take(items).values if name in self.axis_of else values[items]
            for name, values in self.fields.items()
        }
        axes = {}
        for name, offsets in self.axes.items():
            axes[name] = offsets_of(np.diff(offsets)[items])
        return Store(axes, fields, self.axis_of, self.info)

    def join(self, other: "Store") -> "Store":
        """The same items with the fields of both stores; nothing is copied.

        Raises:
            ValueError: the stores differ in length.
        """
        axes, fields = {**self.axes, **other.axes}, {**self.fields, **other.fields}
        return Store(axes, fields, {**self.axis_of, **other.axis_of}, {**self.info, **other.info})

    def save(self, path: PathLike) -> None:
        """Write the store as a folder, atomically, replacing one that is there.

        Raises:
            OSError: the folder cannot be written; what was there is kept.
        """
        arrays = {f"{name}.npy": values for name, values in self.fields.items()}
        arrays.update({f"{name}.offsets.npy": offsets for name, offsets in self.axes.items()})
        with atomic_folder(path) as folder:
            for name, array in arrays.items():
                np.save(folder / name, np.ascontiguousarray(array), allow_pickle=False)
            meta = {"format": _FORMAT, "items": len(self), "axes": sorted(self.axes), "axis_of": self.axis_of}
            describe(folder, {**meta, "info": self.info}, list(arrays))

    @classmethod
    def open(cls, path: PathLike, verify: Optional[bool] = None) -> "Store":
        """Memory-map a stored folder, one and the same even if it is replaced meanwhile.

        Args:
            path: the folder.
            verify: compare every file with its checksum, which reads everything once; None does, but reads what is
                large once for every content and machine.

        Raises:
            FileNotFoundError: no store there.
            ValueError: another format; `DamagedStore`, a file is missing, of the wrong length, or damaged.
        """
        return read_folder(path, lambda folder: cls._open(folder, verify))

    @classmethod
    def _open(cls, folder: Path, verify: Optional[bool]) -> "Store":
        if not (folder / META).is_file():
            raise FileNotFoundError(f"{folder} holds no store (no {META}); prepare the data first.")
        try:
            meta = read_meta(folder, _FORMAT)
            verify_files(folder, meta["files"], verify)
            arrays = {name: _map(folder / name) for name in meta["files"]}
            axes = {name: np.array(arrays[f"{name}.offsets.npy"]) for name in meta["axes"]}
            fields = {name[:-4]: array for name, array in arrays.items() if not name.endswith(".offsets.npy")}
            return cls(axes, fields, meta["axis_of"], meta["info"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedStore.of(folder, f"{folder / META} is damaged: {error!r}") from None

    def fingerprint(self) -> str:
        """16 hex digits that change with any value of any field."""
        digest = hashlib.blake2b(digest_size=8)
        for kind, arrays in (("axis", self.axes), ("field", self.fields)):
            for name in sorted(arrays):
                array = np.ascontiguousarray(arrays[name])
                digest.update(f"{kind} {name} {array.dtype.str} {array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()


def _map(path: Path) -> np.ndarray:
    """Memory-map one array; plain ndarrays index faster than numpy's memmap class, and none may be empty."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(array) if array.size else np.load(path, allow_pickle=False)
