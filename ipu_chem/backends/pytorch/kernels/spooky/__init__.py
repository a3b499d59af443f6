"""SpookyNet's interactions in native kernels, for energies, forces and gradients of a loss of both on CPUs.

They are one operator with a derivative of its derivative, in four passes: values; adjoints, on the way to forces;
tangents along the derivative of the loss by these adjoints; second adjoints with the gradients of the weights. What
is around them, embeddings, functions of distances, charges and physical terms, stays with autograd. Shapes: B packs,
N node, E edge slots, F features, R radial functions.
"""

import ctypes
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import pointer
from ipu_chem.backends.pytorch.kernels.forces import gradient_of
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.base import Graph
from ipu_chem.models.residual import Residual
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.spooky_interaction import EdgeFunctions, SpookyInteraction
from ipu_chem.models.spookynet import SpookyNet

_MOST_BLOCKS = 32  # as in C
_LINE = 16  # numbers of a cache line, or more
_REALS = {torch.float32: "float", torch.float64: "double"}
_REFUSED = "SpookyNet's native kernels have no {}; set torch.kernels=false."


def use_spooky_kernels(model: nn.Module) -> int:
    """Let the interactions of SpookyNets run in native kernels; returns how many models do from now on.

    Args:
        model: with weights of one format, float32 or float64, on the CPU.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if type(part) is SpookyNet and _is_supported(part):  # another may not be what the kernels compute
            library(_REALS[part.head.output.weight.dtype])
            part.kernel = NativeInteractions(part)
            parts += 1
    return parts


def add_gradients_in_place(model: nn.Module) -> None:
    """Let kernels add gradients of weights to what ``grad`` of each holds, without autograd, where all are trained.

    Args:
        model: after `use_spooky_kernels`; whose weights have gradients, which stay the same tensors.
    """
    for part in model.modules():
        kernel = part.kernel if isinstance(part, SpookyNet) else None
        if isinstance(kernel, NativeInteractions):
            kernel.adds_in_place = all(weight.requires_grad for weight in kernel.weights)


class Batch(NamedTuple):
    """Real atoms and pairs of packs."""

    index: Tensor  # as spooky.c takes it
    atoms: int
    pairs: int
    scores: int  # sum of squared numbers of atoms over molecules


class NativeInteractions:
    """The interactions of one model. Its weights may change at any time, but stay the same tensors until others are
    loaded.

    Attributes:
        weights: of all interactions.
        adds_in_place: gradients are added to what ``grad`` of each weight holds, without autograd.
    """

    def __init__(self, model: SpookyNet) -> None:
        self.adds_in_place = False
        self._model = model
        self.loaded()
        model.register_load_state_dict_post_hook(self.loaded)
        self._sizes = (self.weights[0].numel(), len(model.basis.rises), len(model.interactions))
        self._undirected = int(model.undirected)
        self._spaces: List[Tensor] = []  # workspaces that nobody uses: new memory costs as much as a pass

    def loaded(self, *_: Any) -> None:
        """Take weights that have been loaded, which may be other tensors (``assign=True``), of other formats, too."""
        self.weights = [weight for block in self._model.interactions for weight in _weights(block)]
        self._is_known = _is_supported(self._model)

    def __call__(self, x: Tensor, edges: EdgeFunctions, graph: Graph, training: bool) -> Optional[Tensor]:
        """Features to read energies from, [B * N, F]; None where autograd has to do it, or to say what is wrong.

        Args:
            x: [B * N, F], features of elements; they do not depend on positions.
            edges: B * E of them.
            graph: whose masks, molecules and edges are taken.
            training: derivatives of forces will be asked for.
        """
        tensors = (x, edges.angular, edges.radial)
        formats = {(part.dtype, part.device.type) for part in (*tensors, self.weights[0])}
        if not self._is_known or len(formats) > 1 or self.dtype not in _REALS or x.device.type != "cpu":
            return None  # the model has been moved
        batch = _batch(graph, _REALS[self.dtype])
        if batch is None:
            return None
        run = _Run(self, batch, training and torch.is_grad_enabled(), *tensors)
        return _Values.apply(run, *tensors, *(self.weights[:1] if self.adds_in_place else self.weights))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.weights[0].dtype

    def function(self, name: str, result: Any = None) -> Callable[..., Any]:
        """A function of the library, of this format."""
        return _function(name, _REALS[self.dtype], result)

    def shape(self, batch: Batch, training: bool) -> Any:
        """Sizes as spooky.c takes them."""
        given = (batch.atoms, batch.pairs, self._undirected, batch.scores, int(training), *self._sizes)
        return (ctypes.c_int64 * len(given))(*given)

    def workspace(self, size: int) -> Tensor:
        """Memory for at least that many numbers; `give_back` when it is no longer needed."""
        while self._spaces:
            space = self._spaces.pop()
            if space.numel() >= size and space.dtype == self.dtype:
                return space
        return torch.empty(size + size // 8, dtype=self.dtype)  # room for batches of a few pairs more

    def give_back(self, space: Tensor) -> None:
        """Keep memory for the next batch."""
        self._spaces.append(space)


class _Run:
    """One batch on its way through the passes, and the memory of them."""

    def __init__(self, form: NativeInteractions, batch: Batch, training: bool, *inputs: Tensor) -> None:
        self.form, self.batch, self.training = form, batch, training
        self._inputs = [part.detach().contiguous() for part in inputs]
        self._space: Optional[Tensor] = None
        self.adjoints_of: Any = None  # mark of the node whose adjoints are in the workspace
        self.moves = False  # tangents are there, too, and pass 4 of this backward pass is to come

    def __del__(self) -> None:
        if self._space is not None:
            self.form.give_back(self._space)

    def values(self) -> Tensor:
        """Pass 1: features [B * N, F]."""
        form = self.form
        shape, weights = form.shape(self.batch, self.training), _pointers(form.weights)
        prepared = -(-form.function("prepare", ctypes.c_int64)(shape, weights, None) // _LINE) * _LINE
        size = form.function("workspace", ctypes.c_int64)(shape)
        self._space = space = form.workspace(prepared + size)
        self._parts = (space[:prepared], space[prepared:])
        form.function("prepare", ctypes.c_int64)(shape, weights, pointer(space))
        x, angular, radial = self._inputs
        features = torch.zeros_like(x)
        self._call("values", x, radial, angular, features)
        return features

    def adjoints(self, features_adj: Tensor, mark: Any) -> Tuple[Tensor, Tensor]:
        """Pass 2: adjoints of angular and radial functions; with a mark tangents will be asked for."""
        if mark is not None and not self.training:  # after all
            self.training = True
            self.values()
        _, angular, radial = (torch.zeros_like(part) for part in self._inputs)
        self._call("adjoints", features_adj.contiguous(), radial, angular)
        self.adjoints_of, self.moves = mark, False
        return angular, radial

    def tangents(self, angular_tan: Tensor, radial_tan: Tensor) -> Tensor:
        """Pass 3: tangents of the features."""
        features = torch.zeros_like(self._inputs[0])
        self._call("tangents", radial_tan.contiguous(), angular_tan.contiguous(), features)
        return features

    def second(self, features_adj2: Tensor) -> List[Tensor]:
        """Pass 4: second adjoints of x, angular and radial functions, then the gradients of the weights.

        Those are none if they have been added in place.
        """
        if not self.training:
            self.training = True
            self.values()
        x, angular, radial = (torch.zeros_like(part) for part in self._inputs)
        in_place, weights = self.form.adds_in_place, self.form.weights
        gradients = [] if in_place else [torch.zeros_like(weight) for weight in weights]
        addresses = _pointers(gradients or [gradient_of(weight) for weight in weights])
        moves, features_adj2 = ctypes.c_int64(self.moves), features_adj2.contiguous()
        self._call("second", moves, features_adj2, x, radial, angular, addresses)
        self.moves = False
        return [x, angular, radial, *gradients]

    def _call(self, name: str, *rest: Any) -> None:
        given = (self.batch.index, _pointers(self.form.weights), *self._parts, *rest)
        addresses = [pointer(one) if isinstance(one, Tensor) else one for one in given]
        self.form.function(name)(self.form.shape(self.batch, self.training), *addresses)


class _Values(torch.autograd.Function):
    """Features of x, angular and radial functions and weights."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        features = run.values()
        ctx.run = run
        ctx.save_for_backward(features, *inputs)
        return features

    @staticmethod
    def backward(ctx: Any, features_adj: Tensor) -> Any:  # type: ignore[override]
        run, (features, *inputs) = ctx.run, ctx.saved_tensors  # torch refuses if a weight has changed since
        wanted = any(_is_wanted(node) for place, (node, _) in enumerate(ctx.next_functions) if place not in (1, 2))
        no_weights = [None] * (len(inputs) - 3)
        if torch.is_grad_enabled():
            if wanted:
                raise RuntimeError(_REFUSED.format("derivatives of the gradients of weights"))
            return (None, None, *_Adjoints.apply(run, features, features_adj), *no_weights)
        if not wanted and not run.moves:
            return (None, None, *run.adjoints(features_adj, None), *no_weights)
        found = run.second(features_adj)
        if run.form.adds_in_place:
            return (None, *found, *no_weights)
        return (None, *(part if needed else None for part, needed in zip(found, ctx.needs_input_grad[1:])))


class _Adjoints(torch.autograd.Function):
    """Adjoints of angular and radial functions.

    Its derivative is pass 3 alone. Pass 4 comes for both functions at once, when `_Values` is asked for its own
    derivative: always later, since its features are an input here.
    """

    @staticmethod
    def forward(ctx: Any, run: _Run, features: Tensor, features_adj: Tensor) -> Any:  # type: ignore[override]
        ctx.run, ctx.mark = run, object()  # the node itself would be a circle, which keeps the workspace
        return run.adjoints(features_adj, ctx.mark)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, angular_tan: Tensor, radial_tan: Tensor) -> Any:  # type: ignore[override]
        if ctx.run.adjoints_of is not ctx.mark:
            raise RuntimeError(_REFUSED.format("gradients through several derivatives of one prediction"))
        features_tan = ctx.run.tangents(angular_tan, radial_tan)
        ctx.run.moves = _is_wanted(ctx.next_functions[0][0])  # else there is no pass 4 to take them
        return None, None, features_tan


def _is_wanted(node: Any) -> bool:
    """True if the backward pass that runs now comes to a node of autograd's graph, which may be None."""
    return node is not None and torch._C._will_engine_execute_node(node)


def _batch(graph: Graph, real: str) -> Optional[Batch]:
    """Real atoms and pairs; None if an edge joins an atom with itself, or molecules lie among each other."""
    packs, nodes = graph.z.shape
    edges = graph.edge_index.shape[2]
    index = torch.empty(6 * packs * nodes + 3 * packs * edges, dtype=torch.int32)
    counts = (ctypes.c_int64 * 3)()
    whole = [part.to(torch.int64).contiguous() for part in (graph.z, graph.graph_index, graph.edge_index)]
    masks = [part.contiguous() for part in (graph.node_mask, graph.edge_mask)]
    shape = [ctypes.c_int64(size) for size in (packs, nodes, edges, graph.graph_mask.shape[1], MAX_Z)]
    if library(real).compact_molecules(*shape, *map(pointer, (*whole, *masks)), counts, pointer(index)):
        return None
    scores = _function("scores", real, ctypes.c_int64)(counts, pointer(index))
    if scores < 0:
        return None
    first = 3 * counts[0] + 2 * counts[1]  # where kinds of atoms are, which nothing here takes
    index[first : first + counts[1]] = masks[1].reshape(-1).nonzero().reshape(-1).to(torch.int32)
    return Batch(index, counts[0], counts[1], scores)


def _function(name: str, real: str, result: Any) -> Callable[..., Any]:
    made = getattr(library(real), f"spooky_{name}_{real}")
    made.restype = result
    return made


def _weights(block: Any) -> List[Tensor]:
    """Weights of one block, in the order of blocks.h."""
    assert isinstance(block, SpookyInteraction)
    local, others = block.local_interaction, block.nonlocal_interaction
    chains = [block.before, local.own, local.sent_s, local.sent_p, local.sent_d, local.mlp]
    chains += [others.query, others.key, others.value, block.after, block.output]
    weights = [weight for chain in chains for weight in _of_chain(chain)]
    return [*weights, local.filters.weight, local.mix_p.weight, local.mix_d.weight]


def _of_chain(chain: Any) -> List[Tensor]:
    residual = chain if isinstance(chain, Residual) else chain[0]
    parts = [*residual.layers, *([] if residual is chain else [chain[1], chain[2]])]
    return [
        weight
        for swish, layer in zip(parts[::2], parts[1::2])
        for weight in (swish.alpha, swish.beta, layer.weight, layer.bias)
    ]


def _is_supported(model: SpookyNet) -> bool:
    """True if the kernels have this model's sizes and formats."""
    formats = {weight.dtype for weight in model.parameters()}
    return len(formats) == 1 and formats <= set(_REALS) and len(model.interactions) <= _MOST_BLOCKS


def _pointers(tensors: Sequence[Any]) -> Any:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
