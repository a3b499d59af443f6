"""Energies, forces and gradients of a loss of both in native kernels, for SchNet and PaiNN on CPUs.

Autograd gets forces by a derivative inside the model and gradients by one through it: thousands of small operators.
Here are four passes instead: energies, adjoints down to forces, tangents along -dL/dF, second adjoints. Shapes: B
packs, N node, E edge, G graph slots.
"""

import ctypes
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import pointer
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.base import Graph
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet

_MOST_BLOCKS = 32  # as in the C files
_LINE = 16  # numbers of a cache line, or more
_REALS = {torch.float32: "float", torch.float64: "double"}


class Network(NamedTuple):
    """A model as its kernel takes it."""

    name: str  # in C
    sizes: Tuple[int, ...]  # behind M, P, both, training
    numbers: Tuple[float, ...]
    weights: List[Optional[Tensor]]  # in the order of the enumerations in C; None where there is none


class Molecules(NamedTuple):
    """Real atoms and pairs of a batch, as `molecules.h` has them."""

    index: Tensor
    atoms: int
    pairs: int


class Used(NamedTuple):
    """Memory of a forward pass."""

    workspace: Tensor  # whole
    transposed: Tensor  # weights as they were
    rest: Tensor  # of the workspace: values of the passes


def use_force_kernels(model: nn.Module, frozen: bool = False) -> int:
    """Let energies and forces of SchNet and PaiNN come from native kernels; returns how many models do from now on.

    Args:
        model: with weights of one format, float32 or float64, on the CPU; filters from tables are evaluated exactly.
        frozen: weights never change from now on.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if isinstance(part, EnergyForces) and type(part.model) in _NETWORKS and _is_supported(part.model):
            library(_REALS[part.model.embedding.weight.dtype])
            part.kernel = NativeForces(part.model, frozen)
            parts += 1
    return parts


class NativeForces:
    """Energies and forces of one model. Its weights may change at any time, but stay the same tensors."""

    def __init__(self, model: Any, frozen: bool = False) -> None:
        """Take a `SchNet` or `PaiNN` of one target that is a sum over atoms; frozen weights never change."""
        self._network = network = _NETWORKS[type(model)](model)
        self._frozen = frozen
        self._undirected = int(model.undirected)
        self.weights = [weight for weight in network.weights if weight is not None]
        self._transposed: Optional[Tensor] = None  # of frozen weights
        self._spaces: List[Tensor] = []  # workspaces that nobody uses: new memory costs as much as a pass

    def __call__(self, graph: Graph, training: bool) -> Optional[Tuple[Tensor, Tensor]]:
        """Energies [B, G, 1] and forces [B, N, 3]; None where autograd has to do it, or to say what is wrong.

        Args:
            graph: to compute.
            training: gradients of the weights will be asked for.
        """
        if self._dtype not in _REALS or not graph.pos.device.type == self.weights[0].device.type == "cpu":
            return None  # the model has been moved
        molecules = _molecules(graph, _REALS[self._dtype], len(self.weights[0]))
        if molecules is None:
            return None
        if training and torch.is_grad_enabled():
            return _Forces.apply(self, molecules, graph, *self.weights)
        energy, forces, used = self.forward(molecules, graph, 0)
        self._spaces.append(used.workspace)
        return energy, forces

    def forward(self, molecules: Molecules, graph: Graph, training: int) -> Tuple[Tensor, Tensor, Used]:
        """Energies, forces, and what `backward` needs of them if ``training`` is 1."""
        shape, weights = self._shape(molecules, training), self._pointers()
        prepared = -(-self._function("prepare", ctypes.c_int64)(*shape, weights, None) // _LINE) * _LINE
        size = prepared + self._function("workspace", ctypes.c_int64)(*shape)
        workspace = self._workspace(size)
        transposed, rest = self._transposed, workspace[prepared:]
        if transposed is None:  # transposed at every pass: optimizers in one kernel do not say that they were there
            transposed = torch.empty(prepared, dtype=self._dtype) if self._frozen else workspace[:prepared]
            self._function("prepare", ctypes.c_int64)(*shape, weights, pointer(transposed))
            self._transposed = transposed if self._frozen else None
        energy = torch.zeros((*graph.graph_mask.shape, 1), dtype=self._dtype)
        forces = torch.zeros(graph.pos.shape, dtype=self._dtype)
        pos = graph.pos.detach().to(self._dtype).contiguous()
        tensors = (transposed, rest, energy, forces)
        self._function("forward")(*shape, *map(pointer, (molecules.index, pos)), weights, *map(pointer, tensors))
        return energy, forces, Used(workspace, transposed, rest)

    def backward(self, molecules: Molecules, used: Used, grad_energy: Tensor, grad_forces: Tensor) -> List[Tensor]:
        """Gradients of `weights`, after a `forward` with ``training``; gives the workspace back."""
        sizes = [weight.numel() for weight in self.weights]
        parts = torch.zeros(sum(sizes), dtype=self._dtype).split(sizes)
        gradients = [part.view(weight.shape) for part, weight in zip(parts, self.weights)]
        left = iter(gradients)
        addresses = _pointers([None if weight is None else next(left) for weight in self._network.weights])
        grad_energy, grad_forces = grad_energy.contiguous(), grad_forces.contiguous()  # pointers keep nothing alive
        tensors = (used.transposed, used.rest, grad_energy, grad_forces)
        self._function("backward")(
            *self._shape(molecules, 1), pointer(molecules.index), self._pointers(), *map(pointer, tensors), addresses
        )
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

    def _pointers(self) -> Any:
        return _pointers(self._network.weights)

    def _shape(self, molecules: Molecules, training: int) -> Tuple[Any, Any]:
        sizes = (molecules.atoms, molecules.pairs, self._undirected, training, *self._network.sizes)
        numbers = self._network.numbers
        return (ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_double * len(numbers))(*numbers)

    def _function(self, name: str, result: Any = None) -> Callable[..., Any]:
        """A function of the library, of this model and format."""
        real = _REALS[self._dtype]
        made = getattr(library(real), f"{self._network.name}_{name}_{real}")
        made.restype = result
        return made


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
        assert len(ctx.saved_tensors) == len(ctx.form.weights)  # torch refuses if a weight has changed since
        used, ctx.used = ctx.used, None
        if used is None:  # a second time: somebody else may have the workspace
            used = ctx.form.forward(ctx.molecules, ctx.graph, 1)[2]
        gradients = ctx.form.backward(ctx.molecules, used, grad_energy, grad_forces)
        asked = ctx.needs_input_grad[3:]
        return (None, None, None, *(gradient if needed else None for gradient, needed in zip(gradients, asked)))


def _molecules(graph: Graph, real: str, elements: int) -> Optional[Molecules]:
    """Real atoms and pairs as C takes them; None if an edge joins an atom with itself, or an index is out of range."""
    packs, nodes = graph.z.shape
    edges = graph.edge_index.shape[2]
    index = torch.empty(4 * packs * nodes + 2 * packs * edges, dtype=torch.int32)
    sizes = (ctypes.c_int64 * 2)()
    whole = [part.to(torch.int64).contiguous() for part in (graph.z, graph.graph_index, graph.edge_index)]
    masks = [part.contiguous() for part in (graph.node_mask, graph.edge_mask)]
    shape = [ctypes.c_int64(size) for size in (packs, nodes, edges, graph.graph_mask.shape[1], elements)]
    if library(real).compact_molecules(*shape, *map(pointer, (*whole, *masks)), sizes, pointer(index)):
        return None
    return Molecules(index, sizes[0], sizes[1])


def _schnet(model: SchNet) -> Network:
    first = model.interactions[0]
    weights = [model.embedding.weight, *_head(model), model.basis.centres]
    for block in model.interactions:
        one, two = block.filter_net[0], block.filter_net[2]
        weights += [one.weight, one.bias, two.weight, two.bias, block.lin_in.weight]
        weights += [block.lin_out.weight, block.lin_out.bias, block.lin_last.weight, block.lin_last.bias]
    features, filters = model.embedding.weight.shape[1], first.lin_in.weight.shape[0]
    sizes = (features, filters, len(model.basis.centres), model.head[0].weight.shape[0], len(model.interactions))
    return Network("schnet", sizes, (model.cutoff, model.basis.factor), weights)


def _painn(model: PaiNN) -> Network:
    weights = [model.embedding.weight, *_head(model)]
    for block in model.interactions:
        layers = (
            block.message_net[0],
            block.message_net[2],
            block.filter_net,
            block.update_net[0],
            block.update_net[2],
        )
        weights += [part for layer in layers for part in (layer.weight, layer.bias)]
        weights += [block.mix.weight]
    radial, features = len(model.basis.half_periods), model.embedding.weight.shape[1]
    sizes = (features, radial, model.head[0].weight.shape[0], len(model.interactions))
    return Network("painn", sizes, (model.cutoff, model.basis.factor), weights)


def _head(model: Any) -> List[Optional[Tensor]]:
    one, two = model.head[0], model.head[2]
    return [one.weight, one.bias, two.weight, two.bias, model.atom_references]


def _is_supported(model: Any) -> bool:
    """True if the kernels have this model's sizes and formats."""
    formats = {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]}
    one_target = model.readout == "sum" and model.head[2].weight.shape[0] == 1
    return one_target and len(formats) == 1 and formats <= set(_REALS) and len(model.interactions) <= _MOST_BLOCKS


def _pointers(tensors: List[Optional[Tensor]]) -> Any:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])


_NETWORKS: Dict[type, Callable[[Any], Network]] = {SchNet: _schnet, PaiNN: _painn}
