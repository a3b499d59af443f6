"""Ethanol, and runs that hold it together."""

import numpy as np
import pytest
import torch

from ipu_chem.models import registry
from ipu_chem.models.layers import cosine_cutoff
from ipu_chem.models.schnet import SchNet

# Ethanol, Å.
NUMBERS = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
POSITIONS = np.array(
    [[0, 0, 0], [1.52, 0, 0], [2.05, 1.33, 0], [-0.39, 1.03, 0], [-0.39, -0.51, 0.89], [-0.39, -0.51, -0.89]]
    + [[1.89, -0.53, 0.89], [1.89, -0.53, -0.89], [3.02, 1.3, 0]]
)


@pytest.fixture
def ethanol():
    from ase import Atoms

    return Atoms(NUMBERS, POSITIONS)


class Springs(SchNet):
    """A model that holds ethanol together: springs between atoms nearer than 2.2 Å; one pack."""

    def forward(self, graph):
        (source, target), pos, z = graph.edge_index[0], graph.pos[0], graph.z[0]
        distance = ((pos[source] - pos[target]).square().sum(1) + 1e-12).sqrt()
        radius = torch.zeros(10, dtype=pos.dtype)
        radius[1], radius[6], radius[8] = 0.34, 0.76, 0.67
        hydrogen = (z == 1).to(pos.dtype)
        rest = radius[z][source] + radius[z][target] + 1.1 * hydrogen[source] * hydrogen[target]
        energy = 15.0 * (distance - rest).square() * cosine_cutoff(distance, self.cutoff) * graph.edge_mask[0]
        molecules = graph.graph_mask.shape[1]
        return pos.new_zeros(molecules).index_add(0, graph.graph_index[0][source], energy).reshape(1, molecules, 1)


@pytest.fixture
def springs(make_run, monkeypatch):
    """The folder of a run whose model is `Springs`."""
    monkeypatch.setitem(registry.MODELS, "schnet", Springs)
    return make_run("springs", model={"name": "schnet", "cutoff": 2.2, "filter": "exact"}, scale=1.0)
