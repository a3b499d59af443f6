"""The check that filters read from a table stay exact while weights change; where they do not, the table goes."""

from typing import Any, Callable, Dict, Optional

from torch import nn

from ipu_chem.backends.base import Backend
from ipu_chem.models.tables import LARGEST_FILTER_ERROR, filter_error, is_tabulated
from ipu_chem.tasks.base import FILTERS, Task
from ipu_chem.training.callbacks import Callback


class FilterGuard(Callback):
    """Decides whether a run reads its filters from a table; all processes of a run decide alike."""

    def __init__(self, task: Task, backend: Backend, compile: Callable[[nn.Module], None]) -> None:
        """Measure the weights that a run begins with.

        Args:
            task: of a model with filters, which it gives always with the same first weights.
            backend: runs the model.
            compile: lets it run another one.
        """
        self._task = task
        self._backend = backend
        self._compile = compile
        self.error = 0.0
        self._twin: Optional[nn.Module] = None
        self._measure(task.model())

    def describe(self) -> Dict[str, str]:
        """See `Callback.describe`: where filters come from."""
        return {"filters": f"read from a table, off by {self.error:.1e} at most" if self._twin is not None else "exact"}

    def state(self) -> Dict[str, Any]:
        """See `Callback.state`: what `Task.load` needs, and the error that was measured last."""
        return {"filter_error": self.error, FILTERS: "table" if self._twin is not None else "exact"}

    def before_evaluation(self) -> None:
        """Measure the weights that training has come to; if the table fails, go on without it."""
        if self._twin is None:
            return
        self._twin.load_state_dict(self._backend.state_dict(weights_only=True)["model"])
        self._measure(self._twin)
        if self._twin is None:
            state = self._backend.state_dict()
            self._compile(self._task.model())
            self._backend.load_state_dict(state)

    def _measure(self, model: nn.Module) -> None:
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
            self._task.use_exact_filters()
