"""SchNet weights from PyTorch Geometric, and from networks built of its parts: their state dicts in our names."""

from typing import Dict, Mapping

import torch
from torch import Tensor

from ipu_chem.models.schnet import SchNet

_BLOCK = {
    "mlp.0.weight": "filter_net.0.weight",
    "mlp.0.bias": "filter_net.0.bias",
    "mlp.2.weight": "filter_net.2.weight",
    "mlp.2.bias": "filter_net.2.bias",
    "conv.lin1.weight": "lin_in.weight",
    "conv.lin2.weight": "lin_out.weight",
    "conv.lin2.bias": "lin_out.bias",
    "lin.weight": "lin_last.weight",
    "lin.bias": "lin_last.bias",
}
_REST = {
    "embedding.weight": "embedding.weight",
    "distance_expansion.offset": "basis.centres",
    "lin1.weight": "head.0.weight",
    "lin1.bias": "head.0.bias",
    "lin2.weight": "head.2.weight",
    "lin2.bias": "head.2.bias",
    "atomref.weight": "atom_references",
}
# conv.nn is the same module as mlp, initial_atomref a copy of what atomref started from, masses are a constant.
_REPEATED = ("conv.nn.", "initial_atomref", "atomic_mass")

_HYDRONET = {"atom_embedding": "embedding", "basis_expansion": "distance_expansion"}


def schnet_from_pyg(state: Mapping[str, Tensor], readout: str = "add") -> SchNet:
    """Build the SchNet that a PyTorch Geometric state dict belongs to.

    Sizes and the cutoff are read from the tensors. PyTorch Geometric keeps no trace of its readout, nor of
    ``mean`` and ``std``, in a state dict; models with those two set are not equal to the result.

    Args:
        state: of torch_geometric.nn.SchNet.
        readout: the one of that model: "add", "sum" or "mean", or "dipole" of one with dipole=True.

    Returns:
        A SchNet in evaluation order of the same dtype, on the CPU.

    Raises:
        ValueError: a tensor is missing or unknown; names it.
    """
    renamed = {_rename(name): value for name, value in state.items() if not any(part in name for part in _REPEATED)}
    needed = ("embedding.weight", "basis.centres", "interactions.0.lin_in.weight", "head.2.weight")
    missing = [name for name in needed if name not in renamed]
    if missing:
        raise ValueError(f"this is not the state dict of a PyG SchNet: nothing in it gives {', '.join(missing)}.")
    blocks = {name.split(".")[1] for name in renamed if name.startswith("interactions.")}
    references = renamed.get("atom_references")
    num_filters, hidden_features = renamed["interactions.0.lin_in.weight"].shape
    model = SchNet(
        hidden_features=hidden_features,
        num_filters=num_filters,
        num_interactions=len(blocks),
        num_gaussians=len(renamed["basis.centres"]),
        cutoff=float(renamed["basis.centres"][-1]),
        num_targets=len(renamed["head.2.weight"]),
        readout={"add": "sum"}.get(readout, readout),
        atom_references=None if references is None else torch.zeros_like(references),
    ).to(renamed["embedding.weight"].dtype)
    try:
        model.load_state_dict({name: value.detach().cpu() for name, value in renamed.items()})
    except RuntimeError as error:
        raise ValueError(f"this state dict does not fit a SchNet: {error}") from error
    return model


def schnet_from_hydronet(state: Mapping[str, Tensor]) -> SchNet:
    """Build the SchNet of a network for HydroNet's water clusters.

    Two codes are known: graphcore-research/hydronet-gnn wraps PyG's SchNet, pnnl/downstream_mol_gnn has its layers by
    names of its own (atom_embedding, basis_expansion). Both sum over atoms of molecules in kcal/mol, and both choose
    edges from the 28 nearest neighbors of every atom: give those (`ipu_chem.data.neighbors.knn_edges`) for the same
    energies. Where one of them is farther away than the cutoff, the second code's cutoff function rises again; ours
    stays 0.

    Args:
        state: of the model, as it was or from inside torch's DistributedDataParallel.

    Returns:
        As `schnet_from_pyg`.

    Raises:
        ValueError: a tensor is missing or unknown; names it.
    """
    renamed = {}
    for name, value in state.items():
        for prefix in ("module.", "model."):
            name = name[len(prefix) :] if name.startswith(prefix) else name
        first, dot, rest = name.partition(".")
        renamed[_HYDRONET.get(first, first) + dot + rest] = value
    return schnet_from_pyg(renamed)


def schnet_to_pyg(model: SchNet) -> Dict[str, Tensor]:
    """The reverse: a state dict that torch_geometric.nn.SchNet.load_state_dict takes."""
    names = {ours: theirs for theirs, ours in _REST.items()}
    names.update({ours: theirs for theirs, ours in _BLOCK.items()})
    state: Dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith("interactions."):
            state[names[name]] = value
            continue
        _, block, rest = name.split(".", 2)
        state[f"interactions.{block}.{names[rest]}"] = value
        if rest.startswith("filter_net."):
            state[f"interactions.{block}.{names[rest].replace('mlp.', 'conv.nn.')}"] = value
    if "atomref.weight" in state:
        state["initial_atomref"] = state["atomref.weight"]
    return state


def _rename(name: str) -> str:
    """Our name of one of their tensors."""
    if name.startswith("interactions."):
        _, block, rest = name.split(".", 2)
        if rest in _BLOCK:
            return f"interactions.{block}.{_BLOCK[rest]}"
    elif name in _REST:
        return _REST[name]
    raise ValueError(f"this is not the state dict of a PyG SchNet: it holds {name}.")
