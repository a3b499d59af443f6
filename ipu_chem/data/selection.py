"""The data set of a run, and the labels that it learns."""

import difflib
import inspect
from typing import Any, Mapping

import numpy as np

from ipu_chem.data.datasets import DATASETS, load_dataset
from ipu_chem.data.datasets.own_class import load_own
from ipu_chem.data.fragments import KEEP
from ipu_chem.signatures import load
from packing.store import Store


def load_chosen(
    name: str,
    options: Mapping[str, Any],
    cache: str = "",
    limit: int = 0,
    workers: int = 0,
    target: str = "",
    fragments: str = KEEP,
) -> Store:
    """The data set that a run names.

    Args:
        name: of `DATASETS`, or ``package.module:Class`` of the user's own.
        options: of the data set.
        cache: folder for prepared stores; "" is the usual one.
        limit: first molecules only; 0 takes all.
        workers: processes; 0 takes one per core.
        target: names of labels, for data sets whose files hold any.
        fragments: what becomes of molecules of several, for files of the user's own.

    Raises:
        ValueError: fragments are asked for of another data set, or see `load_dataset` and `load_own`.
    """
    if fragments != KEEP and name != "file":
        raise ValueError(
            f"data.fragments={fragments} is for data.name=file and for models of text; {name} has its molecules as "
            "they are, leave it out."
        )
    if ":" in name:
        return load_own(name, load(name, "data.name"), dict(options), limit or None)
    given = {"limit": limit, "workers": workers, "target": target}
    if fragments != KEEP:
        given["fragments"] = fragments
    if name in DATASETS:  # load_dataset says what is wrong, and which there are
        known = inspect.signature(DATASETS[name].prepare).parameters
        options = {**options, **{word: value for word, value in given.items() if value and word in known}}
    return load_dataset(name, cache=cache or None, **options)


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
