"""Fully sharded data parallel: a model sharded over the processes of torchrun, for what does not fit one device.

torch's `fully_shard` does it: the weights of a block are whole only while the block computes, their gradients are
added up in the process that owns that part of them, and the optimizer moves each part where it lies.
"""

from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.compile import repeated_blocks
from ipu_chem.backends.pytorch.processes import Processes


class _Sharded(NamedTuple):
    """Stands for a tensor that comes in parts, in what the first process broadcasts."""

    shape: Any
    dtype: torch.dtype


class Shards:
    """Shards of a model, one in each process that trains it; the first one also reads and writes files.

    Everything here must be called by all processes, in the same order.
    """

    def __init__(self, processes: Processes, device: torch.device) -> None:
        """Get ready to shard a model.

        Args:
            processes: all that train together, each with a device of its own.
            device: of this one.

        Raises:
            ValueError: this torch cannot do it; says which can.
        """
        check_torch()
        from torch.distributed.device_mesh import init_device_mesh

        self._processes = processes
        self._device = device
        self._mesh = init_device_mesh(device.type, (processes.world.size,))

    def shard(self, model: nn.Module) -> None:
        """Bring a model onto the devices in place, block by block, with the weights of the first process.

        Args:
            model: on the host, the same in all processes; names its blocks (`blocks()`).

        Raises:
            ValueError: the model repeats no block: all of it would be whole at once.
        """
        from torch.distributed.fsdp import fully_shard

        repeated = repeated_blocks(model)
        if not repeated:
            raise ValueError(
                "torch.fsdp=true: the model has no block that it repeats, and is sharded block by block; leave it "
                "out, or give the model more layers."
            )
        for module in [*repeated, model]:
            own = [tensor for tensor in (*module.parameters(), *module.buffers()) if not is_sharded(tensor)]
            for tensor in own:
                tensor.data = tensor.data.to(self._device)
            self._processes.broadcast(own)
            # Also what belongs to no block is let go of after use: only parts are ever seen from outside.
            sharded = fully_shard(module, mesh=self._mesh, reshard_after_forward=True)
            # The weights of a step sum to 1 over all processes: gradients are added up, not averaged.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)  # Gloo knows no other, NCCL's has had errors

    def gather(self, values: Mapping[str, Any]) -> Dict[str, Any]:
        """Copies on the host of the whole tensors, and plain values; in other processes than the first, nothing."""
        whole: Dict[str, Any] = {}
        for name, value in values.items():
            if is_sharded(value):  # one after the other: a device has no place for all
                with self._processes.among_computing():
                    value = value.full_tensor()
            if self._processes.world.rank == 0:
                whole.update(on_host({name: value}))
        return whole

    def parts(
        self, state: Mapping[str, Mapping[str, Any]], model: nn.Module, optimizer: Optional[torch.optim.Optimizer]
    ) -> Dict[str, Dict[str, Any]]:
        """The reverse of `gather`: of a state as of `Backend.state_dict`, what this process loads.

        Args:
            state: that of the first process counts; the others may have the names "model", "optimizer" alone.
            model: that `shard` has got.
            optimizer: of its parameters.
        """
        result = {"model": self._scatter(state["model"], model.state_dict().get)}
        if optimizer is not None and "optimizer" in state:
            groups = optimizer.param_groups
            owners = {str(i): weight for i, weight in enumerate(w for group in groups for w in group["params"])}
            result["optimizer"] = self._scatter(state["optimizer"], lambda name: owners.get(name.split(".", 1)[0]))
        return result

    def _scatter(self, values: Mapping[str, Any], like: Callable[[str], Any]) -> Dict[str, Any]:
        """Shard values of the first process as the tensor of the same shape that `like` finds for their names."""
        from torch.distributed.tensor import distribute_tensor

        described = {name: _description(value, like(name)) for name, value in values.items()}
        parts: Dict[str, Any] = {}
        for name, value in self._processes.broadcast_value(described).items():
            if isinstance(value, _Sharded):
                if self._processes.world.rank == 0:
                    whole = values[name].detach().to(self._device)
                else:
                    whole = torch.empty(value.shape, dtype=value.dtype, device=self._device)
                target = like(name)
                with self._processes.among_computing():
                    value = distribute_tensor(whole, target.device_mesh, target.placements)
            parts[name] = value
        return parts


def is_sharded(value: Any) -> bool:
    """True for a tensor of which this process has only a shard."""
    return hasattr(value, "full_tensor")


def check_torch() -> None:
    """Refuse a torch that cannot shard a model, or only so that gradients are averaged.

    Raises:
        ValueError: names the version to install.
    """
    try:
        from torch.distributed.fsdp import FSDPModule  # newer than some torch that is supported
    except ImportError:
        FSDPModule = None
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ValueError(
            f"torch.fsdp=true: torch {torch.__version__} cannot shard a model; install torch 2.8 or newer, or "
            "leave it out."
        )


def on_host(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Copies on the host of tensors that are whole, and plain values."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value for name, value in values.items()
    }


def _description(value: Any, target: Any) -> Any:
    """A value as the first process broadcasts it: all of it, or its shape where it comes in shards."""
    if is_sharded(target) and isinstance(value, Tensor) and value.shape == target.shape:
        return _Sharded(value.shape, value.dtype)
    return value
