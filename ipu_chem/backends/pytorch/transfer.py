"""A batch is transferred to a CUDA device in one copy instead of one for every field."""

from typing import Any, List, Tuple

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes; where a field may begin, whatever its dtype


def to_device(batch: Any, device: torch.device) -> Any:
    """The NamedTuple of tensors on a device; where it is the host, the batch itself.

    The copy runs beside the host: what is done on the device afterwards waits for it.
    """
    if device.type == "cpu":
        return batch
    return apart(together(batch, pinned=True).to(device, non_blocking=True), batch)


def together(batch: Any, pinned: bool) -> Tensor:
    """All fields one after the other, [bytes] uint8, in memory from which copies need no other when pinned."""
    buffer = torch.empty(_places(batch)[1], dtype=torch.uint8, pin_memory=pinned)
    for part, field in zip(apart(buffer, batch), batch):
        part.copy_(field)
    return buffer


def apart(buffer: Tensor, batch: Any) -> Any:
    """Views of a buffer in the shapes and dtypes of the batch's fields."""
    places, _ = _places(batch)
    views = []
    for (start, size), field in zip(places, batch):
        views.append(buffer.narrow(0, start, size).view(field.dtype).view(field.shape))
    return type(batch)(*views)


def _places(batch: Any) -> Tuple[List[Tuple[int, int]], int]:
    """First byte and number of bytes of every field, and bytes of all."""
    places, total = [], 0
    for field in batch:
        size = field.numel() * field.element_size()
        places.append((total, size))
        total += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places, total
