"""Filters from a table are watched while the weights behind them change; where they are no longer exact, they go.

On data's way: beside Trainer; weights after an epoch -> error of the table -> the same program with exact filters.
"""

from dataclasses import replace
from typing import Any, Callable, Dict, Mapping, Optional

from torch import nn

from ipu_chem.backends.base import Backend
from ipu_chem.config import RunConfig
from ipu_chem.models.filter_check import LARGEST_FILTER_ERROR, filter_error, is_tabulated
from ipu_chem.models.registry import reads_text

_KEY = "filters"  # of a run's state: "exact" once it has left its table


def with_filters_of(state: Mapping[str, Any], config: RunConfig) -> RunConfig:
    """The configuration of a checkpoint's model: with exact filters if the run had to leave its table."""
    return replace(config, model=replace(config.model, filter="exact")) if state.get(_KEY) == "exact" else config


class FilterGuard:
    """Decides whether a run reads its filters from a table; all processes of a run decide alike."""

    def __init__(self, config: RunConfig, state: Mapping[str, Any], make: Callable[[RunConfig], nn.Module]) -> None:
        """Look at the weights that a run begins with.

        Args:
            config: of the run.
            state: of the checkpoint that it resumes from; empty for a new run.
            make: the model of a configuration, always with the same first weights.
        """
        self._config = with_filters_of(state, config)
        self._make = make
        self._has_filters = not reads_text(config.model.name)
        self.error = 0.0
        self._twin: Optional[nn.Module] = None
        if self._has_filters:
            self._look_at(make(self._config))

    def model(self) -> nn.Module:
        """A model for the backend, with the run's first weights."""
        return self._make(self._config)

    def description(self) -> Dict[str, str]:
        """Where filters come from, for run.json; nothing of a model that has none."""
        if not self._has_filters:
            return {}
        return {"filters": f"read from a table, off by {self.error:.1e} at most" if self._twin is not None else "exact"}

    def state(self) -> Dict[str, Any]:
        """For a checkpoint: what `with_filters_of` needs, and the error that was seen last."""
        if not self._has_filters:
            return {}
        return {"filter_error": self.error, _KEY: "table" if self._twin is not None else "exact"}

    def after_epoch(self, backend: Backend, compile: Callable[[nn.Module], None]) -> None:
        """Look at the weights that training has come to; if the table fails, go on without it.

        Args:
            backend: runs the model.
            compile: lets it run another one.
        """
        if self._twin is None:
            return
        self._twin.load_state_dict(backend.state_dict(weights_only=True)["model"])
        self._look_at(self._twin)
        if self._twin is None:
            state = backend.state_dict()
            compile(self.model())
            backend.load_state_dict(state)

    def _look_at(self, model: nn.Module) -> None:
        """Measure a model's table; keep the model as a twin to measure again, or leave tables for good."""
        self.error = filter_error(model)
        self._twin = model if is_tabulated(model) else None
        if self._twin is not None and not self.error <= LARGEST_FILTER_ERROR:  # NaN is no small error
            print(
                f"filters: the table is off by {self.error:.1e} of the largest filter, more than "
                f"{LARGEST_FILTER_ERROR:.0e}; from here on they are exact, which takes longer (more model.table_points "
                "would do, too)",
                flush=True,
            )
            self._twin = None
            self._config = with_filters_of({_KEY: "exact"}, self._config)
