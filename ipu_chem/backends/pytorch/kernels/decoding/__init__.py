"""Decoding token by token in native kernels: ChemGPT's step for many molecules at once, and draws from its logits.

Equal to `ipu_chem.models.decoding` but for rounding, without autograd. What a molecule gets does not depend on the
others: its numbers are the same to the bit whoever is computed beside it.
"""

import ctypes
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import pointer
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.chemgpt import ChemGPT

REALS = {torch.float32: "float", torch.float64: "double"}
_BLOCK = 16  # places that the cache grows by at least: a vector of keys, or more
_PLACES = 64  # of a new cache; most molecules need no more
# Larger weights might overflow where nothing could be seen of it in the logits.
_LARGEST = 1.0e6


class PackedWeights:
    """Weights of a `ChemGPT` as the kernels take them: a copy for all decoders of one model.

    Attributes:
        dtype: float32 or float64.
        layers: of the model.
        features: F, numbers of a token.
        vocabulary: V, tokens that logits are of.
        max_positions: tokens of the longest molecule.
        per_place: numbers that are kept of one token of one molecule.
    """

    def __init__(self, model: ChemGPT) -> None:
        """Lay the weights out.

        Args:
            model: that is `can_be_packed`.

        Raises:
            NativeError: no compiler here, or it refuses.
        """
        embedding, head = model.embedding, model.head
        self.dtype = head.weight.dtype
        self.real = REALS[self.dtype]
        self._library = library(self.real)
        self.layers = len(model.layers)
        self.vocabulary, self.features = head.weight.shape
        self.max_positions = model.max_positions
        self.per_place = 2 * self.layers * self.features
        tensors = [tensor for layer in model.layers for tensor in layer_weights(layer)]
        # Whole vectors of tokens: those beyond the vocabulary have weights of 0 and are never seen.
        self.columns = -(-self.vocabulary // _BLOCK) * _BLOCK
        rows = torch.nn.functional.pad(head.weight.detach(), (0, 0, 0, self.columns - self.vocabulary))
        tensors += [head.ln_f.weight, head.ln_f.bias, panels(rows), *embedding_weights(embedding)]
        self._owned, self.pointers = owned(tensors, self.dtype)
        self.local = local_layers(model.layers)
        first = model.layers[0]
        self.heads = first.attention.num_heads
        self.window = int(embedding.window)
        numbers = (first.attention.scale, head.multiplier, head.ln_f.eps)
        self.numbers = (ctypes.c_double * len(numbers))(*numbers)

    def function(self, name: str, result: object = None) -> "ctypes._CFuncPtr":  # type: ignore[name-defined]
        """A function of the library, of this format."""
        made = getattr(self._library, f"decoder_{name}_{self.real}")
        made.restype = result
        return made


def can_be_packed(model: nn.Module) -> bool:
    """True for models whose weights the kernels take: of one format, on the CPU, and no larger than numbers allow."""
    weights = list(model.parameters())
    return (
        all(weight.device.type == "cpu" for weight in weights)
        and len({weight.dtype for weight in weights}) == 1
        and weights[0].dtype in REALS
        and all(bool((weight.detach().abs() <= _LARGEST).all()) for weight in weights)  # False for NaN, too
    )


def layer_weights(layer: nn.Module) -> List[Optional[Tensor]]:
    """Weights of a layer in the order of `layers.h`, matrices in panels."""
    attention, mlp = layer.attention, layer.mlp
    projections = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    return [
        layer.ln_1.weight, layer.ln_1.bias, panels(torch.cat(projections)),
        panels(attention.out_proj.weight), attention.out_proj.bias, layer.ln_2.weight, layer.ln_2.bias,
        panels(mlp.c_fc.weight), mlp.c_fc.bias, panels(mlp.c_proj.weight), mlp.c_proj.bias,
    ]  # fmt: skip


def embedding_weights(embedding: nn.Module) -> List[Optional[Tensor]]:
    """Tokens, places or cosines, and sines or None, as `layers.h` has them."""
    if embedding.rotary is not None:
        return [embedding.wte.weight, embedding.rotary.cosine, embedding.rotary.sine]
    return [embedding.wte.weight, embedding.wpe.weight, None]


def owned(tensors: Sequence[Optional[Tensor]], dtype: torch.dtype) -> Tuple[List[Optional[Tensor]], Any]:
    """Copies of tensors, and their addresses for C, which keep nothing alive."""
    copies = [None if one is None else one.detach().to(dtype, copy=True).contiguous() for one in tensors]
    addresses = [None if one is None else one.data_ptr() for one in copies]
    return copies, (ctypes.c_void_p * len(copies))(*addresses)


def local_layers(layers: Iterable[nn.Module]) -> Any:
    """1 for every layer whose tokens see a window alone, else 0."""
    local = [int(layer.is_local) for layer in layers]
    return (ctypes.c_int64 * len(local))(*local)


def panels(weight: Tensor) -> Tensor:
    """A matrix [out, in] laid out for products."""
    weight = weight.detach().contiguous()
    laid_out = torch.empty_like(weight)
    out, width = weight.shape
    real = REALS[weight.dtype]
    function = getattr(library(real), f"decoder_panels_{real}")
    function(ctypes.c_int64(out), ctypes.c_int64(width), pointer(weight), pointer(laid_out))
    return laid_out


class Draw(NamedTuple):
    """Tokens that were drawn.

    Attributes:
        tokens: [n] int64.
        log_likelihoods: [n] float64, nats.
    """

    tokens: np.ndarray
    log_likelihoods: np.ndarray


class NativeDecoder:
    """Slots of molecules that are written, each at a place of its own; one thread at a time.

    Attributes:
        weights: of the model.
    """

    def __init__(self, weights: PackedWeights, slots: int) -> None:
        """Make room for so many molecules; memory grows with the longest of them."""
        self.weights = weights
        self._slots = slots
        self._places = 0
        self._grow(min(_PLACES, weights.max_positions))
        self._logits = torch.empty((slots, weights.columns), dtype=weights.dtype)
        self._space = np.empty(weights.vocabulary)

    def step(self, slots: np.ndarray, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """Logits of the next tokens.

        Args:
            slots: [n] int64, which of them go on, each once.
            ids: [n] int64, tokens that stand at their positions.
            positions: [n] int64, each one more than at the slot's last step, or 0, or behind what was restored.

        Returns:
            [n, V], which the next step writes over.
        """
        rows, weights = len(slots), self.weights
        assert len(ids) == len(positions) == rows <= self._slots and len(np.unique(slots)) == rows
        assert slots.min() >= 0 and slots.max() < self._slots and ids.min() >= 0 and ids.max() < weights.vocabulary
        assert positions.min() >= 0 and positions.max() < weights.max_positions
        if positions.max() >= self._places:
            self._grow(min(max(2 * self._places, int(positions.max()) + 1), weights.max_positions))
        weights.function("step")(
            self._sizes, weights.numbers, weights.local, weights.pointers, ctypes.c_int64(rows),
            *map(_address, (ids, positions, slots)), pointer(self._keys), pointer(self._values),
            pointer(self._workspace), pointer(self._logits),
        )  # fmt: skip
        return self._logits[:rows, : weights.vocabulary]

    def draw(
        self,
        temperature: float,
        allowed: np.ndarray,
        uniform: np.ndarray,
        given: np.ndarray,
        entries: np.ndarray,
        nats: np.ndarray,
        ends: np.ndarray,
    ) -> Draw:
        """Draw from the logits of the last step.

        Args:
            temperature: above 0.
            allowed: [V] float64, 1 where a token may be drawn, 0 elsewhere.
            uniform: [n] float64 in [0, 1).
            given: [n] int64, tokens that are not drawn, or -1.
            entries: [n] int64, rows of the next two that keep what a molecule draws from, or -1.
            nats: [any, V] float64, log-likelihoods of all tokens.
            ends: [any, V] float64, running sums of the weights that tokens are drawn by.
        """
        rows, vocabulary = len(uniform), self.weights.vocabulary
        assert all(one.flags.c_contiguous for one in (allowed, uniform, given, entries, nats, ends))
        assert allowed.dtype == uniform.dtype == nats.dtype == ends.dtype == np.float64
        assert nats.shape[1:] == ends.shape[1:] == allowed.shape == (vocabulary,) and len(nats) == len(ends)
        assert len(given) == len(entries) == rows and entries.max() < len(ends) and given.max() < vocabulary
        found = Draw(np.empty(rows, np.int64), np.empty(rows))
        sizes = [ctypes.c_int64(size) for size in (rows, vocabulary, self.weights.columns)]
        self.weights.function("draw")(
            *sizes, pointer(self._logits), ctypes.c_double(temperature),
            *map(_address, (allowed, uniform, given, entries, self._space, *found, nats, ends)),
        )  # fmt: skip
        return found

    def keep(self, slots: np.ndarray, positions: np.ndarray, entries: np.ndarray, kept: Tensor) -> None:
        """Copy what slots remember of single positions, [k] int64 each, into rows of kept [any, per_place]."""
        self._copy(slots, positions, entries, kept, 1)

    def restore(self, slot: int, entries: np.ndarray, kept: Tensor) -> None:
        """Let a slot remember rows of kept, entries [k] int64, as its positions 0 to k - 1."""
        if len(entries) > self._places:
            self._grow(min(max(2 * self._places, len(entries)), self.weights.max_positions))
        self._copy(np.full(len(entries), slot), np.arange(len(entries)), entries, kept, 0)

    def _copy(self, slots: np.ndarray, positions: np.ndarray, entries: np.ndarray, kept: Tensor, keep: int) -> None:
        assert kept.shape[1] == self.weights.per_place and kept.is_contiguous() and kept.dtype == self.weights.dtype
        assert len(entries) == 0 or entries.max() < len(kept) and positions.max() < self._places
        self.weights.function("copy")(
            self._sizes, ctypes.c_int64(len(entries)), *map(_address, (slots, positions, entries)),
            ctypes.c_int64(keep), pointer(self._keys), pointer(self._values), pointer(kept),
        )  # fmt: skip

    def _grow(self, places: int) -> None:
        """Make room for so many tokens of every molecule, and keep what is there."""
        weights = self.weights
        places = -(-places // _BLOCK) * _BLOCK
        # Memory that nobody has written to is none: the longest molecule alone takes all of it.
        shape = (weights.layers, self._slots, places * weights.features)
        keys, values = (torch.empty(shape, dtype=weights.dtype) for _ in range(2))
        if self._places:
            before = self._keys.shape[2]
            keys[:, :, :before], values[:, :, :before] = self._keys, self._values
        self._keys, self._values, self._places = keys, values, places
        sizes = (weights.features, weights.heads, weights.columns, weights.layers, weights.window, places, self._slots)
        self._sizes = (ctypes.c_int64 * len(sizes))(*sizes)
        needed = weights.function("workspace", ctypes.c_int64)(self._sizes, ctypes.c_int64(self._slots))
        self._workspace = torch.empty(needed, dtype=weights.dtype)


def _address(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous and array.dtype in (np.int64, np.float64)
    return ctypes.c_void_p(array.ctypes.data)
