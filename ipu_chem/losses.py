"""Losses as weighted sums: the weights, which the host computes, make the sum a mean over a whole step.

A loss never divides: the weights of a step already sum to 1 over all its packs, micro-batches and replicas, so adding
up gives the exact mean over molecules however they were packed.
"""

from typing import Callable, Dict, Tuple

import torch
from torch import Tensor

from ipu_chem.models.layers import as_index, at_least_float32, keep

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _error(prediction: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Prediction minus target where there is a label, else exactly 0 whatever stands there."""
    return keep(prediction - y, weight > 0)


def mse(prediction: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight x squared error; all arguments [B, G, T]."""
    error = _error(prediction, y, weight)
    return (weight * (error * error)).sum()  # not a power, see GaussianBasis


def mae(prediction: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight x absolute error; all arguments [B, G, T]."""
    return (weight * _error(prediction, y, weight).abs()).sum()


def huber(prediction: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight x Huber error with the bend at 1 standardized unit (Huber 1964); all [B, G, T]."""
    size = _error(prediction, y, weight).abs()
    small = torch.clamp(size, max=1.0)
    # small^2 / 2 below the bend, size - 1/2 above: the same expression on both sides.
    return (weight * (small * (size - 0.5 * small))).sum()


def bce(prediction: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight x binary cross entropy in nats, in float32 or better.

    Args:
        prediction: [B, G, T] logits.
        y: [B, G, T] classes, 0 or 1.
        weight: [B, G, T].
    """
    counts = weight > 0
    logits, y = keep(at_least_float32(prediction), counts), keep(at_least_float32(y), counts)
    size = logits.abs()
    # log(1 + e^x) - x y; so no exponential overflows and the derivative at 0, where fresh heads are, is 1/2 - y.
    return (at_least_float32(weight) * (0.5 * size + (0.5 - y) * logits + torch.log1p(torch.exp(-size)))).sum()


def token_cross_entropy(prediction: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight x cross entropy in nats, in float32 or better: the loss of language models.

    Args:
        prediction: [B, S, V] logits.
        labels: [B, S] integer in 0..V-1; anything where the weight is 0, and so are the logits there.
        weight: [B, S], 0 where there is nothing to predict.
    """
    counts = weight > 0
    logits = keep(at_least_float32(prediction), counts.unsqueeze(-1))
    labels = keep(as_index(labels), counts)
    tokens = torch.arange(logits.shape[-1], dtype=labels.dtype, device=logits.device)
    # By comparison, not by an index: the derivative of a gather scatters, one element at a time on an IPU.
    of_label = keep(logits, tokens == labels.unsqueeze(-1)).sum(-1)
    return (at_least_float32(weight) * (torch.logsumexp(logits, -1) - of_label)).sum()


def with_forces(loss: Loss, force_share: float) -> Callable[..., Tensor]:
    """The loss of a model that gives energies and forces.

    Args:
        loss: of each, one of `LOSSES`; of forces it is the mean over their components.
        force_share: rho; forces count rho, energies 1 - rho (Schuett et al. 2021).

    Returns:
        Function of ((energies [B, G, 1], forces [B, N, 3]), y, weight, forces, force_weight).

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    if not 0 < force_share <= 1:
        raise ValueError(f"force_share={force_share}: give a share above 0, such as 0.95, up to 1.")

    def both(
        prediction: Tuple[Tensor, Tensor], y: Tensor, weight: Tensor, forces: Tensor, force_weight: Tensor
    ) -> Tensor:
        return (1.0 - force_share) * loss(prediction[0], y, weight) + force_share * loss(
            prediction[1], forces, force_weight
        )

    return both


LOSSES: Dict[str, Loss] = {"mse": mse, "mae": mae, "huber": huber, "bce": bce}
AUTO = "auto"


def loss_by_name(name: str, binary: bool = False) -> Loss:
    """One of `LOSSES`; auto is bce for classes and mse for numbers.

    Args:
        name: auto, or a name of `LOSSES`.
        binary: labels are classes.

    Raises:
        ValueError: unknown name, or a loss for the other kind of labels.
    """
    if name != AUTO and name not in LOSSES:
        raise ValueError(f"loss={name!r}: choose one of {', '.join((AUTO, *LOSSES))}.")
    if name != AUTO and (name == "bce") != binary:
        what = "classes (0 and 1), and these labels are numbers" if name == "bce" else "numbers, and these are classes"
        raise ValueError(f"loss={name} is for labels that are {what}; leave it at auto.")
    return LOSSES[("bce" if binary else "mse") if name == AUTO else name]
