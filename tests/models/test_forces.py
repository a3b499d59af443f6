"""Forces: the softplus that may be differentiated twice, and weights of losses; the rest is in the contract."""

import numpy as np
import pytest
import torch

from ipu_chem.losses import LOSSES, with_forces
from ipu_chem.models.layers import ShiftedSoftplus


def test_the_softplus_of_force_models_has_the_right_derivatives_everywhere():
    x = torch.linspace(-120.0, 120.0, 2001, dtype=torch.float64, requires_grad=True)  # 0 among them
    activation = ShiftedSoftplus()
    activation.elementary = True
    value = activation(x)
    torch.testing.assert_close(value, torch.logaddexp(x, torch.zeros_like(x)) - np.log(2.0), rtol=1e-13, atol=1e-14)
    (derivative,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    torch.testing.assert_close(derivative, torch.sigmoid(x), rtol=1e-12, atol=1e-15)
    (curvature,) = torch.autograd.grad(derivative.sum(), x)
    inner = x.detach() != 0
    expected = torch.sigmoid(x) * torch.sigmoid(-x)
    torch.testing.assert_close(curvature[inner], expected[inner].detach(), rtol=1e-10, atol=1e-15)


def test_a_share_of_forces_that_is_none_is_refused():
    for share in (0.0, 1.1, -0.5):
        with pytest.raises(ValueError, match="force_share"):
            with_forces(LOSSES["mse"], share)
