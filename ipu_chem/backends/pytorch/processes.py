"""Processes that train together on CPUs or GPUs, started by torchrun: their collectives."""

import signal
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Iterator, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from ipu_chem.backends.options import World
from ipu_chem.parallel import signal_at_end_of_parent

_REST = 0.1  # seconds


class Processes:
    """This process among those of a training; alone, it has nobody to ask and changes nothing.

    Everything here must be called by all processes, in the same order.
    """

    def __init__(self, world: World, device: torch.device, timeout: float) -> None:
        """Meet the others.

        Args:
            world: this process among them.
            device: of the gradients; NCCL connects CUDA devices, Gloo everything else.
            timeout: seconds to wait for the others before giving up.

        Raises:
            ConnectionError: they do not come.
        """
        self.world = world
        self._timeout = timeout
        self._host: Optional[Any] = None  # group for values on the host
        self._owned = False
        if world.size == 1:
            return
        signal_at_end_of_parent(signal.SIGTERM)  # of torchrun, if it is killed: a checkpoint, then the end
        with self._answered():
            if not dist.is_initialized():
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
                self._owned = True
            self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the processes, all in one exchange."""
        if self.world.size == 1:
            return
        with torch.no_grad():
            together = torch.cat([tensor.reshape(-1) for tensor in tensors])
            with self._answered():
                dist.all_reduce(together)
            for tensor, part in zip(tensors, together.split([tensor.numel() for tensor in tensors])):
                tensor.copy_(part.reshape(tensor.shape))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of arrays on the hosts."""
        if self.world.size == 1:
            return values
        with self._answered():
            result = torch.from_numpy(values).clone()
            dist.all_reduce(result, group=self._host)
        return result.numpy()

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.world.size == 1:
            return number
        with self._answered():
            value = torch.tensor(number)
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self._host)
        return int(value)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by that of the process of rank 0."""
        if self.world.size == 1:
            return
        with torch.no_grad(), self._answered():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def broadcast_value(self, value: Any) -> Any:
        """Broadcast from the process of rank 0: any plain value, or tensors on the host."""
        if self.world.size == 1:
            return value
        with self._answered():
            values = [value if self.world.rank == 0 else None]
            dist.broadcast_object_list(values, 0, group=self._host)
        return values[0]

    def close(self) -> None:
        """Leave the others; calling it twice is fine."""
        if self._owned and dist.is_initialized():
            # Gloo's threads may be about to let go of the tensors of the last exchange, for which they need Python's
            # lock. Whoever frees a group keeps that lock and waits for the threads, forever: they go first.
            time.sleep(_REST)
            dist.destroy_process_group()
        self._owned = False

    @contextmanager
    def among_computing(self) -> Iterator[None]:
        """Around computing that also hears from the others (`Shards`): other errors stay what they are."""
        try:
            yield
        except RuntimeError as error:
            if self.world.size == 1 or not any(library in str(error).lower() for library in ("gloo", "nccl")):
                raise
            raise self._no_answer(error) from error

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Tells in a sentence that the others are gone."""
        try:
            yield
        except (RuntimeError, TimeoutError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"process {self.world.rank} of {self.world.size} gets no answer from the others: one of them has "
            f"ended, or did not come within {self._timeout:g} s (torch.timeout); see what it said. The last "
            f"checkpoint is kept. [{str(error).splitlines()[0]}]"
        )
