"""One molecule as numpy arrays, its checks, and many of them as a store."""

from typing import TYPE_CHECKING, Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.checks import check_atoms, check_electrons, check_forces
from packing.store import Store
from packing.types import offsets_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol


class Molecule(NamedTuple):
    """A free molecule of n atoms.

    Attributes:
        z: [n] uint8, atomic numbers 1 to 99, hydrogens included.
        pos: [n, 3] float64, Å.
        y: [T] float64, labels in the units of the data set, NaN where missing; None without labels.
        name: what error messages and tables call it.
        forces: [n, 3] float64, -d(energy label)/d(pos), its unit per Å; all NaN or None where missing.
        charge: of the whole molecule, e; None if it is not known.
        spin: unpaired electrons, 2S; None if they are not known.
    """

    z: np.ndarray
    pos: np.ndarray
    y: Optional[np.ndarray] = None
    name: str = ""
    forces: Optional[np.ndarray] = None
    charge: Optional[int] = None
    spin: Optional[int] = None


def check_molecule(molecule: Molecule) -> None:
    """Refuse a molecule that no model can take.

    Raises:
        ValueError: no atoms, shapes that do not agree, an atomic number outside 1 .. 99, a coordinate that
            is not finite, two atoms less than 0.1 Å apart, forces of which some are not finite, or electrons that
            charge and spin cannot be of; the sentence names molecule and atoms.
    """
    who = molecule.name or "molecule without a name"
    z, pos = np.asarray(molecule.z), np.asarray(molecule.pos)
    if z.ndim != 1 or pos.shape != (len(z), 3):
        raise ValueError(f"{who}: z has shape {list(z.shape)} and pos {list(pos.shape)}; they are [n] and [n, 3].")
    if z.dtype.kind not in "iu":
        raise ValueError(f"{who}: atomic numbers are integers, not {z.dtype}.")
    if molecule.y is not None and np.ndim(molecule.y) != 1:
        raise ValueError(f"{who}: y has shape {list(np.shape(molecule.y))}; labels of a molecule are [targets].")
    offsets = np.array([0, len(z)])
    check_atoms(z, pos, offsets, [who])
    if molecule.forces is not None:
        forces = np.asarray(molecule.forces)
        if forces.shape != pos.shape:
            raise ValueError(f"{who}: forces have shape {list(forces.shape)}, pos {list(pos.shape)}; they agree.")
        check_forces(forces, offsets, [who])
    charge, spin = (None if one is None else np.array([one]) for one in (molecule.charge, molecule.spin))
    check_electrons(z, offsets, charge, spin, [who])


def from_rdkit(mol: "Mol", name: str = "") -> Molecule:
    """Atoms and first conformer of an RDKit molecule; implicit hydrogens are not added.

    Raises:
        ValueError: there is no conformer, or `check_molecule` refuses it.
    """
    if mol.GetNumConformers() == 0:
        raise ValueError(f"{name or 'molecule'} has no 3D coordinates; embed it first (ipu_chem.data.smiles).")
    z, pos = rdkit_arrays(mol)
    return checked(z, pos, None, name)


def rdkit_arrays(mol: "Mol") -> Tuple[np.ndarray, np.ndarray]:
    """(z [n] int64, pos [n, 3] float64 Å) of the first conformer, unchecked."""
    z = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int64)
    return z, np.array(mol.GetConformer().GetPositions(), np.float64).reshape(-1, 3)


def from_item(item: Any, name: str = "") -> Molecule:
    """A molecule from the attributes of an item of a data set, such as PyTorch Geometric's Data.

    Args:
        item: z [n], pos [n, 3] in Å and, where known, y [T] or [1, T], or else energy; forces or force [n, 3], charge
            and spin, whole numbers (those of each atom are left out). Arrays or tensors.
        name: of the molecule; empty takes the name of the item.

    Raises:
        ValueError: z or pos is missing, y belongs to more than one molecule, or `check_molecule` refuses it.
    """
    who = name or str(getattr(item, "name", None) or type(item).__name__)
    z, pos, y = (array_of(item, *words) for words in (("z",), ("pos",), ("y", "energy")))
    if z is None or pos is None:
        keys = getattr(item, "keys", ())  # a property in early versions of PyTorch Geometric
        having = ", ".join(sorted(keys() if callable(keys) else keys)) or "others"
        raise ValueError(f"{who}: a molecule needs z [n] and pos [n, 3]; this {type(item).__name__} has {having}.")
    if y is not None:
        if y.ndim > 2 or y.ndim == 2 and len(y) != 1:
            raise ValueError(f"{who}: y has shape {list(y.shape)}; labels of one molecule are [1, T] or [T].")
        y = y.astype(np.float64).reshape(-1)
    counts: List[Optional[int]] = []
    for word in ("charge", "spin"):
        value = array_of(item, word)
        # Those of atoms say nothing certain about the molecule.
        counts.append(int(value.reshape(-1)[0]) if value is not None and value.size == 1 else None)
        if counts[-1] is not None and value != counts[-1]:
            raise ValueError(f"{who}: {word} is {value}; a molecule has a whole number of electrons.")
    return checked(z.reshape(-1), pos, y, who, array_of(item, "forces", "force"), *counts)


def array_of(item: Any, *words: str) -> Optional[np.ndarray]:
    """The first of some attributes that an item has, as an array of its own dtype."""
    for word in words:
        value = getattr(item, word, None)
        if value is not None:
            return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return None


def checked(
    z: np.ndarray,
    pos: np.ndarray,
    y: Optional[np.ndarray],
    name: str,
    forces: Optional[np.ndarray] = None,
    charge: Optional[int] = None,
    spin: Optional[int] = None,
) -> Molecule:
    """A Molecule of the right dtypes that has passed `check_molecule`."""
    forces = None if forces is None else np.asarray(forces, np.float64)
    check_molecule(Molecule(z, pos, y, name, forces, charge, spin))  # the cast would wrap an atomic number of 300
    return Molecule(z.astype(np.uint8), np.asarray(pos, np.float64), y, name, forces, charge, spin)


def molecules_to_store(
    molecules: Sequence[Molecule],
    info: Optional[Mapping[str, Any]] = None,
    smiles: Optional[Sequence[str]] = None,
    fields: Optional[Mapping[str, np.ndarray]] = None,
) -> Store:
    """Many molecules in flat arrays.

    Args:
        molecules: at least one; those without labels or forces get NaN when others have some.
        info: what `Store.info` shall hold.
        smiles: I texts, kept as the field "smiles".
        fields: further fields with one row per molecule, such as "id" [I] int64.

    Returns:
        As `arrays_to_store`; "charge" and "spin" only when every molecule has them.

    Raises:
        ValueError: no molecules, one that `check_molecule` refuses, or labels that differ in number.
    """
    if len(molecules) == 0:
        raise ValueError("there are no molecules to store; see the list of failures for the reasons.")
    for index, molecule in enumerate(molecules):
        shapes = {np.shape(array) for array in (molecule.pos, molecule.forces) if array is not None}
        if shapes != {(len(molecule.z), 3)}:
            check_molecule(molecule._replace(name=molecule.name or f"molecule {index}"))
    return arrays_to_store(
        np.concatenate([molecule.z for molecule in molecules]),
        np.concatenate([molecule.pos for molecule in molecules]),
        offsets_of([len(molecule.z) for molecule in molecules]),
        [molecule.name for molecule in molecules],
        _labels(molecules),
        _forces(molecules),
        _known([molecule.charge for molecule in molecules]),
        _known([molecule.spin for molecule in molecules]),
        info,
        smiles,
        fields,
    )


def arrays_to_store(
    z: np.ndarray,
    pos: np.ndarray,
    offsets: np.ndarray,
    names: Sequence[str],
    y: Optional[np.ndarray] = None,
    forces: Optional[np.ndarray] = None,
    charge: Optional[np.ndarray] = None,
    spin: Optional[np.ndarray] = None,
    info: Optional[Mapping[str, Any]] = None,
    smiles: Optional[Sequence[str]] = None,
    fields: Optional[Mapping[str, np.ndarray]] = None,
) -> Store:
    """Molecules that are flat arrays already: trajectories and clusters by the million.

    Args:
        z: [total] integer.
        pos: [total, 3] floating, Å.
        offsets: [I + 1] integer, where each molecule begins.
        names: I texts.
        y: [I, T] labels.
        forces: [total, 3], unit of the energy label per Å; NaN for all atoms of a molecule without.
        charge, spin: [I] integer, as of `Molecule`.
        info, smiles, fields: as of `molecules_to_store`.

    Returns:
        Axis "nodes" with z uint8, pos float32 (Å) and forces float32; y [I, T] float64; charge [I] int8;
        spin [I] uint8; axes and fields "name" and "smiles" of UTF-8 bytes (`decode_text`).

    Raises:
        ValueError: a molecule that `check_molecule` refuses.
    """
    check_atoms(z, pos, offsets, names)
    check_electrons(z, offsets, charge, spin, names)
    all_fields = {"z": z.astype(np.uint8), "pos": pos.astype(np.float32), **(fields or {})}
    axes, axis_of = {"nodes": offsets}, {"z": "nodes", "pos": "nodes"}
    if y is not None:
        all_fields["y"] = y
    if forces is not None:
        check_forces(forces, offsets, names)
        all_fields["forces"], axis_of["forces"] = forces.astype(np.float32), "nodes"
    if charge is not None:
        all_fields["charge"] = charge.astype(np.int8)
    if spin is not None:
        all_fields["spin"] = spin.astype(np.uint8)
    for field, texts in (("name", names), ("smiles", smiles)):
        if texts is not None:
            all_fields[field], axes[field] = encode_texts(texts)
            axis_of[field] = field
    return Store(axes, all_fields, axis_of, info)


def _forces(molecules: Sequence[Molecule]) -> Optional[np.ndarray]:
    """[total, 3] float64, or None where no molecule has forces."""
    if all(molecule.forces is None for molecule in molecules):
        return None
    return np.concatenate(
        [np.full((len(one.z), 3), np.nan) if one.forces is None else one.forces for one in molecules]
    ).astype(np.float64)


def _known(values: Sequence[Optional[int]]) -> Optional[np.ndarray]:
    """[I] int64, or None where some molecule lacks the value."""
    known = [value for value in values if value is not None]
    return np.array(known, np.int64) if len(known) == len(values) else None


def _labels(molecules: Sequence[Molecule]) -> Optional[np.ndarray]:
    """[I, T] float64, or None where no molecule has labels."""
    first = next((molecule for molecule in molecules if molecule.y is not None), None)
    if first is None or first.y is None:
        return None
    y = np.full((len(molecules), len(first.y)), np.nan)
    for index, molecule in enumerate(molecules):
        if molecule.y is None:
            continue
        if len(molecule.y) != y.shape[1]:
            raise ValueError(
                f"{molecule.name or f'molecule {index}'} has {len(molecule.y)} labels, "
                f"{first.name or 'the first labeled molecule'} has {y.shape[1]}; all have the same (NaN = missing)."
            )
        y[index] = molecule.y
    return y


def encode_texts(texts: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Texts as UTF-8 bytes one after the other: (values [total] uint8, offsets [I + 1] int64)."""
    encoded = [text.encode("utf-8") for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8).copy(), offsets_of([len(text) for text in encoded])


def decode_text(store: Store, field: str, item: int) -> str:
    """The text of one item, such as its "name" or "smiles"."""
    return store.ragged(field)[item].tobytes().decode("utf-8")


def decode_texts(store: Store, field: str) -> List[str]:
    """The texts of all items."""
    return [decode_text(store, field, item) for item in range(len(store))]
