"""Energies, forces and gradients of a loss of both in native kernels, for SchNet and PaiNN on CPUs.

Autograd gets forces by a derivative inside the model and gradients by one through it: thousands of small operators.
Here are four passes instead: energies, adjoints down to forces, tangents along -dL/dF, second adjoints. Shapes: B
packs, N node, E edge, G graph slots.
"""

import ctypes
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import pointer
from ipu_chem.backends.pytorch.kernels.forces.networks import REALS, Network, network_of
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.base import Graph
from ipu_chem.models.forces import EnergyForces

_LINE = 16  # numbers of a cache line, or more


class Molecules(NamedTuple):
    """Real atoms and pairs of a batch, as `molecules.h` has them."""

    index: Tensor
    atoms: int
    pairs: int
    kinds: int  # of atoms: different elements


def joined(atoms: np.ndarray, ends: np.ndarray, kind: np.ndarray, element: np.ndarray) -> Molecules:
    """`Molecules` of arrays of one's own.

    Args:
        atoms: [3, M] integer, atomic number, slot and molecule.
        ends: [2, P] integer, source and target among the atoms.
        kind: [M] integer, place of an atom's element among those of
        element: [U] integer, atomic numbers, each of some atom.
    """
    assert len(element) <= atoms.shape[1], "memory for elements is that of atoms"
    index = np.concatenate([part.ravel() for part in (atoms, ends, kind, element)]).astype(np.int32, copy=False)
    return Molecules(torch.from_numpy(index), atoms.shape[1], ends.shape[1], len(element))


class Shape(NamedTuple):
    """Counts of a batch and what follows from them."""

    counts: Tuple[Any, ...]  # atoms, pairs, kinds, training, format
    arguments: Tuple[Any, Any]  # of C: all sizes, and numbers
    prepared: int  # numbers of transposed weights
    workspace: int  # numbers of a workspace, with those


class Used(NamedTuple):
    """Memory of a forward pass."""

    workspace: Tensor  # whole
    transposed: Tensor  # weights as they were
    rest: Tensor  # of the workspace: values of the passes


def use_force_kernels(model: nn.Module, frozen: bool = False) -> int:
    """Let energies and forces of SchNet and PaiNN come from native kernels; returns how many models do from now on.

    Args:
        model: with weights of one format, float32 or float64, on the CPU; filters from tables are evaluated exactly.
        frozen: weights never change from now on, nor do tensors of a graph but positions, unless by operators of
            torch.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if isinstance(part, EnergyForces) and network_of(part.model) is not None:
            library(REALS[part.model.embedding.weight.dtype])
            part.kernel = NativeForces(part.model, frozen)
            parts += 1
    return parts


def add_gradients_in_place(model: nn.Module) -> None:
    """Let kernels add gradients of weights to what ``grad`` of each holds, without autograd, where all are trained.

    Args:
        model: after `use_force_kernels`; whose weights have gradients, which stay the same tensors.
    """
    for part in model.modules():
        kernel = part.kernel if isinstance(part, EnergyForces) else None
        if isinstance(kernel, NativeForces):
            kernel.adds_in_place = all(weight.requires_grad for weight in part.parameters())


class NativeForces:
    """Energies and forces of one model. Its weights may change at any time, but stay the same tensors until others are
    loaded.

    Attributes:
        adds_in_place: see `add_gradients_in_place`.
    """

    def __init__(self, model: Any, frozen: bool = False) -> None:
        """Take a `SchNet` or `PaiNN` of one target that is a sum over atoms; frozen as of `use_force_kernels`."""
        self._model = model
        self._frozen = frozen
        self._undirected = int(model.undirected)
        self.adds_in_place = False
        self._spaces: List[Tensor] = []  # workspaces that nobody uses: new memory costs as much as a pass
        self._shape: Optional[Shape] = None  # of the last call
        self._seen: Tuple[Any, Any] = (None, None)  # the last graph of frozen weights, and its molecules
        self._is_known = True  # False after weights were loaded that are not the kernels'
        network = network_of(model)
        assert network is not None
        self._take(network)
        model.register_load_state_dict_post_hook(self.loaded)

    def __getstate__(self) -> Dict[str, Any]:
        """Leave what follows from calls out of copies: C's numbers, which cannot be pickled, graphs and memory."""
        return {**vars(self), "_shape": None, "_seen": (None, None), "_spaces": []}

    def loaded(self, *_: Any) -> None:
        """Take weights that have been loaded, which may be other tensors (``assign=True``), of other formats, too."""
        network = network_of(self._model)
        self._is_known = network is not None
        if network is not None:
            self._take(network)

    def _take(self, network: Network) -> None:
        """Take the weights of a network."""
        self._network = network
        self.weights = [weight for weight in network.weights if weight is not None]
        self._trained = [isinstance(weight, nn.Parameter) for weight in self.weights]
        self._format = self._dtype
        self._transposed: Optional[Tensor] = None  # of frozen weights
        self._values, self._gradients = Addresses(self._frozen), Addresses()

    def __call__(self, graph: Graph, training: bool) -> Optional[Tuple[Tensor, Tensor]]:
        """Energies [B, G, 1] and forces [B, N, 3]; None where autograd has to do it, or to say what is wrong.

        Args:
            graph: to compute.
            training: gradients of the weights will be asked for.
        """
        if self._dtype not in REALS or not graph.pos.device.type == self.weights[0].device.type == "cpu":
            return None  # the model has been moved
        if not self._is_known:
            return None
        if self._dtype != self._format:  # so it has been, and its buffers are other tensors now
            network = network_of(self._model)
            if network is None:
                return None
            self._take(network)
        molecules = self._molecules(graph)
        if molecules is None:
            return None
        if training and torch.is_grad_enabled():
            return _Forces.apply(self, molecules, graph, *(self.weights[:1] if self.adds_in_place else self.weights))
        energy, forces, used = self.forward(molecules, graph, 0)
        self._spaces.append(used.workspace)
        return energy, forces

    def forward(self, molecules: Molecules, graph: Graph, training: int) -> Tuple[Tensor, Tensor, Used]:
        """Energies, forces, and what `backward` needs of them if ``training`` is 1."""
        energy = torch.zeros((*graph.graph_mask.shape, 1), dtype=self._dtype)
        forces = torch.zeros(graph.pos.shape, dtype=self._dtype)
        pos = graph.pos.detach().to(self._dtype).contiguous()
        return energy, forces, self._forward(molecules, pos, energy, forces, training)

    def add(self, molecules: Molecules, pos: Tensor, energy: Tensor, forces: Tensor) -> None:
        """Add energies and forces to what is there, for those who make `Molecules` themselves.

        Args:
            molecules: atoms and pairs, none of an atom with itself.
            pos: [N, 3], of the weights' format and contiguous, as the other two.
            energy: [G].
            forces: [N, 3].
        """
        assert self._is_known and all(one.dtype == self._dtype and one.is_contiguous() for one in (pos, energy, forces))
        self._spaces.append(self._forward(molecules, pos, energy, forces, 0).workspace)

    def _forward(self, molecules: Molecules, pos: Tensor, energy: Tensor, forces: Tensor, training: int) -> Used:
        shape, weights = self._shape_of(molecules, training), self._values.of(self._network.weights)
        workspace = self._workspace(shape.workspace)
        transposed, rest = self._transposed, workspace[shape.prepared :]
        if transposed is None:  # transposed at every pass: optimizers in one kernel do not say that they were there
            transposed = torch.empty(shape.prepared, dtype=self._dtype) if self._frozen else workspace[: shape.prepared]
            self._function("prepare", ctypes.c_int64)(*shape.arguments, weights, pointer(transposed))
            self._transposed = transposed if self._frozen else None
        positions, tensors = map(pointer, (molecules.index, pos)), map(pointer, (transposed, rest, energy, forces))
        self._function("forward")(*shape.arguments, *positions, weights, *tensors)
        return Used(workspace, transposed, rest)

    def backward(self, molecules: Molecules, used: Used, grad_energy: Tensor, grad_forces: Tensor) -> List[Tensor]:
        """Gradients of `weights`, after a `forward` with ``training``; gives the workspace back.

        Returns:
            None of them if they have been added in place.
        """
        gradients = [] if self.adds_in_place else [torch.zeros_like(weight) for weight in self.weights]
        trained = zip(self.weights, self._trained)
        places = gradients or [gradient_of(weight) if is_trained else None for weight, is_trained in trained]
        left = iter(places)
        addresses = self._gradients.of([None if weight is None else next(left) for weight in self._network.weights])
        grad_energy, grad_forces = grad_energy.contiguous(), grad_forces.contiguous()  # pointers keep nothing alive
        tensors = map(pointer, (used.transposed, used.rest, grad_energy, grad_forces))
        arguments, weights = self._shape_of(molecules, 1).arguments, self._values.of(self._network.weights)
        self._function("backward")(*arguments, pointer(molecules.index), weights, *tensors, addresses)
        self._spaces.append(used.workspace)
        return gradients

    def _workspace(self, size: int) -> Tensor:
        try:
            workspace = self._spaces.pop()
        except IndexError:
            return torch.empty(size, dtype=self._dtype)
        large_enough = workspace.numel() >= size and workspace.dtype == self._dtype
        return workspace if large_enough else torch.empty(size, dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.weights[0].dtype

    def _molecules(self, graph: Graph) -> Optional[Molecules]:
        """`_compact`; of the same tensors as before, with frozen weights, what that gave then."""
        if not self._frozen or torch.is_inference_mode_enabled():
            return compact(graph, REALS[self._dtype], len(self.weights[0]))
        kept = [part for part in graph if part is not None and part is not graph.pos]
        versions = [part._version for part in kept]
        (before, versions_before), molecules = self._seen[0] or ([], []), self._seen[1]
        same = versions == versions_before and all(one is other for one, other in zip(kept, before))
        if not same:
            molecules = compact(graph, REALS[self._dtype], len(self.weights[0]))
            self._seen = (kept, versions), molecules
        return molecules

    def _shape_of(self, molecules: Molecules, training: int) -> Shape:
        counts = (*molecules[1:], training, self._dtype)
        if self._shape is None or self._shape.counts != counts:
            sizes = (*molecules[1:], self._undirected, training, *self._network.sizes)
            numbers = self._network.numbers
            arguments = (ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_double * len(numbers))(*numbers)
            prepared = self._function("prepare", ctypes.c_int64)(*arguments, None, None)
            prepared = -(-prepared // _LINE) * _LINE
            workspace = prepared + self._function("workspace", ctypes.c_int64)(*arguments)
            self._shape = Shape(counts, arguments, prepared, workspace)
        return self._shape

    def _function(self, name: str, result: Any = None) -> Any:
        """A function of the library, of this model and format."""
        real = REALS[self._dtype]
        made = getattr(library(real), f"{self._network.name}_{name}_{real}")
        made.restype = result
        return made


class Addresses:
    """Addresses of tensors, as C takes them, made anew when one has moved."""

    def __init__(self, frozen: bool = False) -> None:
        """Start without any; frozen are those of tensors that never move."""
        self._frozen = frozen
        self._numbers: List[Optional[int]] = []
        self._array: Any = None

    def __reduce__(self) -> Any:
        """Leave addresses out of copies, whose tensors are others."""
        return Addresses, (self._frozen,)

    def of(self, tensors: Sequence[Optional[Tensor]]) -> Any:
        """An array of pointers; 0 for None."""
        if self._frozen and self._array is not None:
            return self._array
        numbers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        if numbers != self._numbers:
            given = [tensor for tensor in tensors if tensor is not None]
            assert all(tensor.is_contiguous() for tensor in given) and len({tensor.dtype for tensor in given}) < 2
            self._numbers, self._array = numbers, (ctypes.c_void_p * len(numbers))(*numbers)
        return self._array


def gradient_of(weight: Tensor) -> Tensor:
    """``grad`` of a weight, zeros from now on where there is none: to be added to in place."""
    if weight.grad is None:  # of a copy, or after zero_grad()
        weight.grad = torch.zeros_like(weight)
    return weight.grad


class _Forces(torch.autograd.Function):
    """Energies and forces with gradients of the weights, once differentiable."""

    @staticmethod
    def forward(ctx: Any, form: NativeForces, molecules: Any, graph: Graph, *weights: Tensor) -> Any:  # type: ignore[override]
        energy, forces, ctx.used = form.forward(molecules, graph, 1)
        ctx.form, ctx.molecules, ctx.graph = form, molecules, graph
        ctx.save_for_backward(*weights)
        return energy, forces

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_energy: Tensor, grad_forces: Tensor) -> Any:  # type: ignore[override]
        saved = ctx.saved_tensors  # torch refuses if a weight has changed since
        used, ctx.used = ctx.used, None
        if used is None:  # a second time: somebody else may have the workspace
            used = ctx.form.forward(ctx.molecules, ctx.graph, 1)[2]
        gradients = ctx.form.backward(ctx.molecules, used, grad_energy, grad_forces) or [None] * len(saved)
        asked = ctx.needs_input_grad[3:]
        return (None, None, None, *(gradient if needed else None for gradient, needed in zip(gradients, asked)))


def compact(graph: Graph, real: str, elements: int) -> Optional[Molecules]:
    """Real atoms and pairs as C takes them; None if an edge joins an atom with itself, or an index is out of range."""
    packs, nodes = graph.z.shape
    edges = graph.edge_index.shape[2]
    index = torch.empty(6 * packs * nodes + 2 * packs * edges, dtype=torch.int32)
    sizes = (ctypes.c_int64 * 3)()
    whole = [part.to(torch.int64).contiguous() for part in (graph.z, graph.graph_index, graph.edge_index)]
    masks = [part.contiguous() for part in (graph.node_mask, graph.edge_mask)]
    shape = [ctypes.c_int64(size) for size in (packs, nodes, edges, graph.graph_mask.shape[1], elements)]
    if library(real).compact_molecules(*shape, *map(pointer, (*whole, *masks)), sizes, pointer(index)):
        return None
    return Molecules(index, *sizes)
