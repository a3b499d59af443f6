"""Frames of trajectories: what ASE would have written."""

from io import StringIO

import numpy as np
import pytest
from ase.io import read, write

from ipu_chem.data.structures import with_results
from ipu_chem.run_intervals import UncertaintyNames
from ipu_chem.simulation.frames import FrameText


@pytest.mark.parametrize("info", [{}, {"name": "a name", "charge": -1, "spin": 0}, {"name": '50 % "of" {it}='}])
def test_lines_are_those_of_ase(ethanol, info):
    random = np.random.default_rng(0)
    ethanol.info = {**info}
    momenta, forces = random.normal(size=(2, 9, 3)) * [[[1.0]], [[300.0]]]
    place = (0.0125, -4123.456789012345, ethanol.positions, momenta, forces)
    ours = FrameText(ethanol, UncertaintyNames((), ())).text(*place, {}, {})
    ethanol.set_momenta(momenta)
    ethanol.info["time_ps"] = 0.0125
    theirs = StringIO()
    write(theirs, with_results(ethanol, -4123.456789012345, forces), format="extxyz")
    assert ours.splitlines()[2:] == theirs.getvalue().splitlines()[2:]
    one, other = (read(StringIO(text), format="extxyz") for text in (ours, theirs.getvalue()))
    assert one.info == other.info and not one.pbc.any()
    assert one.get_potential_energy() == other.get_potential_energy() == -4123.456789012345
    for name in ("positions", "momenta", "forces"):
        np.testing.assert_array_equal(getattr(one, f"get_{name}")(), getattr(other, f"get_{name}")())
