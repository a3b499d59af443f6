"""Labels that a graph model predicts as moments of charges on atoms (`ipu_chem.models.moments`), and their scale.

A moment follows from the charges of the whole molecule: it has no references of elements, no shift and no derivatives
that are forces. Labels are divided by one number, so that charges and their moments stay in proportion.
"""

from typing import Sequence

import numpy as np

from ipu_chem.config import RunConfig
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target
from ipu_chem.models.moments import DIPOLES, MOMENTS
from ipu_chem.units import is_area, is_dipole
from packing.store import Store


def is_moment(config: RunConfig) -> bool:
    """Test if the run's model reads out a moment."""
    return config.model.readout in MOMENTS


def check_moment_options(config: RunConfig) -> None:
    """Refuse what does not go with a moment, by the options alone.

    Raises:
        ValueError: forces, or references of elements, of a run that learns a moment; names the option to change.
    """
    if not is_moment(config):
        return
    readout = f"model.readout={config.model.readout}"
    if config.force_share:
        raise ValueError(
            f"{readout} predicts no energy, which forces are derivatives of; set --force_share 0, or leave "
            "model.readout out."
        )
    if config.data.references not in ("auto", "none"):
        raise ValueError(
            f"{readout} has no references of elements: leave data.references={config.data.references} out, or set "
            "--model.readout sum."
        )


def check_moment_labels(config: RunConfig, targets: Sequence[Target], store: Store) -> None:
    """Refuse labels that are no moments of the kind that the run's model reads out.

    Args:
        config: of the run.
        targets: T that it learns.
        store: with labels y [I, T].

    Raises:
        ValueError: a class, a unit of something else, or the length of a dipole below 0; names target and remedy.
    """
    if not is_moment(config):
        return
    readout = config.model.readout
    fits = is_dipole if readout in DIPOLES else is_area
    kind = "dipole moments, in D or e*Å" if readout in DIPOLES else "extents of electrons, in a0^2 or Å^2"
    for column, target in enumerate(targets):
        if target.binary or (target.unit and not fits(target.unit)):
            is_what = "a class" if target.binary else f"in {target.unit}"
            raise ValueError(
                f"model.readout={readout} predicts {kind}; {target.name} is {is_what}: choose another target with "
                "--data.target, or leave model.readout out."
            )
        if readout in DIPOLES:
            below = np.flatnonzero(np.asarray(store.fields["y"])[:, column] < 0)
            if len(below):
                value = float(store.fields["y"][below[0], column])
                raise ValueError(
                    f"model.readout={readout} predicts lengths of dipole moments, but molecule {below[0]} has "
                    f"{target.name}={value:g}: give lengths, not components, or set --model.readout mean."
                )


def fit_moments(store: Store, items: np.ndarray) -> Standardizer:
    """A standardizer that only scales, by the root mean square of the labels.

    Args:
        store: with fields z and y.
        items: [K] training molecules.

    Raises:
        ValueError: a target has no label among them.
    """
    fitted = Standardizer.fit(store, items, "none")
    fitted.shift[:], fitted.shift_per_atom[:] = 0.0, 0.0
    size = np.sqrt(np.nanmean(np.square(np.asarray(store.fields["y"], np.float64)[items]), axis=0))
    fitted.scale[:] = np.where(size > 0, size, 1.0)
    return fitted
