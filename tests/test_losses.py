import math

import pytest
import torch
from torch.nn import functional

from ipu_chem.losses import LOSSES

THEIRS = {"mse": functional.mse_loss, "mae": functional.l1_loss, "huber": functional.huber_loss}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_torchs_weighted(name):
    torch.manual_seed(0)
    prediction, y = (3 * torch.randn(2, 5, 3, dtype=torch.float64) for _ in range(2))
    prediction.requires_grad_()
    weight = torch.rand(2, 5, 3, dtype=torch.float64)
    ours = LOSSES[name](prediction, y, weight)
    theirs = (weight * THEIRS[name](prediction, y, reduction="none")).sum()
    assert math.isclose(float(ours.detach()), float(theirs.detach()), rel_tol=1e-14)
    slopes = [torch.autograd.grad(value, prediction)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
def test_without_weight_neither_label_nor_prediction_counts(name, garbage):
    prediction = torch.tensor([[[1.0], [garbage]]], requires_grad=True)
    y = torch.tensor([[[3.0], [garbage]]])
    weight = torch.tensor([[[0.5], [0.0]]])
    loss = LOSSES[name](prediction, y, weight)
    loss.backward()
    alone = LOSSES[name](prediction[:, :1].detach(), y[:, :1], weight[:, :1])
    assert float(loss.detach()) == float(alone) > 0
    assert prediction.grad is not None and prediction.grad[0, 1] == 0 and prediction.grad[0, 0] != 0
