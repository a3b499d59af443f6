"""Reading whole molecules in native kernels: all layers of a ChemGPT for packed sequences, without autograd.

Equal to `ipu_chem.models.decoder_layers.through_layers` but for rounding. Attention goes molecule by molecule, and
products are those of sampling: nothing of the size of pairs of tokens is kept.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import pointer
from ipu_chem.backends.pytorch.kernels.decoding import (
    REALS,
    can_be_packed,
    embedding_weights,
    layer_weights,
    local_layers,
    owned,
)
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.decoder_layers import through_layers, within
from ipu_chem.models.pooling import Reading

_ROWS = 256  # tokens that go through a layer together: enough for products, few enough for the cache


def use_reading_kernels(model: nn.Module) -> int:
    """Let models that read molecules do so in native kernels wherever nothing is differentiated.

    Args:
        model: with weights on the CPU; they may change later.

    Returns:
        How many parts do from now on.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if isinstance(part, Reading):
            library(REALS[part.embedding.wte.weight.dtype])
            part.kernel = Reader(part.embedding, part.layers)
            parts += 1
    return parts


class Reader:
    """Embedding and layers as one call; lays weights out again when they have changed."""

    def __init__(self, embedding: nn.Module, layers: nn.ModuleList) -> None:
        self._embedding, self._layers = embedding, layers
        self._parts = nn.ModuleList([embedding, *layers])
        self._seen: List[Tuple[int, int]] = []
        self._fits = False

    def __call__(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """ids, position_ids [B, S] integer -> [B, S, F]."""
        self._prepare()
        if not self._fits:
            return through_layers(self._embedding, self._layers, ids, position_ids)
        tokens = within(ids, self._embedding.wte.num_embeddings).to(torch.int64).contiguous()
        places = within(position_ids, self._embedding.max_positions).to(torch.int64).contiguous()
        packs, slots = tokens.shape
        x = torch.empty((packs, slots, self._sizes[0]), dtype=self._dtype)
        together = max(1, _ROWS // slots)
        starts = range(0, packs, together)
        threads = min(torch.get_num_threads(), len(starts))
        if threads == 1:
            for start in starts:
                self._read(tokens[start : start + together], places[start : start + together], x[start:])
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = [(tokens[start : start + together], places[start : start + together]) for start in starts]
                list(pool.map(self._read, *zip(*parts), (x[start:] for start in starts)))
        return x

    def _read(self, tokens: Tensor, places: Tensor, x: Tensor) -> None:
        """Fill the first rows of x; C lets go of Python's lock."""
        rows, sizes = tokens.numel(), self._sizes
        needed = self._function("workspace", ctypes.c_int64)(sizes, ctypes.c_int64(rows))
        workspace = torch.empty(needed, dtype=self._dtype)
        self._function("read")(
            sizes, self._numbers, self._local, self._pointers, ctypes.c_int64(rows),
            *map(pointer, (tokens, places, workspace, x)),
        )  # fmt: skip

    def _prepare(self) -> None:
        """Lay the weights out unless they are as they were."""
        weights = [*self._parts.parameters(), *self._parts.buffers()]
        now = [(weight.data_ptr(), -1 if weight.is_inference() else weight._version) for weight in weights]
        if now == self._seen and all(version >= 0 for _, version in now):
            return
        self._seen, self._fits = now, can_be_packed(self._parts)
        if not self._fits:
            return
        embedding, first = self._embedding, self._layers[0]
        self._dtype = embedding.wte.weight.dtype
        tensors: List[Optional[Tensor]] = [tensor for layer in self._layers for tensor in layer_weights(layer)]
        # Nothing of the head is read.
        self._owned, self._pointers = owned([*tensors, None, None, None, *embedding_weights(embedding)], self._dtype)
        self._local = local_layers(self._layers)
        sizes = (embedding.wte.embedding_dim, first.attention.num_heads, len(self._layers), int(embedding.window))
        self._sizes = (ctypes.c_int64 * len(sizes))(*sizes)
        self._numbers = (ctypes.c_double * 2)(first.attention.scale, first.ln_1.eps)

    def _function(self, name: str, result: Any = None) -> Any:
        real = REALS[self._dtype]
        made = getattr(library(real), f"reader_{name}_{real}")
        made.restype = result
        return made
