"""Gathers whose index has no shape in PopTorch's graph, and pairs of them that it would merge wrongly.

PopTorch reads whole rows (index_select, whose shapes it knows) where a gather's index was expanded along one axis,
and the values have two axes longer than 1: that one and the gathered one. Any other gather becomes one of the
flattened values, at places that it computes itself: those have no shape in its graph. Later it merges gathers of one
dtype and equal shapes into one, and unknown shapes count as equal. Merged ones of different sizes end in a concat
that cannot be; gathers of which one needs the other's result are never merged. Cross products hide such a gather.
"""

from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

_REMEDY = (
    "use ipu_chem.models.layers.take_rows and sum_into, or spread a single column over two by hand, "
    "(0.5 * v).expand(-1, 2), and sum the result's columns"
)
# How PopTorch stores them.
_STORED = {torch.int64: torch.int32, torch.float64: torch.float32}
# Of what they take these use the shape alone, and become constants: what they make waits for nothing.
_SHAPES_ONLY = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty fill_ zero_ "
    "uniform_ normal_ exponential_ random_".split()
)


class Shapeless(NamedTuple):
    """A gather of which PopTorch's graph does not know the shapes.

    Attributes:
        operator: e.g. aten::gather.
        where: file:line.
        group: what must be equal for a merge: kind of gather, dtype of the values, axis.
        sizes: shapes of values and index, as the merged gather takes them.
        behind: numbers of the shapeless gathers whose results it needs.
    """

    operator: str
    where: str
    group: Tuple[Any, ...]
    sizes: Tuple[Any, ...]
    behind: FrozenSet[int]


class Merge(NamedTuple):
    """Two gathers that PopTorch would merge although their sizes differ."""

    operator: str
    where: str
    text: str


class Gathers:
    """The gathers of one run, in the order of execution."""

    def __init__(self) -> None:
        self.shapeless: List[Shapeless] = []
        # By view: the shape that was expanded, and the sizes that expand was called with.
        self._expanded: Dict[Any, Tuple[Tuple[int, ...], Tuple[int, ...]]] = {}
        self._behind: Dict[Any, FrozenSet[int]] = {}  # by storage

    @property
    def count(self) -> int:
        """Number of gathers without a shape."""
        return sum(gather.group[0] == "gather" for gather in self.shapeless)

    def note(
        self, name: str, arguments: Dict[str, Any], taken: Sequence[Tensor], made: Sequence[Tensor], where: str
    ) -> None:
        """Remember one operator that is not evaluated while the program is compiled.

        Args:
            name: as torch's dispatcher names it, without overload.
            arguments: by their names in the operator's schema.
            taken: tensors among the arguments.
            made: tensors of the result.
            where: file:line to report.
        """
        if name in _SHAPES_ONLY:
            self._behind.update((_storage(tensor), frozenset()) for tensor in made)
            return
        behind: FrozenSet[int] = frozenset()
        for tensor in taken:
            behind |= self._behind.get(_storage(tensor), frozenset())
        group = _group(name, arguments)
        if group is not None and not (name == "gather" and self.reads_rows(arguments)):
            self.shapeless.append(Shapeless(f"aten::{name}", where, group, _sizes(name, arguments), behind))
            behind |= {len(self.shapeless) - 1}
        for tensor in made if behind else ():
            self._behind[_storage(tensor)] = behind | self._behind.get(_storage(tensor), frozenset())

    def note_view(self, name: str, arguments: Dict[str, Any], made: Sequence[Tensor], constant: bool) -> None:
        """Remember how an index was made; constants are folded, so that their expand is gone."""
        for tensor in made:
            self._expanded.pop(view_of(tensor), None)
        if name == "expand" and not constant:
            self._expanded[view_of(made[0])] = (tuple(arguments["self"].shape), tuple(arguments["size"]))

    def reads_rows(self, arguments: Dict[str, Any]) -> bool:
        """Tell if PopTorch turns a gather into index_select.

        Args:
            arguments: of aten::gather, by name.
        """
        values, index = arguments["self"], arguments["index"]
        if view_of(index) not in self._expanded or values.dim() == 0:
            return False
        origin, sizes = self._expanded[view_of(index)]
        if len(origin) != len(sizes):  # PopTorch compares axes from the left
            return False
        expanded = [axis for axis, (old, new) in enumerate(zip(origin, sizes)) if new > old]
        long = [axis for axis, length in enumerate(values.shape) if length > 1]
        return len(expanded) == 1 and len(long) == 2 and set(long) == {arguments["dim"] % values.dim(), expanded[0]}

    def wrong_rows(self, arguments: Dict[str, Any]) -> Optional[str]:
        """Describe what is wrong with a gather that PopTorch turns into index_select; None if nothing is.

        It reads whole rows at an index without axes of length 1, whatever the expanded index's shape says.
        """
        if not self.reads_rows(arguments):
            return None
        values, index = arguments["self"], arguments["index"]
        axis = arguments["dim"] % values.dim()
        other = [length for place, length in enumerate(index.shape) if place != axis]
        if other != [length for place, length in enumerate(values.shape) if place != axis]:
            return "PopTorch reads whole rows where an expanded index asks for a part of each; split the columns first"
        if index.shape[axis] == 1:
            return "PopTorch drops the axis of a single row that an expanded index asks for; use index_select"
        return None

    def merges(self) -> List[Merge]:
        """Find every gather that does not go with an earlier one, and say what to write."""
        found = []
        for later, gather in enumerate(self.shapeless):
            for earlier in range(later):
                other = self.shapeless[earlier]
                alone = other.group != gather.group or other.sizes == gather.sizes or earlier in gather.behind
                if not alone:
                    sizes = f"{_told(other)} at {other.where}, {_told(gather)} here"
                    text = f"PopTorch knows no shapes of this gather and merges it with another of other sizes ({sizes}"
                    found.append(Merge(gather.operator, gather.where, f"{text}); {_REMEDY}"))
                    break
        return found


def view_of(tensor: Tensor) -> Any:
    """Key that tells a view from others of the same storage."""
    return _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata


def _group(name: str, arguments: Dict[str, Any]) -> Optional[Tuple[Any, ...]]:
    """Key that merged gathers share, of operators that become gathers without shapes; None of others."""
    if name not in ("gather", "take_along_dim", "cross", "linalg_cross"):
        return None
    values = arguments["self"]
    dtype = _STORED.get(values.dtype, values.dtype)
    if name in ("gather", "take_along_dim"):
        return "gather", dtype
    axis = arguments.get("dim", -1)
    axis = list(values.shape).index(3) if axis is None else axis % values.dim()
    return "cross", dtype, axis


def _sizes(name: str, arguments: Dict[str, Any]) -> Tuple[Any, ...]:
    values = arguments["self"]
    if name == "take_along_dim":
        axis, index = arguments.get("dim"), arguments["indices"]
        if axis is None:
            return values.numel(), (index.numel(),)
        shape = list(torch.broadcast_shapes(_without(values.shape, axis), _without(index.shape, axis)))
        count = values.shape[axis]
        for length in shape:
            count *= length
        return count, (index.shape[axis], *shape)
    if name == "gather":
        axis, index = arguments["dim"], arguments["index"]
        if index.dim() == 0:
            return values.numel(), (1,)
        return values.numel(), (index.shape[axis], *_without(index.shape, axis))
    return (tuple(values.shape),)


def _without(shape: Sequence[int], axis: int) -> Tuple[int, ...]:
    axis = axis % len(shape)
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


def _told(gather: Shapeless) -> str:
    if len(gather.sizes) == 1:
        return f"{list(gather.sizes[0])}"
    values, index = gather.sizes
    return f"{list(index)} of {values} values"
