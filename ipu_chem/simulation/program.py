"""Energies and forces of one molecule, again and again: tensors made once, operators recorded once.

A small molecule keeps a CPU busy with Python, not with arithmetic: a forward and a backward pass are some hundred
operators on a few numbers. SchNet and PaiNN on a CPU are one native kernel instead, and so are SpookyNet's
interactions, which no recording would see; for others the operators of both are recorded after some calls of the same
shapes and run without Python, autograd and its graph, to the same bits.
"""

import warnings
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.choice import use_native_kernels
from ipu_chem.backends.pytorch.kernels.fused import use_torch_activations
from ipu_chem.backends.pytorch.numerics import denormals_flushed
from ipu_chem.models.base import Graph
from ipu_chem.models.forces import EnergyForces
from ipu_chem.simulation.options import check_device
from ipu_chem.trained_run import ForceField

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_RECORDED_AFTER = 256  # calls; recording takes as long as several hundred of them
_SMALL = 200  # atoms; with fewer, threads wait for each other longer than they compute
_HEAD_ROOM = 1.25  # of pair slots, so that shapes stay when atoms come closer
_ALIGN = 16


class OneMolecule:
    """Models of one architecture on a molecule whose atoms move."""

    def __init__(self, models: Sequence[nn.Module], device: str, dtype: torch.dtype, threads: int = 0) -> None:
        """Take models over.

        Args:
            models: give energies and forces, as `EnergyForces` does.
            device: of torch.
            dtype: of weights, positions and results.
            threads: of torch, while it computes; 0 is one for less than 200 atoms, else as many as torch has.
        """
        self._models, self._is_native = on_device(models, device, dtype)
        self._device, self._dtype, self._threads = torch.device(device), dtype, threads
        self._inputs: List[Tensor] = []
        self._forget()

    def set_atoms(self, numbers: np.ndarray, extras: Sequence[np.ndarray] = ()) -> None:
        """Take another molecule; its pairs have to follow.

        Args:
            numbers: [n] atomic numbers.
            extras: inputs of the model behind the others, such as charge and spin, scalars.
        """
        atoms = len(numbers)
        # The host's memory, into which positions are written; on a CPU it is the model's input itself.
        self._host = torch.zeros((1, atoms, 3), dtype=self._dtype)
        inputs = [
            torch.from_numpy(np.asarray(numbers, np.int64)[None]),
            self._host,
            torch.zeros((1, atoms), dtype=torch.int64),
            torch.zeros((1, 2, 0), dtype=torch.int64),
            torch.ones((1, atoms), dtype=torch.bool),
            torch.zeros((1, 0), dtype=torch.bool),
            torch.ones((1, 1), dtype=torch.bool),
            *(torch.from_numpy(np.asarray(value)).reshape(1, 1) for value in extras),
        ]
        self._inputs = [value.to(self._device) for value in inputs]
        self._forget()

    def set_pairs(self, pairs: np.ndarray) -> None:
        """Take every pair of neighbors once.

        Args:
            pairs: [P, 2] integer; those farther apart than the cutoff contribute exactly 0.
        """
        capacity = self._inputs[3].shape[2]
        if len(pairs) > capacity or not capacity:
            atoms = self._host.shape[1]
            capacity = -(-int(_HEAD_ROOM * len(pairs)) // _ALIGN) * _ALIGN
            capacity = max(min(capacity, atoms * (atoms - 1) // 2), 1)
            self._inputs[3] = torch.zeros((1, 2, capacity), dtype=torch.int64, device=self._device)
            self._forget()
        self._inputs[3][0, :, : len(pairs)] = torch.from_numpy(np.ascontiguousarray(pairs.T, np.int64))
        self._inputs[3][0, :, len(pairs) :] = 0
        self._inputs[5] = (torch.arange(capacity) < len(pairs)).unsqueeze(0).to(self._device)

    def __call__(self, positions: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Standardized energies [M] and forces [M, n, 3] of M models, float64, of positions [n, 3] in Å."""
        # From the middle: far from the origin float32 would have no digits left for bonds.
        middle = np.add.reduce(positions, axis=0) / len(positions)
        # A view of now: one that is kept would be no view any more in a copy of this object.
        np.subtract(positions, middle, out=self._host.numpy()[0], casting="same_kind")
        if self._device.type != "cpu":
            self._inputs[1] = self._host.to(self._device)
        with torch.no_grad(), denormals_flushed(self._device.type == "cpu"), own_threads(self._threads, len(positions)):
            self._calls += 1
            if self._calls == _RECORDED_AFTER and not self._is_native:
                self._recorded = self._record()
            energies, forces = (self._recorded or self._compute)(*self._inputs)
        return energies.cpu().numpy().astype(np.float64), forces.cpu().numpy().astype(np.float64)

    def _compute(self, *inputs: Tensor) -> Tuple[Tensor, Tensor]:
        """All models, one after the other."""
        if len(self._models) == 1:
            energy, force = self._models[0](Graph(*inputs))
            return energy.reshape(-1), force
        energies, forces = zip(*(model(Graph(*inputs)) for model in self._models))
        return torch.cat(energies).reshape(-1), torch.cat(forces)

    def _record(self) -> Optional[Callable[..., Any]]:
        """The operators of `_compute` for these shapes; None if they do not say the same."""
        from torch.fx.experimental.proxy_tensor import make_fx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that it will call this form by another name
            # In two steps: the second cannot trace a derivative, the first lays it out as operators.
            recorded = torch.jit.trace(make_fx(self._compute)(*self._inputs), tuple(self._inputs), check_trace=False)
        tolerance = 1e-4 if self._dtype == torch.float32 else 1e-9
        same = (
            torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
            for ours, theirs in zip(recorded(*self._inputs), self._compute(*self._inputs))
        )
        return recorded if all(same) else None

    def _forget(self) -> None:
        """Of other shapes nothing has been recorded."""
        self._recorded: Optional[Callable[..., Any]] = None
        self._calls = 0


def frozen_models(members: Sequence[ForceField]) -> List[nn.Module]:
    """Models of runs, which give energies and forces and are never trained."""
    models: List[Any] = [member.new_model(exact=True).model for member in members]
    for model in models:
        use_torch_activations(model)
    return models


def on_device(models: Sequence[nn.Module], device: str, dtype: torch.dtype) -> Tuple[List[nn.Module], bool]:
    """Models with frozen weights on a device of torch, in one format; True if native kernels are in some there."""
    placed = [model.to(device, dtype).eval().requires_grad_(False) for model in models]
    on_cpu = placed if torch.device(device).type == "cpu" else []
    return placed, any([use_native_kernels(model, True, whole=True, frozen=True) for model in on_cpu])


def are_whole(models: Sequence[nn.Module]) -> bool:
    """True if one native kernel gives the energies and forces of each model, without autograd."""
    return all(isinstance(model, EnergyForces) and model.kernel is not None for model in models)


def check_can_run(accelerator: str, dtype: str, skin: float) -> None:
    """Refuse what cannot run here.

    Raises:
        ValueError: no such device or format, or a skin below 0.
    """
    check_device(accelerator, dtype)
    if not skin >= 0:
        raise ValueError(f"skin={skin}: give a length in Å, 0 or more.")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator=cuda, but torch sees no CUDA device; use cpu.")


@contextmanager
def own_threads(threads: int, atoms: int) -> Iterator[None]:
    """Inside, torch has so many threads; 0 is one for less than 200 atoms, else as many as it has."""
    before = torch.get_num_threads()
    wanted = threads or (1 if atoms < _SMALL else before)
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)
