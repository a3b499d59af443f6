"""Runs of small models with drawn weights: as good as trained ones for whatever is exact, and there at once."""

import numpy as np
import pytest
import torch
from support import model_values

from ipu_chem.checkpoint import save_checkpoint
from ipu_chem.config import from_dict, to_dict
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target
from ipu_chem.models import registry
from ipu_chem.models.layers import cosine_cutoff
from ipu_chem.models.schnet import SchNet
from ipu_chem.tasks.graphs import make_model

ELEMENTS = [1, 6, 8]
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
    """A model that holds ethanol together: springs between atoms nearer than 2.2 Å; one molecule at a time."""

    def forward(self, z, pos, graph_index, edge_index, node_mask, edge_mask, graph_mask):
        (source, target), pos = edge_index[0], pos[0]
        distance = ((pos[source] - pos[target]).square().sum(1) + 1e-12).sqrt()
        radius = torch.zeros(10, dtype=pos.dtype)
        radius[1], radius[6], radius[8] = 0.34, 0.76, 0.67
        hydrogen = (z[0] == 1).to(pos.dtype)
        rest = radius[z[0]][source] + radius[z[0]][target] + 1.1 * hydrogen[source] * hydrogen[target]
        energy = 15.0 * (distance - rest).square() * cosine_cutoff(distance, self.cutoff) * edge_mask[0]
        return energy.sum().reshape(1, 1, 1)


@pytest.fixture
def springs(make_run, monkeypatch):
    """The folder of a run whose model is `Springs`."""
    monkeypatch.setitem(registry.MODELS, "schnet", Springs)
    return make_run("springs", model={"name": "schnet", "cutoff": 2.2, "filter": "exact"}, scale=1.0)


@pytest.fixture
def make_run(tmp_path):
    """Write the folder of a run; returns its path."""

    def make(folder="run", seed=0, unit="eV", per_ev=1.0, scale=0.5, targets=1, extensive=True, **options):
        model = {"hidden_features": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 12, "num_radial": 8}
        model.update(cutoff=4.0, name="painn")
        model.update(options.pop("model", {}))
        model = model_values(**model)
        values = {"model": model, "training": {"seed": seed}, "torch": {"threads": 1}, "accelerator": "cpu"}
        config = from_dict({"force_share": 0.9, **values, **options})
        named = [{"name": f"energy{k or ''}", "unit": unit, "extensive": extensive} for k in range(targets)]
        net = make_model(config, [Target(**one) for one in named], forces=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed + 100)
            inner = net.model.model
            torch.nn.init.normal_(inner.head[2].weight, std=0.3)
        values = np.zeros((100, targets))
        values[ELEMENTS] = np.array([-13.6, -1030.0, -2042.0])[:, None] * per_ev
        standardizer = Standardizer(
            named, ["linear"] * targets, ELEMENTS, values, np.zeros(targets), np.zeros(targets),
            np.full(targets, scale * per_ev),
        )  # fmt: skip
        state = {
            "config": to_dict(config),
            "standardizer": standardizer.to_dict(),
            "budget": {"nodes": 45, "edges": 180, "graphs": 5},
            "fingerprint": "",
        }
        save_checkpoint(tmp_path / folder / "checkpoints" / "best.safetensors", {"model": net.state_dict()}, state)
        return tmp_path / folder

    return make
