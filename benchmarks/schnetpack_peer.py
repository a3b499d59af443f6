"""SchNetPack 2 as a contestant: its models, and its inputs with edges made beforehand."""

from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from torch import nn

Inputs = Dict[str, torch.Tensor]


def inputs_of(z: np.ndarray, positions: np.ndarray, cutoff: float) -> Inputs:
    """A free molecule, z [n] and positions [n, 3] in Å, with all of its edges."""
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    i, j = np.nonzero((distance < cutoff) & ~np.eye(len(z), dtype=bool))
    return {
        "_n_atoms": torch.tensor([len(z)]),
        "_atomic_numbers": torch.from_numpy(z.astype(np.int64)),
        "_positions": torch.from_numpy(positions).float(),
        "_cell": torch.zeros(1, 3, 3),
        "_pbc": torch.zeros(3, dtype=torch.bool),
        "_idx_i": torch.from_numpy(i),
        "_idx_j": torch.from_numpy(j),
        "_offsets": torch.zeros(len(i), 3),
    }


def model_of(name: str, features: int, cutoff: float, with_forces: bool) -> Tuple[nn.Module, Callable[..., Any]]:
    """PaiNN or SchNet of three blocks for an "energy", and SchNetPack's collate function.

    Raises:
        ImportError: SchNetPack is not installed.
    """
    schnetpack, atomistic, representation, collate = _modules()
    torch.manual_seed(0)
    envelope = schnetpack.nn.CosineCutoff(cutoff)
    if name == "painn":
        basis = schnetpack.nn.BesselRBF(20, cutoff)
        body = representation.PaiNN(features, 3, radial_basis=basis, cutoff_fn=envelope)
    else:
        basis = schnetpack.nn.GaussianRBF(50, cutoff)
        body = representation.SchNet(features, 3, radial_basis=basis, cutoff_fn=envelope)
    outputs: List[Any] = [atomistic.Atomwise(features, output_key="energy")]
    model = schnetpack.model.NeuralNetworkPotential(
        body,
        input_modules=[atomistic.PairwiseDistances()],
        output_modules=outputs + [atomistic.Forces()] * with_forces,
    )
    return model, collate


def _modules() -> Tuple[Any, Any, Any, Any]:
    """Modules and the collate function; SchNetPack's imports want a name that torch 2.13 no longer has."""
    from typing import TypeVar

    import torch.utils.data.dataloader as torch_loader

    for name in ("T_co", "T"):
        if not hasattr(torch_loader, name):
            setattr(torch_loader, name, TypeVar(name))  # type: ignore[misc]
    import schnetpack
    from schnetpack import atomistic, representation
    from schnetpack.data.loader import _atoms_collate_fn

    return schnetpack, atomistic, representation, _atoms_collate_fn
