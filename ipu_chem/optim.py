"""Optimizers and learning rates as plain descriptions; each backend builds its own from them."""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

from ipu_chem.ranges import check_choice, check_fields, check_number

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "cosine", "plateau")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer: updates of the weights from gradients.

    Attributes:
        name: adamw, adam or sgd.
        learning_rate: peak learning rate, reached after warm-up.
        weight_decay: decoupled for adamw, added to the gradient for adam and sgd.
        betas: decay of the two moments of adam and adamw.
        eps: keeps adam's division finite.
        momentum: of sgd.
        max_grad_norm: gradients of a step longer than this are shortened to it; 0 never clips.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: Tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        check_choice("optimizer.name", self.name, OPTIMIZERS)
        ranges = {"learning_rate": "above 0", "eps": "above 0", "momentum": "0 or more and below 1"}
        check_fields(self, "optimizer", weight_decay="0 or more", max_grad_norm="0 or more", **ranges)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise ValueError(f"optimizer.betas={self.betas!r}: give two numbers, such as [0.9, 0.999].")
        for beta in self.betas:
            check_number("optimizer.betas", beta, "0 or more and below 1")


class ParameterGroups:
    """Parameters that share a learning rate, as torch's and PopTorch's optimizers take them.

    A part of a model with `learning_rate_multipliers()`, by name of its own parameters, says which learn more slowly
    or faster than the others. Where none does, there is one group.

    Attributes:
        groups: one dict each, in the order of the parameters.
        multipliers: of the learning rate of each.
    """

    def __init__(self, config: OptimizerConfig, model: Any, trained: Sequence[Any]) -> None:
        """Sort the parameters.

        Args:
            config: of the optimizer.
            model: torch.nn.Module.
            trained: its parameters that are trained, in its order, or what stands in for them.

        Raises:
            ValueError: multipliers are Adam's, and this is another optimizer.
        """
        from ipu_chem.models.base import Model

        of: Dict[int, float] = {}
        for module in model.modules():
            if isinstance(module, Model):
                named = dict(module.named_parameters())
                of.update({id(named[name]): value for name, value in module.learning_rate_multipliers().items()})
        owners = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert len(owners) == len(trained), "something stands in for every trained parameter"
        members: Dict[float, List[Any]] = {}
        for owner, parameter in zip(owners, trained):
            members.setdefault(of.get(id(owner), 1.0), []).append(parameter)
        self.multipliers = list(members)
        if config.name == "sgd" and set(members) - {1.0}:
            raise ValueError(
                "optimizer.name=sgd: learning rates for other widths (model.mup_base_width) are known for adam and "
                "adamw; use one of them, or leave that out."
            )
        self.groups: List[Dict[str, Any]] = [{"params": parameters} for parameters in members.values()]
        if self.multipliers == [1.0]:
            return
        for group, multiplier in zip(self.groups, self.multipliers):
            group["lr"] = config.learning_rate * multiplier
            if config.name == "adamw":  # its decay is multiplied by the learning rate, and should be the same for all
                group["weight_decay"] = config.weight_decay / multiplier

    def set_learning_rate(self, optimizer: Any, learning_rate: float) -> None:
        """Give every group of an optimizer its multiple of a learning rate."""
        for group, multiplier in zip(optimizer.param_groups, self.multipliers):
            group["lr"] = learning_rate * multiplier


@dataclass(frozen=True)
class ScheduleConfig:
    """Schedule of the learning rate.

    Attributes:
        name: constant, cosine (falls to min_factor at the last step) or plateau (falls by plateau_factor
            whenever the validation metric has not improved for plateau_patience evaluations).
        warmup_steps: optimizer steps of linear rise from 0.
        min_factor: lowest learning rate as a fraction of the peak.
        plateau_factor: multiplies the learning rate on a plateau.
        plateau_patience: evaluations without improvement that make a plateau.
    """

    name: str = "cosine"
    warmup_steps: int = 0
    min_factor: float = 0.01
    plateau_factor: float = 0.5
    plateau_patience: int = 5

    def __post_init__(self) -> None:
        check_choice("schedule.name", self.name, SCHEDULES)
        ranges = {"min_factor": "from 0 to 1", "plateau_factor": "above 0 and at most 1"}
        check_fields(self, "schedule", warmup_steps="0 or more", plateau_patience="1 or more", **ranges)


class Schedule:
    """Learning rate as a function of the optimizer step; a plateau's falls are its only memory."""

    def __init__(self, config: ScheduleConfig, peak: float, total_steps: int) -> None:
        self.config = config
        self.peak = peak
        self.total_steps = max(total_steps, 1)
        self.falls = 0
        self._best = math.inf
        self._waited = 0

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimizer step ``step``, counted from 0."""
        config = self.config
        if step < config.warmup_steps:
            return self.peak * (step + 1) / config.warmup_steps
        factor = 1.0
        if config.name == "cosine":
            done = (step - config.warmup_steps) / max(self.total_steps - config.warmup_steps, 1)
            factor = config.min_factor + (1 - config.min_factor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        elif config.name == "plateau":
            factor = max(config.plateau_factor**self.falls, config.min_factor)
        return self.peak * factor

    def evaluated(self, metric: float) -> None:
        """Take a validation metric (lower is better)."""
        if metric < self._best:
            self._best, self._waited = metric, 0
            return
        self._waited += 1
        if self.config.name == "plateau" and self._waited >= self.config.plateau_patience:
            self.falls, self._waited = self.falls + 1, 0

    def state_dict(self) -> "dict[str, float]":
        """State for `load_state_dict`, as JSON values."""
        return {"falls": self.falls, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state: "dict[str, float]") -> None:
        """Continue where `state_dict` was taken."""
        self.falls, self._best, self._waited = int(state["falls"]), float(state["best"]), int(state["waited"])
