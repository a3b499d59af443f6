"""Profiles of a model's blocks: parameters, activations, outputs handed on, and operators.

The model runs once on torch's meta device, where tensors have shapes but no values: no memory, no time,
the same on every machine. A 1.2-billion-parameter model takes a second.
"""

from typing import Any, Dict, List, NamedTuple, Set, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ipu_chem.backends.poptorch.meta import call, meta_copy, tensors_of, to_meta
from ipu_chem.backends.poptorch.timing.operators import Operator, describe
from ipu_chem.models.base import blocks_of

_RANDOM = ("bernoulli", "native_dropout", "rand", "normal", "uniform")


class BlockProfile(NamedTuple):
    """One block of a model in one forward pass of one micro-batch.

    Attributes:
        name: of the submodule; empty for a model that cannot be cut.
        parameters: trained numbers that this block is the first to use.
        parameter_bytes: their size in the model's format.
        constant_bytes: buffers and frozen parameters that this block is the first to use.
        activation_bytes: what the backward pass needs of this block.
        working_bytes: what its largest operator takes and returns.
        input_bytes: tensors of the batch that this block is the first to use.
        output_bytes: what a cut behind this block hands on, for whichever later block.
        flops: floating-point operations; 1 an element where there is no matrix product.
        parameter_tensors: trained tensors that this block is the first to use.
        operators: in the order of execution, without those whose results are known when a program is compiled.
    """

    name: str
    parameters: int
    parameter_bytes: int
    constant_bytes: int
    activation_bytes: int
    working_bytes: int
    input_bytes: int
    output_bytes: int
    flops: int
    parameter_tensors: int = 0
    operators: Tuple[Operator, ...] = ()


def profile_blocks(program: nn.Module, example: Any) -> List[BlockProfile]:
    """Measure every block of ``program.model.blocks()`` in the formats that the parameters have.

    What runs before the first block counts to it, what runs between two to the earlier one, the loss to the last.
    64-bit numbers count as 32-bit ones, which they are on IPUs.

    Args:
        program: `backends.base.Program`: module with ``model``; forward takes a batch. It is left as it is.
        example: one micro-batch, a NamedTuple of tensors on any device.

    Raises:
        ValueError: blocks() names no submodule, or forward does not call the blocks one after the other.
    """
    # A copy would only cost time where there are no values.
    values = [*program.parameters(), *program.buffers()]
    twin = program if all(value.is_meta for value in values) else meta_copy(program)
    names = block_names(twin.model)
    modules = dict(twin.model.named_modules())
    for name in names:
        if name not in modules:
            raise ValueError(f"blocks() of {type(twin.model).__name__} names {name!r}, which is no submodule of it.")
    batch = to_meta(example)
    recorder = _Recorder(twin, batch, len(names))
    handles = [
        modules[name].register_forward_pre_hook(recorder.enters(index, name)) for index, name in enumerate(names)
    ]
    try:
        with recorder, torch.autograd.graph.saved_tensors_hooks(recorder.save, lambda kept: kept):
            twin(batch)
    finally:
        for handle in handles:
            handle.remove()
    if recorder.called != len(names):
        raise ValueError(f"forward of {type(twin.model).__name__} does not call the block {names[recorder.called]!r}.")
    return recorder.profiles(names)


def block_names(model: nn.Module) -> List[str]:
    """`model.blocks()`, or one nameless block, the whole model, where it declares none."""
    return blocks_of(model) or [""]


class _Recorder(TorchDispatchMode):
    """Records operators: who makes and who uses every storage, what is saved, and how much work it is."""

    def __init__(self, twin: nn.Module, batch: Any, blocks: int) -> None:
        super().__init__()
        self.called = 0
        self._alive: List[Any] = []  # an address means one storage only as long as nothing is freed
        self._made: Dict[int, int] = {}
        self._last_use: Dict[int, int] = {}
        self._bytes: Dict[int, int] = {}
        self._fixed: Set[int] = set()  # storages that are no activation: parameters, buffers, the batch
        self._random: Set[int] = set()
        self._saved: Set[int] = set()
        self._weights = {self._storage(weight): weight for weight in twin.parameters()}
        self._constants = {self._storage(buffer): buffer for buffer in twin.buffers()}
        self._inputs = {self._storage(field): field for field in batch}
        self._fixed.update(self._weights, self._constants, self._inputs)
        self._activations = [0] * blocks
        self._working = [0] * blocks
        self._flops = [0] * blocks
        self._operators: List[List[Operator]] = [[] for _ in range(blocks)]
        # What a result depends on: nothing but constants, or values of the batch, or parameters that are trained.
        self._trained = {key for key, weight in self._weights.items() if weight.requires_grad}
        self._varying = {*self._weights, *self._inputs}

    def enters(self, index: int, name: str) -> Any:
        """A forward pre-hook of one block."""

        def hook(module: nn.Module, arguments: Any) -> None:
            if index != self.called:
                raise ValueError(
                    f"forward calls the block {name!r} as number {self.called}, blocks() has it as number {index}: "
                    "a pipeline needs blocks that run once each, in order."
                )
            self.called += 1

        return hook

    @property
    def _block(self) -> int:
        return max(self.called - 1, 0)

    def save(self, tensor: Tensor) -> Tensor:
        """Called by autograd with whatever it keeps for the backward pass."""
        key = self._storage(tensor)
        # Random numbers are drawn again from their seed in the backward pass, PopART keeps none.
        if key not in self._saved and key not in self._fixed and key not in self._random:
            self._saved.add(key)
            self._activations[self._block] += self._bytes[key]
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = call(func, args, kwargs)  # torch 2.0 knows the shapes of most operators' results, not of all
        used = {self._storage(tensor): tensor for tensor in tensors_of((args, kwargs))}
        for key in used:
            self._made.setdefault(key, self._block)
            self._last_use[key] = max(self._last_use.get(key, 0), self._block)
        name = func._schema.name.split("::")[-1]
        new: Dict[int, Tensor] = {}  # a view is no work
        for tensor in tensors_of(result):
            key = self._storage(tensor)
            if name.startswith(_RANDOM) and (name != "native_dropout" or tensor.dtype == torch.bool):
                self._random.add(key)
            self._made.setdefault(key, self._block)
            self._last_use.setdefault(key, self._block)
            if key not in used:
                new[key] = tensor
        self._flops[self._block] += sum(tensor.numel() for tensor in new.values())
        if new:
            taken = [*used.items(), *new.items()]
            working = sum(min(_size(tensor), self._bytes[key]) for key, tensor in taken)
            self._working[self._block] = max(self._working[self._block], working)
        self._note(name, args, result, set(used), bool(new))
        return result

    def _note(self, name: str, args: Any, result: Any, used: Set[int], is_new: bool) -> None:
        """Remember an operator that computes something, and what its result depends on."""
        made = [tensor for tensor in tensors_of(result) if tensor.is_floating_point()]
        trained = bool(self._trained & used) and bool(made)
        if trained:
            self._trained.update(self._storage(tensor) for tensor in made)
        if self._varying & used or name.startswith(_RANDOM):
            self._varying.update(self._storage(tensor) for tensor in tensors_of(result))
            in_place = name.endswith("_") and not name.startswith("_")
            operator = describe(name, args, result, trained) if is_new or in_place else None
            if operator is not None:
                self._operators[self._block].append(operator)
                if operator.kind == "product":
                    self._flops[self._block] += (2 * operator.sizes[2] - 1) * result.numel()

    def profiles(self, names: List[str]) -> List[BlockProfile]:
        """Profiles, block by block."""
        last = len(names) - 1
        handed_on = [0] * len(names)
        for key, made in self._made.items():
            if key not in self._weights and key not in self._constants:
                for block in range(made, self._last_use[key]):
                    handed_on[block] += self._bytes[key]
        found = []
        for block, name in enumerate(names):
            trained = [w for key, w in self._weights.items() if self._owner(key, last) == block and w.requires_grad]
            frozen = [w for key, w in self._weights.items() if self._owner(key, last) == block and not w.requires_grad]
            frozen += [buffer for key, buffer in self._constants.items() if self._made.get(key) == block]
            inputs = [field for key, field in self._inputs.items() if self._made.get(key) == block]
            found.append(
                BlockProfile(
                    name,
                    parameters=sum(weight.numel() for weight in trained),
                    parameter_bytes=sum(_size(weight) for weight in trained),
                    constant_bytes=sum(_size(constant) for constant in frozen),
                    activation_bytes=self._activations[block],
                    working_bytes=self._working[block],
                    input_bytes=sum(_size(field) for field in inputs),
                    output_bytes=handed_on[block],
                    flops=self._flops[block],
                    parameter_tensors=len(trained),
                    operators=tuple(self._operators[block]),
                )
            )
        return found

    def _owner(self, key: int, last: int) -> int:
        """The first user of a parameter; one that nothing uses takes memory nevertheless."""
        return self._made.get(key, last)

    def _storage(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._bytes:
            self._alive.append(storage)
            self._bytes[key] = storage.nbytes() * _width(tensor) // tensor.element_size()
        return key


def _size(tensor: Tensor) -> int:
    """Bytes on an IPU."""
    return tensor.numel() * _width(tensor)


def _width(tensor: Tensor) -> int:
    return min(tensor.element_size(), 4)
