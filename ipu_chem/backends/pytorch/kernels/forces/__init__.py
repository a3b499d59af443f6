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
_REALS = {torch.float32: "float", torch.float64: "double"}


class Network(NamedTuple):
    """A model as its kernel takes it."""

    name: str  # in C
    sizes: Tuple[int, ...]  # behind M, P, both, training
    numbers: Tuple[float, ...]
    weights: List[Optional[Tensor]]  # in the order of the enumerations in C; None where there is none


def use_force_kernels(model: nn.Module) -> int:
    """Let energies and forces of SchNet and PaiNN come from native kernels; returns how many models do from now on.

    Args:
        model: with weights of one format, float32 or float64, on the CPU; filters from tables are evaluated exactly.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if isinstance(part, EnergyForces) and type(part.model) in _NETWORKS and _is_supported(part.model):
            library()
            part.kernel = NativeForces(part.model)
            parts += 1
    return parts


class NativeForces:
    """Energies and forces of one model, with its transposed weights kept until they change."""

    def __init__(self, model: Any) -> None:
        """Take a `SchNet` or `PaiNN` of one target that is a sum over atoms."""
        self.model = model
        self._versions: Tuple[Any, ...] = ()
        self._transposed: Optional[Tensor] = None

    def __call__(self, graph: Graph, training: bool) -> Optional[Tuple[Tensor, Tensor]]:
        """Energies [B, G, 1] and forces [B, N, 3]; None where autograd has to do it.

        Args:
            graph: on the CPU.
            training: gradients of the weights will be asked for.
        """
        network = _NETWORKS[type(self.model)](self.model)
        pos = graph.pos.detach().to(self.model.embedding.weight.dtype).contiguous()
        molecules = _molecules(graph)
        if molecules is None:
            return None
        weights = [weight for weight in network.weights if weight is not None]
        if training and torch.is_grad_enabled():
            return _Forces.apply(self, network, molecules, graph, pos, *weights)
        return _Call(self, network, molecules, False).forward(graph, pos)[:2]

    def transposed(self, network: Network, call: "_Call") -> Tensor:
        """Transposed weights, made again if one of them has changed."""
        weights = [weight for weight in network.weights if weight is not None]
        versions = tuple((weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights)
        if self._transposed is None or versions != self._versions or any(version is None for _, version in versions):
            size = call.function("prepare", ctypes.c_int64)(*call.shape, call.weights, None)
            self._transposed = torch.empty(size, dtype=call.dtype)
            call.function("prepare")(*call.shape, call.weights, pointer(self._transposed))
            self._versions = versions
        return self._transposed


class _Call:
    """Arguments of the passes for one batch."""

    def __init__(self, form: NativeForces, network: Network, molecules: Tuple[Tensor, int, int], training: bool) -> None:
        self.form, self.network, self.training = form, network, training
        self.index, atoms, pairs = molecules
        self.dtype = form.model.embedding.weight.dtype
        sizes = (atoms, pairs, int(form.model.undirected), int(training), *network.sizes)
        self.shape = ((ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_double * len(network.numbers))(*network.numbers))
        self.weights = _pointers([None if weight is None else weight.detach() for weight in network.weights])

    def function(self, name: str, result: Any = None) -> Callable[..., Any]:
        """A function of the library, of this model and format."""
        made = getattr(library(), f"{self.network.name}_{name}_{_REALS[self.dtype]}")
        made.restype = result
        return made

    def forward(self, graph: Graph, pos: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Energies, forces, and the workspace with what the backward passes need."""
        self.transposed = self.form.transposed(self.network, self)
        workspace = torch.empty(self.function("workspace", ctypes.c_int64)(*self.shape), dtype=self.dtype)
        energy = torch.zeros((*graph.graph_mask.shape, 1), dtype=self.dtype)
        forces = torch.zeros(graph.pos.shape, dtype=self.dtype)
        self.function("forward")(
            *self.shape, *map(pointer, (self.index, pos)), self.weights,
            *map(pointer, (self.transposed, workspace, energy, forces)),
        )  # fmt: skip
        return energy, forces, workspace

    def backward(self, workspace: Tensor, grad_energy: Tensor, grad_forces: Tensor) -> List[Optional[Tensor]]:
        """Gradients of the weights."""
        gradients = [None if weight is None else torch.zeros_like(weight) for weight in self.network.weights]
        self.function("backward")(
            *self.shape, pointer(self.index), self.weights,
            *map(pointer, (self.transposed, workspace, grad_energy.contiguous(), grad_forces.contiguous())),
            _pointers(gradients),
        )  # fmt: skip
        return gradients


class _Forces(torch.autograd.Function):
    """Energies and forces with gradients of the weights, once differentiable."""

    @staticmethod
    def forward(ctx: Any, form: Any, network: Any, molecules: Any, graph: Any, pos: Any, *weights: Any) -> Any:  # type: ignore[override]
        ctx.call = _Call(form, network, molecules, True)
        energy, forces, workspace = ctx.call.forward(graph, pos)
        ctx.save_for_backward(workspace, *weights)
        return energy, forces

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_energy: Tensor, grad_forces: Tensor) -> Any:  # type: ignore[override]
        workspace, *_ = ctx.saved_tensors  # complains if a weight has changed since
        found = ctx.call.backward(workspace, grad_energy, grad_forces)
        gradients = [grad for grad, weight in zip(found, ctx.call.network.weights) if weight is not None]
        asked = ctx.needs_input_grad[5:]
        return (None,) * 5 + tuple(grad if needed else None for grad, needed in zip(gradients, asked))


def _molecules(graph: Graph) -> Optional[Tuple[Tensor, int, int]]:
    """Real atoms and pairs as C takes them, with their numbers; None if an edge joins an atom with itself."""
    packs, nodes = graph.z.shape
    edges = graph.edge_index.shape[2]
    index = torch.empty(4 * packs * nodes + 2 * packs * edges, dtype=torch.int32)
    sizes = (ctypes.c_int64 * 2)()
    whole = [part.to(torch.int64).contiguous() for part in (graph.z, graph.graph_index, graph.edge_index)]
    masks = [part.contiguous() for part in (graph.node_mask, graph.edge_mask)]
    shape = [ctypes.c_int64(size) for size in (packs, nodes, edges, graph.graph_mask.shape[1])]
    if library().compact_molecules(*shape, *map(pointer, (*whole, *masks)), sizes, pointer(index)):
        return None
    return index, sizes[0], sizes[1]


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
        layers = (block.message_net[0], block.message_net[2], block.filter_net, block.update_net[0], block.update_net[2])
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
    one_target = model.head[2].weight.shape[0] == 1 and model.readout == "sum"
    return one_target and len(formats) == 1 and formats <= set(_REALS) and len(model.interactions) <= _MOST_BLOCKS


def _pointers(tensors: List[Optional[Tensor]]) -> Any:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])


_NETWORKS: Dict[type, Callable[[Any], Network]] = {SchNet: _schnet, PaiNN: _painn}
