"""Optimizer descriptions as PopTorch's optimizers, or a sentence why IPUs would do something else."""

from typing import Any

import torch

from ipu_chem.backends.options import Precision
from ipu_chem.optim import OptimizerConfig, ParameterGroups


def build_optimizer(poptorch: Any, config: OptimizerConfig, groups: ParameterGroups, precision: Precision) -> Any:
    """The PopTorch optimizer that a description stands for.

    Raises:
        ValueError: it would not do on IPUs what it does elsewhere; names what would.
    """
    # PopART clips what enters the moments (adam, adamw) or the weight update (sgd): the gradient itself only
    # where nothing was mixed into it before.
    scaling = precision.loss_scaling
    mixed = config.weight_decay > 0 or config.momentum > 0 or scaling != 1
    if config.max_grad_norm > 0 and (
        (config.name == "adam" and config.weight_decay > 0) or (config.name == "sgd" and mixed)
    ):
        raise ValueError(
            f"optimizer.max_grad_norm with {config.name}: IPUs clip after weight decay, momentum and loss scaling; "
            "use optimizer.name=adamw, or leave those out."
        )
    parameters = groups.groups
    shared = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "loss_scaling": scaling}
    if config.max_grad_norm > 0:
        shared["max_grad_norm"] = config.max_grad_norm
    kept_in = getattr(torch, precision.accumulation)
    if config.name == "sgd":
        optimizer = poptorch.optim.SGD(
            parameters, momentum=config.momentum, accum_type=kept_in, velocity_accum_type=kept_in, **shared
        )
    else:
        kind = poptorch.optim.AdamW if config.name == "adamw" else poptorch.optim.Adam
        optimizer = kind(
            parameters,
            betas=tuple(config.betas),
            eps=config.eps,
            accum_type=kept_in,
            first_order_momentum_accum_type=kept_in,
            **shared,
        )
    # Whatever is passed counts as changing from step to step, costs a stream to the device and, for a momentum
    # of 0, a buffer as large as the weights: only the learning rate does change.
    for name in ("momentum",) if config.name == "sgd" else ("betas", "eps"):
        optimizer.variable_attrs.markAsConstant(name)
    optimizer.variable_attrs.markAsConstant("weight_decay")
    optimizer.variable_attrs.markAsConstant("loss_scaling")
    return optimizer
