"""Sizes and weights of SchNet and PaiNN in the order in which their kernels take them."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet

REALS = {torch.float32: "float", torch.float64: "double"}  # formats, in C
_MOST_BLOCKS = 32  # as in the C files


class Network(NamedTuple):
    """A model as its kernel takes it."""

    name: str  # in C
    sizes: Tuple[int, ...]  # behind M, P, U, both, training
    numbers: Tuple[float, ...]
    weights: List[Optional[Tensor]]  # in the order of the enumerations in C; None where there is none


def network_of(model: Any) -> Optional[Network]:
    """The network that a model is; None if there are no kernels for its kind, sizes or formats."""
    make = _NETWORKS.get(type(model))
    return make(model) if make is not None and _is_supported(model) else None


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
    return one_target and len(formats) == 1 and formats <= set(REALS) and len(model.interactions) <= _MOST_BLOCKS


_NETWORKS: Dict[type, Callable[[Any], Network]] = {SchNet: _schnet, PaiNN: _painn}
