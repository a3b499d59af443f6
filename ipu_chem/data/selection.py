"""Choosing labels, and asking each data set only for what it knows.

On data's way: config -> options of a data set -> store -> store with the chosen labels.
"""

import difflib
import inspect
from typing import Any, Dict

import numpy as np

from ipu_chem.data.datasets import DATASETS
from packing.store import Store

# Options of `load_dataset` under the names that `data` has in a config.
OPTIONS = ("limit", "workers", "target", "unit", "extensive", "kind", "molecule", "subset", "force_key", "geometry")


def dataset_options(
    name: str,
    limit: int = 0,
    workers: int = 0,
    target: str = "",
    unit: str = "",
    extensive: bool = True,
    kind: str = "number",
    molecule: str = "",
    subset: str = "",
    force_key: str = "",
    geometry: str = "auto",
) -> Dict[str, Any]:
    """Options for `load_dataset`; those that the data set does not have are left out.

    Args:
        name: of the data set.
        limit: first molecules only; 0 takes all.
        workers: processes; 0 takes one per core.
        target: names of labels, for data sets whose files hold any.
        unit: of the labels, for data sets that do not know it.
        extensive: whether they grow with the molecule, likewise.
        kind: number or binary, likewise.
        molecule: whose frames, for data sets that hold one molecule in many.
        subset: part of a data set that has published ones.
        force_key: what a file's forces are called, for data sets that do not know it.
        geometry: auto, dft or etkdg, for data sets of which some molecules have a published one.

    Raises:
        ValueError: a unit for a data set that has its own, or an option that the data set does not have.
    """
    if name not in DATASETS:
        return {}  # load_dataset says what is wrong, and which there are
    known = inspect.signature(DATASETS[name].prepare).parameters
    if "unit" not in known and (unit or not extensive or kind != "number"):
        raise ValueError(
            f"{name} knows what its labels are; data.unit, data.extensive and data.kind are for data.name=file."
        )
    asked = {"molecule": molecule, "subset": subset, "force_key": force_key}
    asked["geometry"] = "" if geometry == "auto" else geometry
    for option, value in asked.items():
        if value and option not in known:
            having = [other for other in DATASETS if option in inspect.signature(DATASETS[other].prepare).parameters]
            raise ValueError(
                f"{name} has no data.{option}={value!r}; data.{option} is for data.name={', '.join(having)}."
            )
    wanted: Dict[str, Any] = {
        "limit": limit or None,
        "workers": workers or None,
        "target": target or None,
        "unit": unit or None,
        "extensive": extensive,
        "kind": kind,
        "molecule": molecule or None,
        "subset": subset or None,
        "force_key": force_key or None,
        "geometry": geometry,
    }
    return {option: value for option, value in wanted.items() if option in known and value is not None}


def select_targets(store: Store, names: str) -> Store:
    """The store with only the labels named, in that order, and forces only with the label that they are forces of.

    Args:
        store: with the field y and info["targets"]; forces are those of info["forces_of"].
        names: separated by commas; empty takes the first label.

    Raises:
        ValueError: the store has no labels, or no label of that name; gives the nearest.
    """
    targets = store.info.get("targets", [])
    if not targets:
        raise ValueError("these molecules have no labels to train on; name one with data.target.")
    have = [target["name"] for target in targets]
    wanted = [name.strip() for name in names.split(",") if name.strip()] or have[:1]
    for name in wanted:
        if name not in have:
            close = difflib.get_close_matches(name, have, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"there is no target {name!r}{hint}; the data set has {', '.join(have)}.")
    columns = [have.index(name) for name in wanted]
    references = store.info.get("reference_energies", {})
    info = {
        **store.info,
        "targets": [targets[column] for column in columns],
        "reference_energies": {name: references[name] for name in wanted if name in references},
    }
    fields = {**store.fields, "y": np.asarray(store.fields["y"])[:, columns]}
    axis_of = dict(store.axis_of)
    if info.get("forces_of") not in wanted:
        info.pop("forces_of", None)
        fields.pop("forces", None)
        axis_of.pop("forces", None)
    return Store(store.axes, fields, axis_of, info)
