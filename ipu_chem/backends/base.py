"""The seam between training and devices, cut at the optimizer step.

One call of a device program is forward, backward, reduction over replicas and update for a whole block
of packs; so a backend offers that call, not its parts, and the loop above it is the same for every device.
"""

from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np
from torch import Tensor, nn

from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.optim import OptimizerConfig


class Program(nn.Module):
    """Model and loss in one module: what a device compiles."""

    def __init__(self, model: nn.Module, loss: Optional[Callable[..., Tensor]], first_target: int = -2) -> None:
        """Join the two.

        Args:
            model, loss: see `Backend.compile`.
            first_target: `ipu_chem.batches.types.first_target` of the batches.
        """
        super().__init__()
        self.model = model
        self.loss = loss
        self.first_target = first_target

    def forward(self, batch: Any) -> Tuple[Any, Optional[Tensor]]:
        """Predict, and measure the loss where there is one.

        Args:
            batch: a NamedTuple of tensors, of which the last ones are labels and weights.
        """
        # Slices, not the batch's properties: torch.compile of torch 2.0 does not follow those.
        prediction = self.model(*batch[: self.first_target])
        if self.loss is None:
            return prediction, None
        return prediction, self.loss(prediction, *batch[self.first_target :])


class Backend(ABC):
    """A device, or several, that trains and evaluates one model.

    Batches are NamedTuples of tensors on the host whose leading axis counts packs, ordered device
    iteration, then accumulation, then replica, then micro-batch; shapes and dtypes never change. The
    weights of every optimizer step sum to 1 (`ipu_chem.batches.loader`), so losses and gradients add up to means.
    A process of several feeds the replicas that are its own: `batching.for_one_of(world)`.
    """

    name: str
    world: World = ALONE  # the processes that train together; `Batching` counts the replicas of all of them
    evaluates: World = ALONE  # this process among those that share an evaluation; alone, it does all of it
    compiles_only: bool = False  # whether `compile` is all that can be done here: it leaves programs for other machines

    @abstractmethod
    def compile(
        self,
        model: nn.Module,
        loss: Optional[Callable[..., Tensor]],
        optimizer: Optional[OptimizerConfig],
        batching: Batching,
        example: Any,
    ) -> None:
        """Get ready; a second call lets go of the first one's model.

        Args:
            model: parameters on the host; the backend owns it from now on.
            loss: function of (prediction, *targets) that adds up, see `ipu_chem.losses`; None without an optimizer.
            optimizer: None when only `evaluate` will be called.
            batching: how a call of all processes together is cut up.
            example: a batch for `train_step`, or for `evaluate` when there is no optimizer.

        Raises:
            ValueError: the device cannot run this; says why and what would do.
        """

    @abstractmethod
    def train_step(self, batch: Any, learning_rate: float) -> Tensor:
        """Run one call; returns the loss of each of its optimizer steps, [device_iterations], on the host."""

    @abstractmethod
    def evaluate(self, batch: Any) -> Any:
        """Predict for `packs_per_evaluation` packs; returns the model's tensor, or tuple of them, on the host."""

    @abstractmethod
    def state_dict(self, weights_only: bool = False) -> Dict[str, Dict[str, Any]]:
        """{"model": ..., "optimizer": ...}, current and on the host, in copies that training leaves alone.

        "model" is the model's state dict; "optimizer" maps names to tensors or plain values and is absent
        when only weights are asked for or there is no optimizer. All processes must call it; where they share a
        model out (`torch.fsdp`), the first gets what is in the two and the others nothing.
        """

    @abstractmethod
    def load_state_dict(self, state: Dict[str, Dict[str, Any]]) -> None:
        """Load "model", and "optimizer" if it is there; as `state_dict` gave it."""

    def total(self, predictions: np.ndarray) -> np.ndarray:
        """Sum over the processes that share an evaluation; all of them must call it."""
        return predictions

    def agreed(self, number: int) -> int:
        """The largest of the numbers that all processes give, where they can talk on the host; else this one."""
        return number

    @abstractmethod
    def close(self) -> None:
        """Give the device back; calling it twice is fine."""
