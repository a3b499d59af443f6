"""Molecules on which engines are compared with ASE."""

import numpy as np
import pytest
from engine_cases import Charged

from ipu_chem.models import registry


@pytest.fixture
def charged_run(make_run, monkeypatch):
    """The folder of a run whose model takes the charge."""
    monkeypatch.setitem(registry.MODELS, "schnet", Charged)
    return make_run("charged", model={"name": "schnet", "filter": "exact"}, scale=0.5)


@pytest.fixture
def molecules(ethanol):
    """Ethanol far from the origin, and water, neither at rest."""
    from ase import Atoms

    ethanol.positions += np.random.default_rng(0).normal(0, 0.05, ethanol.positions.shape) + [20.0, -3.0, 7.0]
    return [ethanol, Atoms("OHH", [[0.3, 0.1, 0], [1.25, 0.15, 0.1], [0.0, 1.0, 0.05]])]
