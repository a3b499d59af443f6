import math

import pytest
import torch
from torch.nn import functional

from ipu_chem.losses import LOSSES, loss_by_name

THEIRS = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
    "bce": functional.binary_cross_entropy_with_logits,
}


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
    y = torch.tensor([[[0.0], [garbage]]])
    weight = torch.tensor([[[0.5], [0.0]]])
    loss = LOSSES[name](prediction, y, weight)
    loss.backward()
    alone = LOSSES[name](prediction[:, :1].detach(), y[:, :1], weight[:, :1])
    assert float(loss.detach()) == float(alone) > 0
    assert prediction.grad is not None and prediction.grad[0, 1] == 0 and prediction.grad[0, 0] != 0


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -90.0, -1e-3, 0.0, 1e-3, 90.0, 1e4])
def test_cross_entropy_of_any_logit_is_finite_and_right(logit, label):
    x = torch.tensor([[[logit]]], requires_grad=True)
    value = LOSSES["bce"](x, torch.tensor([[[label]]]), torch.ones(1, 1, 1))
    (slope,) = torch.autograd.grad(value, x)
    wide = torch.tensor(logit, dtype=torch.float64)
    expected = functional.binary_cross_entropy_with_logits(wide, torch.tensor(label, dtype=torch.float64))
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-6, abs=1e-30)
    assert float(slope) == pytest.approx(float(torch.sigmoid(wide)) - label, abs=1e-6)


def test_16_bits_are_added_up_in_32():
    x, y, weight = torch.full((1, 1, 1), 9.0), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    value = LOSSES["bce"](x.half(), y.half(), weight.half())
    assert value.dtype == torch.float32 and float(value) == float(LOSSES["bce"](x, y, weight))


def test_auto_is_the_loss_of_the_kind_of_label():
    assert loss_by_name("auto") is LOSSES["mse"] and loss_by_name("auto", binary=True) is LOSSES["bce"]
    assert loss_by_name("bce", binary=True) is LOSSES["bce"] and loss_by_name("huber") is LOSSES["huber"]
    with pytest.raises(ValueError, match="loss=mse is for labels that are numbers, and these are classes; leave it at"):
        loss_by_name("mse", binary=True)
    with pytest.raises(ValueError, match=r"loss=bce is for labels that are classes \(0 and 1\), and these labels are"):
        loss_by_name("bce")
    with pytest.raises(ValueError, match="loss='mes': choose one of auto, mse, mae, huber, bce"):
        loss_by_name("mes")
