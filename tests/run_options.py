"""A small real data set, prepared once for all tests of runs."""

import pytest
from support import CHAINS

from ipu_chem.config import from_dict


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Cache folder with the first 60 NCI molecules."""
    from ipu_chem.data.datasets import load_dataset

    folder = tmp_path_factory.mktemp("cache")
    load_dataset("nci3d", cache=folder, limit=60, workers=2, progress=False)
    return folder


@pytest.fixture
def options(cache, tmp_path):
    """Options of a run that takes a second, as nested dicts; tests change what they are about."""
    return {
        "data": {"cache": str(cache), "limit": 60, "validation": 0.2, "test": 0.1},
        "model": {"hidden_features": 8, "num_filters": 8, "num_interactions": 1, "num_gaussians": 8, "cutoff": 4.0},
        "pack": {"nodes": 80},
        "batching": {"micro_batch_size": 2},
        "training": {"epochs": 3, "progress": False, "report": False, "log_every": 1},
        "accelerator": "cpu",
        "torch": {"threads": 1},
        "out": str(tmp_path / "run"),
    }


@pytest.fixture
def make_config():
    """Nested dicts -> RunConfig."""
    return from_dict


@pytest.fixture
def text_options(tmp_path):
    """Options of a run of a language model on 72 small molecules, which takes a second, as nested dicts."""
    (tmp_path / "chains.smi").write_text("\n".join(CHAINS) + "\n")
    return {
        "data": {
            "name": "file",
            "path": str(tmp_path / "chains.smi"),
            "cache": str(tmp_path / "cache"),
            "validation": 8,
            "test": 8,
            "workers": 1,
        },
        "model": {"name": "chemgpt", "hidden_features": 32, "num_layers": 1},
        "optimizer": {"learning_rate": 0.01},
        "batching": {"micro_batch_size": 2, "gradient_accumulation": 2},
        "training": {"epochs": 3, "progress": False, "report": False, "log_every": 1, "samples": 0},
        "accelerator": "cpu",
        "torch": {"threads": 1},
        "out": str(tmp_path / "run"),
    }
