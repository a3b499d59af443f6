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


class Molecules(NamedTuple):
    """Real atoms and pairs of a batch, as `molecules.h` has them."""

    index: Tensor
    atoms: int
    pairs: int


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
            library(_REALS[part.model.embedding.weight.dtype])
            part.kernel = NativeForces(part.model)
            parts += 1
    return parts


class NativeForces:
    """Energies and forces of one model. Its weights may change at any time, but stay the same tensors."""

    def __init__(self, model: Any) -> None:
        """Take a `SchNet` or `PaiNN` of one target that is a sum over atoms."""
        self._network = network = _NETWORKS[type(model)](model)
        self.undirected = int(model.undirected)
        self.weights = [weight for weight in network.weights if weight is not None]
        self._versions: Optional[Tuple[Any, ...]] = None
        self._addresses: Tuple[int, ...] = ()
        self._spaces: List[Tensor] = []  # workspaces that nobody uses: new memory costs as much as a pass

    def __call__(self, graph: Graph, training: bool) -> Optional[Tuple[Tensor, Tensor]]:
        """Energies [B, G, 1] and forces [B, N, 3]; None where autograd has to do it.

        Args:
            graph: on the CPU.
            training: gradients of the weights will be asked for.
        """
        molecules = _molecules(graph, _REALS[self.weights[0].dtype])
        if molecules is None:
            return None
        if training and torch.is_grad_enabled():
            return _Forces.apply(self, molecules, graph, *self.weights)
        energy, forces, workspace = self.forward(molecules, graph, 0)
        self._spaces.append(workspace)
        return energy, forces

    def forward(self, molecules: Molecules, graph: Graph, training: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Energies, forces, and the workspace that `backward` reads if ``training`` is 1."""
        self._refresh()
        shape = self._shape(molecules, training)
        size = self._function("workspace", ctypes.c_int64)(*shape)
        workspace = self._spaces.pop() if self._spaces else torch.empty(0)
        if workspace.numel() < size or workspace.dtype != self._dtype:
            workspace = torch.empty(size, dtype=self._dtype)
        energy = torch.zeros((*graph.graph_mask.shape, 1), dtype=self._dtype)
        forces = torch.zeros(graph.pos.shape, dtype=self._dtype)
        pos = graph.pos.detach().to(self._dtype).contiguous()
        self._function("forward")(
            *shape, *map(pointer, (molecules.index, pos)), self._pointers,
            *map(pointer, (self._transposed, workspace, energy, forces)),
        )  # fmt: skip
        return energy, forces, workspace

    def backward(
        self, molecules: Molecules, workspace: Tensor, grad_energy: Tensor, grad_forces: Tensor
    ) -> List[Tensor]:
        """Gradients of `weights`, after a `forward` with ``training``; gives the workspace back."""
        flat = torch.zeros(sum(weight.numel() for weight in self.weights), dtype=self._dtype)
        parts = flat.split([weight.numel() for weight in self.weights])
        gradients = [part.view(weight.shape) for part, weight in zip(parts, self.weights)]
        left = iter(gradients)
        addresses = _pointers([None if weight is None else next(left) for weight in self._network.weights])
        grad_energy, grad_forces = grad_energy.contiguous(), grad_forces.contiguous()  # pointers keep nothing alive
        self._function("backward")(
            *self._shape(molecules, 1), pointer(molecules.index), self._pointers,
            *map(pointer, (self._transposed, workspace, grad_energy, grad_forces)), addresses,
        )  # fmt: skip
        self._spaces.append(workspace)
        return gradients

    def _refresh(self) -> None:
        """Look where the weights are, and transpose them anew if one has changed."""
        addresses = tuple(weight.data_ptr() for weight in self.weights)
        try:
            versions: Optional[Tuple[Any, ...]] = tuple(weight._version for weight in self.weights)
        except RuntimeError:  # tensors of inference mode count no versions
            versions = None
        if addresses == self._addresses and versions == self._versions and versions is not None:
            return
        self._dtype = self.weights[0].dtype
        self._pointers = _pointers([None if weight is None else weight.detach() for weight in self._network.weights])
        shape = self._shape(Molecules(self.weights[0], 0, 0), 0)
        size = self._function("prepare", ctypes.c_int64)(*shape, self._pointers, None)
        self._transposed = torch.empty(size, dtype=self._dtype)  # not written over: a backward pass may need the old
        self._function("prepare", ctypes.c_int64)(*shape, self._pointers, pointer(self._transposed))
        self._addresses, self._versions = addresses, versions

    def _shape(self, molecules: Molecules, training: int) -> Tuple[Any, Any]:
        sizes = (molecules.atoms, molecules.pairs, self.undirected, training, *self._network.sizes)
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
        energy, forces, ctx.workspace = form.forward(molecules, graph, 1)
        ctx.form, ctx.molecules, ctx.graph = form, molecules, graph
        ctx.save_for_backward(*weights)
        return energy, forces

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_energy: Tensor, grad_forces: Tensor) -> Any:  # type: ignore[override]
        assert len(ctx.saved_tensors) == len(ctx.form.weights)  # torch refuses if a weight has changed since
        workspace, ctx.workspace = ctx.workspace, None
        if workspace is None:  # a second time: somebody else may have the workspace
            workspace = ctx.form.forward(ctx.molecules, ctx.graph, 1)[2]
        gradients = ctx.form.backward(ctx.molecules, workspace, grad_energy, grad_forces)
        asked = ctx.needs_input_grad[3:]
        return (None, None, None, *(gradient if needed else None for gradient, needed in zip(gradients, asked)))


def _molecules(graph: Graph, real: str) -> Optional[Molecules]:
    """Real atoms and pairs as C takes them; None if an edge joins an atom with itself."""
    packs, nodes = graph.z.shape
    edges = graph.edge_index.shape[2]
    index = torch.empty(4 * packs * nodes + 2 * packs * edges, dtype=torch.int32)
    sizes = (ctypes.c_int64 * 2)()
    whole = [part.to(torch.int64).contiguous() for part in (graph.z, graph.graph_index, graph.edge_index)]
    masks = [part.contiguous() for part in (graph.node_mask, graph.edge_mask)]
    shape = [ctypes.c_int64(size) for size in (packs, nodes, edges, graph.graph_mask.shape[1])]
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
    one_target = model.head[2].weight.shape[0] == 1 and model.readout == "sum"
    return one_target and len(formats) == 1 and formats <= set(_REALS) and len(model.interactions) <= _MOST_BLOCKS


def _pointers(tensors: List[Optional[Tensor]]) -> Any:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])


_NETWORKS: Dict[type, Callable[[Any], Network]] = {SchNet: _schnet, PaiNN: _painn}
