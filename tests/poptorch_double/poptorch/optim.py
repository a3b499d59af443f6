"""poptorch.optim: torch's optimizers with PopTorch's extra attributes and its own rules for state.

Their `step` is never called: the device updates the weights (`update_rules`). What a constructor is given
counts as variable, the rest as constant; the state dict has "ipu_state" and "ipu_param" beside torch's keys.
"""

from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch

_ACCUMULATORS = (torch.float16, torch.float32)
MOMENTS = ("first_order_momentum_accum_type", "second_order_momentum_accum_type")


class VariableAttributes:
    """Which attributes may change after compilation."""

    def __init__(self, variable_attributes: List[str], allowed_attributes: List[str]) -> None:
        self._variable = list(variable_attributes)
        self._allowed = list(allowed_attributes)

    def isConstant(self, attr: str) -> bool:
        return attr not in self._variable

    def markAsConstant(self, attr: str) -> None:
        assert attr in self._allowed, f"{attr} is none of {self._allowed}"
        self._variable = [name for name in self._variable if name != attr]


class Optimizer:
    """State that lives on the device, and whether host and device agree on it."""

    def __init__(self) -> None:
        self._state_dict: Dict[str, Any] = {"ipu_state": None, "ipu_param": None}
        self.ipu_state_is_dirty = False
        self.host_state_is_dirty = False

    def state_dict(self) -> Dict[str, Any]:
        return self.get_state_dict()

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        torch.optim.Optimizer.load_state_dict(self, state)  # type: ignore[arg-type]
        self.set_state_dict(state)

    def get_state_dict(self) -> Dict[str, Any]:
        return {**self._state_dict, **torch.optim.Optimizer.state_dict(self)}  # type: ignore[arg-type]

    def set_state_dict(self, state: Dict[str, Any]) -> None:
        if not state:
            raise RuntimeError("an empty optimizer state cannot be loaded")
        if "ipu_state" not in state or "ipu_param" not in state:
            raise RuntimeError("only the state of an IPU optimizer can be loaded onto an IPU")
        self._state_dict = state
        self.ipu_state_is_dirty = True
        self.host_state_is_dirty = False

    def has_state(self) -> bool:
        return self._state_dict.get("ipu_state") is not None and self._state_dict.get("ipu_param") is not None

    def _finish(
        self, given: Dict[str, Any], loss_scaling: Optional[float], types: Dict[str, Any], limit: Optional[float]
    ) -> None:
        """Attributes that all of them have."""
        self.loss_scaling = 1.0 if loss_scaling is None else loss_scaling
        for name, dtype in types.items():
            dtype = torch.float32 if dtype is None else dtype
            assert dtype in _ACCUMULATORS, f"{name} is float16 or float32"
            setattr(self, name, dtype)
        self.max_grad_norm = float("inf") if limit is None else limit
        allowed = [*self.defaults, "loss_scaling"]  # type: ignore[attr-defined]
        self.variable_attrs = VariableAttributes([name for name, value in given.items() if value is not None], allowed)


def _for_torch(given: Dict[str, Any], own: Tuple[str, ...]) -> Dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None and name not in own}


class SGD(Optimizer, torch.optim.SGD):
    _own = (
        "loss_scaling",
        "velocity_scaling",
        "use_combined_accum",
        "accum_type",
        "velocity_accum_type",
        "max_grad_norm",
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: Optional[float] = None,
        dampening: Optional[float] = None,
        weight_decay: Optional[float] = None,
        nesterov: Optional[bool] = None,
        maximize: Optional[bool] = None,
        foreach: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        velocity_scaling: Optional[float] = None,
        use_combined_accum: Optional[bool] = None,
        accum_type: Optional[torch.dtype] = None,
        velocity_accum_type: Optional[torch.dtype] = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if nesterov or maximize or use_combined_accum or velocity_scaling is not None:
            raise NotImplementedError("the double has no nesterov, maximize, combined accumulator or velocity scaling")
        Optimizer.__init__(self)
        torch.optim.SGD.__init__(self, **_for_torch(given, self._own))
        types = {"accum_type": accum_type, "velocity_accum_type": velocity_accum_type}
        self._finish(given, loss_scaling, types, max_grad_norm)


class Adam(Optimizer, torch.optim.Adam):
    _own = (
        "loss_scaling",
        "accum_type",
        "first_order_momentum_accum_type",
        "second_order_momentum_accum_type",
        "max_grad_norm",
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        amsgrad: Optional[bool] = None,
        foreach: Optional[bool] = None,
        maximize: Optional[bool] = None,
        capturable: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        fused: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        accum_type: Optional[torch.dtype] = None,
        first_order_momentum_accum_type: Optional[torch.dtype] = None,
        second_order_momentum_accum_type: Optional[torch.dtype] = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        Optimizer.__init__(self)
        torch.optim.Adam.__init__(self, **_for_torch(given, self._own))
        types = {name: given[name] for name in self._own if name.endswith("accum_type")}
        self._finish(given, loss_scaling, types, max_grad_norm)


class AdamW(Optimizer, torch.optim.AdamW):
    _own = ("bias_correction",) + Adam._own

    def __init__(
        self,
        params: Iterable[Any],
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        amsgrad: Optional[bool] = None,
        maximize: Optional[bool] = None,
        foreach: Optional[bool] = None,
        capturable: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        fused: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        bias_correction: Optional[bool] = None,
        accum_type: Optional[torch.dtype] = None,
        first_order_momentum_accum_type: Optional[torch.dtype] = None,
        second_order_momentum_accum_type: Optional[torch.dtype] = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        Optimizer.__init__(self)
        torch.optim.AdamW.__init__(self, **_for_torch(given, self._own))
        self.bias_correction = True if bias_correction is None else bias_correction
        types = {name: given[name] for name in self._own if name.endswith("accum_type")}
        self._finish(given, loss_scaling, types, max_grad_norm)
