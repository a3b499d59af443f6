"""What only constructors know is asked of them before molecules are read; users' own classes included."""

import pytest
import torch
from torch import nn

from ipu_chem.config import from_dict
from ipu_chem.models import registry
from ipu_chem.models.base import GraphModel
from ipu_chem.tasks.early import check_run, count_weights


class Own(GraphModel):
    """A model that needs values to be built, and that fails on a width of 0 in its own way."""

    def __init__(self, width: int = 4, cutoff: float = 5.0) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.first = float(torch.ones(16 // width).sum())  # no number on the meta device
        self.layer = nn.Linear(width, 1)


def test_own_models_are_built_with_values_where_they_need_them(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.MODELS, "own", Own)
    run = {"model": {"name": "own"}, "out": str(tmp_path / "run")}
    state = torch.get_rng_state()
    check_run(from_dict(run))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match=r"model.name=own cannot be built with these options \(ZeroDivisionError"):
        check_run(from_dict({**run, "model": {"name": "own", "width": 0}}))


def test_weights_are_counted_without_memory_and_too_many_are_refused(tmp_path):
    run = {"model": {"hidden_features": 999_999}, "out": str(tmp_path)}
    assert count_weights(from_dict(run)) > 10**12
    with pytest.raises(ValueError, match="model.name=schnet: its weights take .* GiB, more than the memory"):
        check_run(from_dict(run))
