"""Gathers that PopTorch merges, some of them although their sizes differ.

PopTorch lowers `gather` in steps of which the graph knows the types and not the shapes (gatherHandler in
poptorch/source/popart_canonicalization/TensorOps.cpp). Before lowering, gathers that are reached together are
joined, if they have one dtype, axis, stage and shape (groupGatherNodes in poptorch/source/GNNOptimizations.cpp);
unknown shapes count as equal. Joining concatenates: sizes that differ are then an error, equal ones are well.
A gather along one of two axes by an index that was expanded along the other keeps its shape, for it becomes
index_select (GatherWithExpandedIndicesOptimization.cpp). A cross product ends in a gather whose values have no
known shape, after two that have (ArithmeticOps.cpp). Operators whose results nothing needs, and those of
constants, are gone by then.

Known: the program does not compile, and the concat of unequal sizes is what fails. Assumed: the error is a
poptorch.Error, since PopART raises it when the graph is lowered, and PopTorch translates what PopART raises.
"""

from collections import defaultdict
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ipu_chem.backends.poptorch.operators.handlers import RANDOM, base_name
from torch import Tensor

from .poptorch_core import Error

# Lowered to gathers whose shapes are known.
_SHAPED = ("index_select", "embedding", "index", "unbind")
_GENERAL = ("gather", "take_along_dim")
_CROSS = ("cross", "linalg_cross")
_EXPANDED = ("expand", "expand_as")
# Lowered to constants, of whose tensor only the shape counts: a derivative starts anew at ones_like(energy).
_SHAPES_ONLY = frozenset(
    "ones_like zeros_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty zero fill "
    "empty_strided".split()
)


class Shapeless(NamedTuple):
    """One gather without a known shape: what decides which others it joins, then what they must agree in."""

    dtype: str
    kind: str
    stage: int
    level: int
    sizes: Tuple[Any, ...]


class _Node:
    """An operator, with those whose results it takes."""

    def __init__(self, name: str, parents: Sequence["_Node"], constant: bool) -> None:
        self.name = name
        self.parents = parents
        self.constant = constant
        self.gathers = 0  # of any kind that it becomes, one after the other
        self.shapeless: Optional[Shapeless] = None
        self.expanded: Optional[int] = None  # the one axis along which it expands
        # Gathers on the longest way here: those with as many are reached together.
        self.level = max((parent.level + parent.gathers for parent in parents), default=0)


class Gathers:
    """The graph of a traced forward pass, as far as gathers need it."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        """Inputs and weights; of weights only floating-point ones are variables, the others are constants."""
        self._made: Dict[Any, _Node] = {}
        self._written: Dict[int, _Node] = {}  # by storage: a write through a view concerns all of it
        self._latest: Dict[int, _Node] = {}  # by storage, for views that the double made itself
        self._kept: List[Tensor] = list(inputs)  # so that no address is given out twice
        self._needed: List[_Node] = []
        self._outside = frozenset(_storage(tensor) for tensor in inputs)
        for tensor in inputs:
            self._made[_key(tensor)] = self._latest[_storage(tensor)] = _Node("input", (), constant=False)

    def constants(self, tensors: Sequence[Tensor]) -> None:
        """Say that the values of these inputs are known when the program is compiled."""
        for tensor in tensors:
            self._made[_key(tensor)].constant = True

    def is_constant(self, tensor: Tensor) -> bool:
        return all(node.constant for node in self._sources(tensor))

    def operator(
        self, name: str, arguments: Dict[str, Any], taken: List[Tensor], made: List[Tensor], stage: int
    ) -> None:
        """Note an operator; ``stage`` is the number of blocks that have begun."""
        base = base_name(name)
        parents = [node for tensor in taken for node in self._sources(tensor)]
        constant = base not in RANDOM and all(parent.constant for parent in parents)
        node = _Node(base, () if base in _SHAPES_ONLY else parents, constant)
        if not constant:
            node.gathers = 2 if base in _CROSS else int(base in _SHAPED or base in _GENERAL)
            if base in _EXPANDED:
                node.expanded = _expanded_axis(arguments["self"].shape, made[0].shape)
            elif base in _CROSS:
                kind, shape = f"cross along {arguments.get('dim', -1)}", tuple(made[0].shape)
                node.shapeless = Shapeless(str(made[0].dtype), kind, stage, node.level + 1, shape)
            elif base in _GENERAL and not self._keeps_shape(base, arguments):
                node.shapeless = _shapeless(arguments, stage, node.level)
        writes = name.endswith("_") and not name.endswith("__")
        for tensor in made:
            self._kept.append(tensor)
            self._made[_key(tensor)] = self._latest[_storage(tensor)] = node
            if writes:
                self._written[_storage(tensor)] = node
                if _storage(tensor) in self._outside:
                    self._needed.append(node)

    def shapeless(self, outputs: Sequence[Tensor]) -> List[Shapeless]:
        """Those that the outputs need."""
        todo = [*self._needed, *(node for tensor in outputs for node in self._sources(tensor))]
        seen: Dict[int, _Node] = {}
        while todo:
            node = todo.pop()
            if id(node) not in seen:
                seen[id(node)] = node
                todo += node.parents
        return [node.shapeless for node in seen.values() if node.shapeless is not None]

    def check(self, outputs: Sequence[Tensor]) -> None:
        """Refuse a program in which gathers of different sizes would be joined."""
        groups: Dict[Tuple[Any, ...], List[Shapeless]] = defaultdict(list)
        for gather in self.shapeless(outputs):
            groups[gather[:-1]].append(gather)
        for group in groups.values():
            sizes = sorted({gather.sizes for gather in group})
            if len(sizes) > 1:
                raise Error(
                    f"concat: sizes of merged inputs differ: {len(group)} gathers have no known shape and are merged, "
                    f"of sizes {sizes[0]} and {sizes[1]}"
                )

    def _sources(self, tensor: Tensor) -> List[_Node]:
        storage = _storage(tensor)
        found = [self._made.get(_key(tensor), self._latest.get(storage)), self._written.get(storage)]
        return [node for node in found if node is not None]

    def _keeps_shape(self, name: str, arguments: Dict[str, Any]) -> bool:
        """Whether a gather becomes index_select: simplifyGatherWithExpandedIndices comes before take_along_dim."""
        values, index = arguments["self"], arguments["index"]
        node = self._made.get(_key(index))
        if name != "gather" or node is None or node.expanded is None:
            return False
        long = [axis for axis, size in enumerate(values.shape) if size > 1]
        return len(long) == 2 and {arguments["dim"] % values.dim(), node.expanded} == set(long)


def _expanded_axis(before: Sequence[int], after: Sequence[int]) -> Optional[int]:
    if len(before) != len(after):
        return None
    axes = [axis for axis, (old, new) in enumerate(zip(before, after)) if new > old]
    return axes[0] if len(axes) == 1 else None


def _shapeless(arguments: Dict[str, Any], stage: int, level: int) -> Shapeless:
    values, index = arguments["self"], arguments["index"]
    axis = arguments["dim"] % max(values.dim(), 1)
    shape = list(index.shape)
    shape.insert(0, shape.pop(axis))
    return Shapeless(str(values.dtype), "gather", stage, level, (values.numel(), *shape))


def _key(tensor: Tensor) -> Any:
    """What tells a tensor from its other views."""
    return _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
