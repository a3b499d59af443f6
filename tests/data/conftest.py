import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; tests on them are skipped, and say so, without it."""
    folder = Path(os.environ.get("IPU_CHEM_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set IPU_CHEM_SHARED)")
    return folder


@pytest.fixture(scope="session")
def nci3d_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("nci3d-cache")


@pytest.fixture(scope="session")
def nci3d_small(nci3d_cache):
    """60 lines of nci3d, really embedded, as a memory-mapped store."""
    from ipu_chem.data.datasets import load_dataset

    return load_dataset("nci3d", cache=nci3d_cache, limit=60, min_element_count=2, workers=2, progress=False)
