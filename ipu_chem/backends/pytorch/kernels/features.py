"""PaiNN's features of atoms and the gradients of its weights in native kernels, where positions get no derivative.

Training on energies and other properties is a few hundred small operators a step in torch. Shapes: B packs, N node,
E edge, G graph slots, F features.
"""

import ctypes
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import pointer
from ipu_chem.backends.pytorch.kernels.forces import Addresses, Molecules, compact, joined
from ipu_chem.backends.pytorch.kernels.forces.networks import MOST_BLOCKS, REALS, painn_body
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.base import Graph
from ipu_chem.models.painn import PaiNN

FULL = 160  # atoms of a group: products run at full speed, and its values stay in the caches


class Used(NamedTuple):
    """Memory of a group's forward pass, for its backward pass."""

    molecules: Molecules
    workspace: Tensor


def use_feature_kernels(model: nn.Module) -> int:
    """Let PaiNN's features come from native kernels; returns how many models do from now on.

    Args:
        model: with weights of one format, float32 or float64, on the CPU; filters from tables are evaluated exactly.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if type(part) is PaiNN and _is_supported(part):
            library(REALS[part.embedding.weight.dtype])
            part.kernel = NativeFeatures(part)
            parts += 1
    return parts


class NativeFeatures:
    """Features of one model. Its weights may change at any time, but stay the same tensors until others are loaded."""

    def __init__(self, model: PaiNN) -> None:
        self._model = model
        self._undirected = int(model.undirected)
        self.loaded()
        model.register_load_state_dict_post_hook(self.loaded)
        self._spaces: List[Tensor] = []  # workspaces that nobody uses: new memory costs as much as a pass

    def loaded(self, *_: Any) -> None:
        """Take weights that have been loaded, which may be other tensors (``assign=True``), of other formats, too."""
        network = painn_body(self._model)
        self._weights, self._sizes, self._numbers = network.weights, network.sizes, network.numbers
        self.weights = [weight for weight in network.weights if weight is not None]
        self._is_known = _is_supported(self._model)
        self._values, self._gradients = Addresses(), Addresses()

    def __call__(self, graph: Graph) -> Optional[Tuple[Tensor, Tensor]]:
        """Scalars [B * N, F] and vectors [B * N, 3, F], 0 in padding; None where autograd has to do it."""
        dtype = self.weights[0].dtype
        if dtype not in REALS or not graph.pos.device.type == self.weights[0].device.type == "cpu":
            return None  # the model has been moved
        if not self._is_known:
            return None
        training = torch.is_grad_enabled()
        if training and graph.pos.requires_grad:
            return None
        molecules = compact(graph, REALS[dtype], len(self.weights[0]))
        if molecules is None:
            return None
        if training:
            return _Features.apply(self, molecules, graph, *self.weights)
        scalars, vectors, _, used = self.forward(molecules, graph, 0)
        self._spaces += [group.workspace for group in used]
        return scalars, vectors

    def forward(self, molecules: Molecules, graph: Graph, training: int) -> Tuple[Tensor, Tensor, Tensor, List[Used]]:
        """Scalars, vectors, transposed weights, and what `backward` needs of every group if ``training`` is 1."""
        dtype, features = self.weights[0].dtype, self._sizes[0]
        slots = graph.z.numel()
        weights = self._values.of(self._weights)
        size = self._function("prepare", ctypes.c_int64)(*self._shape(molecules, 0), weights, None)
        transposed = torch.empty(size, dtype=dtype)
        self._function("prepare", ctypes.c_int64)(*self._shape(molecules, 0), weights, pointer(transposed))
        pos = graph.pos.detach().to(dtype).contiguous()
        scalars = torch.zeros((slots, features), dtype=dtype)
        vectors = torch.zeros((slots, 3, features), dtype=dtype)
        used = []
        for group in groups(molecules, FULL):
            shape = self._shape(group, training)
            workspace = self._space(self._function("features_workspace", ctypes.c_int64)(*shape, ctypes.c_int64(0)))
            tensors = (transposed, workspace, scalars, vectors)
            self._function("features")(*shape, pointer(group.index), pointer(pos), weights, *map(pointer, tensors))
            if training:
                used.append(Used(group, workspace))
            else:
                self._spaces.append(workspace)
        return scalars, vectors, transposed, used

    def backward(
        self, used: List[Used], transposed: Tensor, grad_scalars: Tensor, grad_vectors: Optional[Tensor]
    ) -> List[Tensor]:
        """Gradients of `weights`, after a `forward` with ``training``; gives the workspaces back."""
        sizes = [weight.numel() for weight in self.weights]
        parts = torch.zeros(sum(sizes), dtype=self.weights[0].dtype).split(sizes)
        gradients = [part.view(weight.shape) for part, weight in zip(parts, self.weights)]
        left = iter(gradients)
        addresses = self._gradients.of([None if weight is None else next(left) for weight in self._weights])
        grad_scalars = grad_scalars.contiguous()  # pointers keep nothing alive
        grad_vectors = None if grad_vectors is None else grad_vectors.contiguous()
        weights = self._values.of(self._weights)
        for group, workspace in used:
            shape = self._shape(group, 1)
            scratch = self._space(self._function("features_workspace", ctypes.c_int64)(*shape, ctypes.c_int64(1)))
            self._function("features_backward")(
                *shape, pointer(group.index), weights, *map(pointer, (transposed, workspace, scratch, grad_scalars)),
                None if grad_vectors is None else pointer(grad_vectors), addresses,
            )  # fmt: skip
            self._spaces += [workspace, scratch]
        return gradients

    def _space(self, size: int) -> Tensor:
        """Memory for a group, the smallest that fits; too small ones make room for a new one."""
        dtype = self.weights[0].dtype
        self._spaces = [space for space in self._spaces if space.dtype == dtype]
        self._spaces.sort(key=Tensor.numel)
        for place, space in enumerate(self._spaces):
            if space.numel() >= size:
                return self._spaces.pop(place)
        if self._spaces:
            self._spaces.pop()
        return torch.empty(size + size // 8, dtype=dtype)

    def _shape(self, molecules: Molecules, training: int) -> Tuple[Any, Any]:
        sizes = (*molecules[1:], self._undirected, training, *self._sizes)
        return (ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_double * len(self._numbers))(*self._numbers)

    def _function(self, name: str, result: Any = None) -> Callable[..., Any]:
        real = REALS[self.weights[0].dtype]
        made = getattr(library(real), f"painn_{name}_{real}")
        made.restype = result
        return made


def groups(molecules: Molecules, full: int) -> List[Molecules]:
    """Molecules in groups of about ``full`` atoms; in one if atoms or pairs are not in the order of molecules."""
    atoms, pairs, index = molecules.atoms, molecules.pairs, molecules.index.numpy()
    of_atoms = index[: 3 * atoms].reshape(3, atoms)
    ends = index[3 * atoms : 3 * atoms + 2 * pairs].reshape(2, pairs)
    molecule = of_atoms[2]
    of_pairs = molecule[ends[0]]
    if (np.diff(molecule) < 0).any() or (np.diff(of_pairs) < 0).any():
        return [molecules]
    begins = np.flatnonzero(np.diff(molecule, prepend=-1))  # atoms with which molecules begin
    asked = np.arange(0, max(atoms - full, 1), full)
    first = np.unique(begins[np.searchsorted(begins[:-1], asked)]) if atoms else asked[:0]
    low = np.searchsorted(of_pairs, molecule[first])
    made = []
    for begin, end, start, stop in zip(first, [*first[1:], atoms], low, [*low[1:], pairs]):
        element, kind = np.unique(of_atoms[0, begin:end], return_inverse=True)
        made.append(joined(of_atoms[:, begin:end], ends[:, start:stop] - begin, kind, element))
    return made


class _Features(torch.autograd.Function):
    """Features with gradients of the weights."""

    @staticmethod
    def forward(ctx: Any, form: NativeFeatures, molecules: Any, graph: Graph, *weights: Tensor) -> Any:  # type: ignore[override]
        scalars, vectors, ctx.transposed, ctx.used = form.forward(molecules, graph, 1)
        ctx.form, ctx.molecules, ctx.graph = form, molecules, graph
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*weights)
        return scalars, vectors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_scalars: Optional[Tensor], grad_vectors: Optional[Tensor]) -> Any:  # type: ignore[override]
        assert len(ctx.saved_tensors) == len(ctx.form.weights)  # torch refuses if a weight has changed since
        used, ctx.used = ctx.used, None
        if used is None:  # a second time: somebody else may have the workspaces
            used = ctx.form.forward(ctx.molecules, ctx.graph, 1)[3]
        if grad_scalars is None:
            grad_scalars = torch.zeros(
                ctx.graph.z.numel(), ctx.form.weights[0].shape[1], dtype=ctx.form.weights[0].dtype
            )
        gradients = ctx.form.backward(used, ctx.transposed, grad_scalars, grad_vectors)
        asked = ctx.needs_input_grad[3:]
        return (None, None, None, *(gradient if needed else None for gradient, needed in zip(gradients, asked)))


def _is_supported(model: PaiNN) -> bool:
    formats = {tensor.dtype for tensor in model.parameters()}
    return len(formats) == 1 and formats <= set(REALS) and len(model.interactions) <= MOST_BLOCKS
