"""Programs that PopTorch compiles: a model, with its loss or alone, as a module in the form that PopTorch expects."""

from collections import OrderedDict
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.models.layers import indices_in

Overlap = Tuple[Callable[[Any], Any], Callable[[Any], Any]]  # marks of inputs and outputs, see `host_overlap`


class DeviceProgram(nn.Module):
    """A module whose tensors PopTorch finds by name, shared ones included."""

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Every parameter and buffer under each path at which it hangs in the module.

        PopTorch takes names of tensors that occur twice, as tied weights do, for paths of modules, and looks them up
        to tie them on the device. A model and what is around it name their tensors as checkpoints should have them.
        """
        # PopTorch hands the arguments over by position, as older versions of torch had them.
        given = dict(zip(("destination", "prefix", "keep_vars"), args))
        destination = given.get("destination", destination)
        prefix, keep_vars = given.get("prefix", prefix), given.get("keep_vars", keep_vars)
        state: Any = OrderedDict() if destination is None else destination
        for tensors in (self.named_parameters, self.named_buffers):
            for name, tensor in tensors(prefix=prefix.rstrip("."), remove_duplicate=False):
                state[name] = tensor if keep_vars else tensor.detach()
        return state


class TrainingProgram(DeviceProgram, Program):
    """Model, loss and the mark from which PopTorch differentiates; only the loss leaves the device."""

    def __init__(self, program: Program, identity_loss: Callable[..., Tensor], overlap: Optional[Overlap]) -> None:
        """Wrap a program.

        Args:
            program: model and loss.
            identity_loss: PopTorch's mark.
            overlap: marks for transfers while the IPU computes; None for others.
        """
        super().__init__(program.model, program.loss, program.first_target)
        self.identity_loss = identity_loss
        self.overlap = overlap

    def forward(self, batch: Any) -> Any:
        """A NamedTuple as `Program` takes it -> loss of the micro-batch, a scalar."""
        if self.overlap is not None:
            batch = type(batch)(*(self.overlap[0](field) for field in batch))
        with indices_in(torch.int32):
            _, loss = super().forward(batch)
        # The loss is one number already: summing it is the reduction that scales nothing.
        loss = self.identity_loss(loss, reduction="sum")
        return loss if self.overlap is None else self.overlap[1](loss)


class EvaluationProgram(DeviceProgram):
    """A model without loss."""

    def __init__(self, model: nn.Module, overlap: Optional[Overlap] = None) -> None:
        """Wrap a model; ``overlap`` as of `TrainingProgram`."""
        super().__init__()
        self.model = model
        self.overlap = overlap

    def forward(self, *inputs: Tensor) -> Any:
        """Inputs of the model -> its outputs."""
        if self.overlap is not None:
            inputs = tuple(map(self.overlap[0], inputs))
        with indices_in(torch.int32):
            predicted = self.model(*inputs)
        if self.overlap is None:
            return predicted
        return tuple(map(self.overlap[1], predicted)) if isinstance(predicted, tuple) else self.overlap[1](predicted)
