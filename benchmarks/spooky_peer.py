"""SpookyNet's public reference as a contestant of `force_step.py`: the authors' code, from a folder of the user's own.

It comes as no package: `git clone https://github.com/OUnke/SpookyNet FOLDER`.
"""

import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import numpy as np
import torch
from torch import nn

NUM_RADIAL = 20


def reference(
    folder: Path, features: int, cutoff: float, force_weight: float, frames: int, data: Any, live: Callable[..., None]
) -> Callable[[], Any]:
    """A function that trains the authors' SpookyNet on the next batch.

    Dispersion is left out on both sides: theirs is D4 with its reference molecules, ours costs less. Pairs are made
    beforehand, all of a molecule, since electrostatics has no cutoff; those of messages the model picks itself.

    Args:
        folder: a checkout.
        features: of an atom.
        cutoff: Å, of messages.
        force_weight: of forces in the loss.
        frames: of a batch.
        data: `force_step.Frames`.
        live: fills layers that begin at zero, as on our side.

    Raises:
        ImportError: the folder is no checkout.
    """
    sys.path.insert(0, str(folder))
    try:
        from spookynet import SpookyNet  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    torch.manual_seed(0)
    model = SpookyNet(
        num_features=features, num_basis_functions=NUM_RADIAL, cutoff=cutoff, use_d4_dispersion=False
    ).float()
    live(model)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    loader = torch.utils.data.DataLoader(
        list(range(len(data.energies))),
        frames,
        shuffle=True,
        collate_fn=lambda chosen: _batch(data, chosen),
        drop_last=True,
    )

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    source = batches()

    def step() -> float:
        inputs, energy, forces = next(source)
        optimizer.zero_grad()
        found = model(**inputs, num_batch=len(energy), use_dipole=False)
        loss = (1.0 - force_weight) * nn.functional.mse_loss(found[0], energy)
        loss = loss + force_weight * nn.functional.mse_loss(found[1], forces)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _batch(data: Any, chosen: List[int]) -> Tuple[Any, torch.Tensor, torch.Tensor]:
    """Frames side by side, as the model takes them."""
    atoms, count = len(data.z), len(chosen)
    first = np.arange(count)[:, None] * atoms
    i, j = np.nonzero(~np.eye(atoms, dtype=bool))
    inputs = {
        "Z": np.tile(data.z.astype(np.int64), count),
        "Q": np.zeros(count, np.float32),
        "S": np.zeros(count, np.float32),
        "R": data.positions[chosen].reshape(-1, 3).astype(np.float32),
        "idx_i": (first + i).reshape(-1),
        "idx_j": (first + j).reshape(-1),
        "batch_seg": np.repeat(np.arange(count), atoms),
    }
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    tensors["R"].requires_grad_(True)
    energies = torch.from_numpy(data.energies[chosen].astype(np.float32))
    return tensors, energies, torch.from_numpy(data.forces[chosen].reshape(-1, 3).astype(np.float32))
