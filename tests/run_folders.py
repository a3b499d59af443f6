"""Folders of runs. Drawn weights are as good as trained ones for whatever is exact, and there at once."""

import numpy as np
import pytest
import torch
from support import CHAINS, model_values

from ipu_chem.checkpoint import save_checkpoint
from ipu_chem.config import from_dict, to_dict
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target
from ipu_chem.tasks.graphs import make_model, model_section

ELEMENTS = [1, 6, 8]


@pytest.fixture
def make_run(tmp_path):
    """Write the folder of a run; returns its path."""

    def make(folder="run", seed=0, unit="eV", per_ev=1.0, scale=0.5, targets=1, extensive=True, **options):
        model = {"hidden_features": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 12, "num_radial": 8}
        model.update(cutoff=4.0, name="painn")
        model.update(options.pop("model", {}))
        seen = options.pop("seen", None)
        model = model_values(**model)
        values = {"model": model, "training": {"seed": seed}, "torch": {"threads": 1}, "accelerator": "cpu"}
        config = from_dict({"force_share": 0.9, **values, **options})
        named = [{"name": f"energy{k or ''}", "unit": unit, "extensive": extensive} for k in range(targets)]
        net = make_model(model_section(config), seed, [Target(**one) for one in named], forces=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed + 100)
            inner = net.model.model
            last = [part for part in inner.head.modules() if isinstance(part, torch.nn.Linear)][-1]
            torch.nn.init.normal_(last.weight, std=0.3)
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
            "seen": seen,
        }
        save_checkpoint(tmp_path / folder / "checkpoints" / "best.safetensors", {"model": net.state_dict()}, state)
        return tmp_path / folder

    return make


@pytest.fixture
def text_run(tmp_path):
    """Train a ChemGPT for an epoch on 72 small molecules, as a language model or on a label; returns its folder."""

    def make(folder="text", target="", **model):
        from ipu_chem.train import train

        rows = "".join(f"{smiles},{len(smiles)},{float('O' in smiles)}\n" for smiles in CHAINS)
        (tmp_path / "chains.csv").write_text("smiles,size,oxygen\n" + rows)
        data = {"name": "file", "path": str(tmp_path / "chains.csv"), "cache": str(tmp_path / "cache"), "workers": 1}
        options = {
            "data": {**data, "target": target, "validation": 8, "test": 8},
            "model": {"name": "chemgpt", "hidden_features": 16, "num_layers": 2, **model},
            "optimizer": {"learning_rate": 0.01},
            "training": {"epochs": 2, "progress": False, "report": False, "samples": 0},
            "accelerator": "cpu",
            "torch": {"threads": 1},
            "out": str(tmp_path / folder),
        }
        train(from_dict(options))
        return tmp_path / folder

    return make
