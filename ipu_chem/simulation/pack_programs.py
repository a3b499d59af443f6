"""Programs that compute a pack of moving molecules: native kernels by groups on a CPU, one padded graph elsewhere."""

from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from ipu_chem.backends.pytorch.kernels.forces import Molecules, joined
from ipu_chem.models.base import Graph
from ipu_chem.simulation.pairs import NeighborLists
from ipu_chem.simulation.slots import Slots

_GROUP = 64  # atoms; more at once gain nothing, and leave the cache
_ROUNDING = 1 + 1e-5  # of distances in float32: the model decides on pairs as near to the cutoff as that
_HEAD_ROOM = 1.25  # of pair slots: atoms come closer
_ALIGN = 16


class _Group(NamedTuple):
    """Molecules that a native kernel computes at once.

    Attributes:
        atoms: [3, m] int32, atomic number, place and slot.
        kind: [m] int32, place of an atom's element among those of
        element: [u] int32, atomic numbers.
        begin, end: of its pairs.
    """

    atoms: np.ndarray
    kind: np.ndarray
    element: np.ndarray
    begin: int
    end: int


class Groups:
    """Native kernels on some molecules at a time, whose values stay in the cache, with no pair beyond the cutoff.

    Attributes:
        is_old: molecules or their pairs have changed since the last call.
    """

    def __init__(self, slots: Slots, lists: NeighborLists, models: Sequence[Any], cutoff: float) -> None:
        self._slots, self._lists, self._limit = slots, lists, (cutoff * _ROUNDING) ** 2
        self._kernels = [model.kernel for model in models]
        self.is_old = True

    def __call__(self, pos: Tensor) -> Tuple[Tensor, Tensor]:
        """Standardized energies [M, G] and forces [M, N, 3] of positions [N, 3]."""
        if self.is_old:
            self._arrange()
            self.is_old = False
        count, slots = len(self._kernels), len(self._slots.size)
        energies, forces = pos.new_zeros((count, slots)), pos.new_zeros((count, *pos.shape))
        models = list(zip(self._kernels, energies, forces))
        for molecules in self._molecules(pos.numpy()):
            for kernel, energy, force in models:
                kernel.add(molecules, pos, energy, force)
        return energies, forces

    def _molecules(self, pos: np.ndarray) -> List[Molecules]:
        """Groups with the pairs that are within the cutoff now; the skin's would be a quarter more."""
        apart = pos.take(self._ends[1], axis=0) - pos.take(self._ends[0], axis=0)
        kept = np.flatnonzero(np.einsum("ij,ij->i", apart, apart) < self._limit)
        ends = self._local.take(kept, axis=1)
        made = []
        for atoms, kind, element, *bounds in self._groups:
            begin, end = np.searchsorted(kept, bounds)
            made.append(joined(atoms, ends[:, begin:end], kind, element))
        return made

    def _arrange(self) -> None:
        """Groups of neighbors in the pack, and their pairs one behind the other."""
        slots, pairs = self._slots, self._lists.pairs
        own = np.array([slot for slot in slots.occupied.tolist() if slot in pairs], np.int64)
        places, offsets = self._lists.atoms(own)
        pair_offsets = np.append(0, np.cumsum([len(pairs[slot]) for slot in own.tolist()])).astype(np.int64)
        numbers = np.stack([slots.numbers[places], places, slots.system[places]]).astype(np.int32)
        local = np.zeros(len(slots.system), np.int32)  # of an atom in its group
        self._groups: List[_Group] = []
        first = 0
        while first < len(own):
            last = max(int(np.searchsorted(offsets, offsets[first] + _GROUP, side="right")) - 1, first + 1)
            group = slice(int(offsets[first]), int(offsets[last]))
            local[places[group]] = np.arange(group.stop - group.start)
            element, kind = np.unique(numbers[0, group], return_inverse=True)
            kinds = kind.astype(np.int32), element.astype(np.int32)
            bounds = int(pair_offsets[first]), int(pair_offsets[last])
            self._groups.append(_Group(numbers[:, group], *kinds, *bounds))
            first = last
        ends = np.concatenate([np.zeros((0, 2), np.int64), *(pairs[slot] for slot in own.tolist())])
        self._ends = np.ascontiguousarray(ends.T)
        self._local = local[self._ends]


class OneGraph:
    """The whole pack as one graph with padding, whose shape stays: any model, on any device.

    Attributes:
        is_old: molecules or their pairs have changed since the last call.
    """

    def __init__(
        self,
        slots: Slots,
        lists: NeighborLists,
        models: Sequence[Any],
        pairs: int,
        charges: np.ndarray,
        device: torch.device,
    ) -> None:
        """Get ready.

        Args:
            slots: of the pack.
            lists: pairs of its molecules.
            models: on the device.
            pairs: that are expected at most.
            charges: [K, G] charge and unpaired electrons, or none; as they are when `is_old`.
            device: of torch.
        """
        self._slots, self._lists, self._models, self._charges = slots, lists, models, charges
        self._device = device
        self._capacity = _with_room(pairs)
        self.is_old = True

    def __call__(self, pos: Tensor) -> Tuple[Tensor, Tensor]:
        """Standardized energies [M, G] and forces [M, N, 3] of positions [N, 3], of float format."""
        if self.is_old:
            self._arrange()
            self.is_old = False
        graph = self._graph._replace(pos=pos[None].to(self._device))
        energies, forces = zip(*(model(graph) for model in self._models))
        return torch.cat(energies)[:, :, 0], torch.cat(forces)

    def _arrange(self) -> None:
        """The graph of the molecules that have pairs; others are padding."""
        slots, pairs = self._slots, self._lists.pairs
        real = np.zeros(len(slots.size) + 1, bool)
        real[list(pairs)] = True
        ends = np.concatenate([np.zeros((0, 2), np.int64), *pairs.values()])
        if len(ends) > self._capacity:
            self._capacity = _with_room(len(ends))
        edges = np.zeros((2, self._capacity), np.int64)
        edges[:, : len(ends)] = ends.T
        graph_index = np.where(real[slots.system], slots.system, 0)
        values = [slots.numbers, graph_index, edges, real[slots.system], np.arange(self._capacity) < len(ends)]
        values += [real[:-1], *self._charges]
        z, *others = (torch.from_numpy(one)[None].to(self._device) for one in values)
        self._graph = Graph(z, z, *others)  # positions follow


def _with_room(pairs: int) -> int:
    return max(-(-int(_HEAD_ROOM * pairs) // _ALIGN) * _ALIGN, _ALIGN)
