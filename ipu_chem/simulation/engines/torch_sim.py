"""A trained run as a model of torch-sim, which moves many molecules at once: they are one pack without padding."""

from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from ipu_chem.backends.pytorch.kernels.choice import use_native_kernels
from ipu_chem.backends.pytorch.kernels.fused import use_torch_activations
from ipu_chem.backends.pytorch.numerics import denormals_flushed
from ipu_chem.data.checks import check_atoms
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.models.base import Graph
from ipu_chem.models.registry import needs_charge
from ipu_chem.simulation.batch import Runs, load_force_fields
from ipu_chem.trained_run import ForceField
from packing.types import Ragged

try:
    from torch_sim.models.interface import ModelInterface
except ImportError:
    raise ImportError("torch-sim is not installed; on Python 3.11 or later: pip install torch-sim-atomistic") from None


class TorchSimModel(ModelInterface):
    """Energies and forces of free molecules by one run, or the means of several, whose spread comes along."""

    def __init__(
        self,
        members: Sequence[ForceField],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
    ) -> None:
        """Get ready.

        Args:
            members: one force field, or several of the same architecture.
            device: of torch; the CPU if None.
            dtype: of weights, positions and results; float32 leaves few digits to the total energies of molecules.
            skin: Å, by which pairs that are kept may exceed the cutoff; see `Calculator`.

        Raises:
            ValueError: the model takes charges, which torch-sim does not hand over, or a skin below 0.
        """
        super().__init__()
        options: Any = members[0].config.model
        name = options.name
        if needs_charge(name):
            raise ValueError(
                f"{name} takes charges of molecules, which states of torch-sim do not have; use "
                "ipu_chem.simulation.calculator.Calculator with ASE."
            )
        if not skin >= 0:
            raise ValueError(f"skin={skin}: give a length in Å, 0 or more.")
        self._device, self._dtype = torch.device(device or "cpu"), dtype
        self._compute_forces, self._compute_stress = True, False
        self._memory_scales_with = "n_atoms"  # free molecules have no density
        self._members, self._skin, self._cutoff = list(members), skin, options.cutoff
        models: Any = [member.new_model(exact=True).model for member in members]
        for model in models:
            use_torch_activations(model)
        self._models = torch.nn.ModuleList(models).to(self._device, dtype).eval().requires_grad_(False)
        if self._device.type == "cpu":
            use_native_kernels(self._models, differentiates=True, whole=True, frozen=True)
        self._scales = torch.tensor([one.scale for one in members], dtype=torch.float64, device=self._device)
        self._z = self._system = torch.zeros(0, dtype=torch.int64, device=self._device)
        self._built_at = torch.zeros((0, 3), dtype=dtype, device=self._device)

    @classmethod
    def from_run(cls, runs: Runs, *options: Any, **named: Any) -> "TorchSimModel":
        """The model of a run's folder, or of several runs' folders; other arguments as of the class."""
        return cls(load_force_fields(runs), *options, **named)

    def forward(self, state: Any, **kwargs: Any) -> Dict[str, Tensor]:
        """Compute "energy" [I], eV, and "forces" [N, 3], eV/Å, of a SimState or a dictionary of its values.

        Raises:
            ValueError: periodic or charged systems, an element or a place that the model cannot have learned.
        """
        values = state if isinstance(state, dict) else vars(state)
        for key, remedy in (("pbc", "pbc=False"), ("charge", "charge=0")):
            given = values.get(key)
            if given is not None and torch.as_tensor(given).any():
                raise ValueError(f"states have a {key} ({given}), but the run knows free, neutral molecules: {remedy}.")
        z, positions = values["atomic_numbers"].long(), values["positions"].detach().to(self._dtype)
        system = values.get("system_idx")
        system = torch.zeros_like(z) if system is None else system.long()
        order = None
        if bool((system[1:] < system[:-1]).any()):  # atoms of a system lie side by side in a pack
            order = torch.argsort(system, stable=True)
            z, system, positions = z[order], system[order], positions[order]
        self._prepare(z, system, positions)
        # From the middle: far from the origin float32 would have no digits left for bonds.
        sums = positions.new_zeros((len(self._counts), 3)).index_add_(0, system, positions)
        graph = self._graph._replace(pos=(positions - (sums / self._counts)[system])[None])
        with torch.no_grad(), denormals_flushed(self._device.type == "cpu"):
            found = [model(graph) for model in self._models]
        energies = torch.stack([energy.reshape(-1) for energy, _ in found]).double() * self._scales[:, None]
        forces = torch.stack([force[0] for _, force in found]).double() * self._scales[:, None, None]
        if order is not None:
            forces = torch.empty_like(forces).index_copy_(1, order, forces)
        means = {"energy": (energies + self._offsets).mean(0), "forces": forces.mean(0)}
        if len(found) > 1:
            means["energy_std"] = (energies + self._offsets).std(0, unbiased=False)
            means["forces_std"] = forces.std(0, unbiased=False)
        return {name: value.to(self._dtype) for name, value in means.items()}

    def _prepare(self, z: Tensor, system: Tensor, positions: Tensor) -> None:
        """Everything about other molecules, and pairs of other places."""
        same = torch.equal(z, self._z) and torch.equal(system, self._system)
        # A coordinate that is no number compares as False, and is refused below.
        if same and bool((positions - self._built_at).square().sum(1).max() <= (self._skin / 2) ** 2):
            return
        numbers, places = z.cpu().numpy(), positions.double().cpu().numpy()
        offsets = np.concatenate([[0], np.bincount(system.cpu().numpy()).cumsum()])
        check_atoms(numbers, places, offsets, [f"system {item}" for item in range(len(offsets) - 1)])
        if not same:
            self._take(z, system, Ragged(numbers.astype(np.uint8), offsets))
        found = radius_pairs(places, offsets, self._cutoff + self._skin)
        # Indices count in the pack; there is at least one slot, which may be empty.
        pairs = found.values.astype(np.int64) + np.repeat(offsets[:-1], np.diff(found.offsets))[:, None]
        edges = np.zeros((1, 2, max(len(pairs), 1)), np.int64)
        edges[0, :, : len(pairs)] = pairs.T
        real = torch.full((1, edges.shape[2]), bool(len(pairs)), device=self._device)
        self._graph = self._graph._replace(edge_index=torch.from_numpy(edges).to(self._device), edge_mask=real)
        self._built_at = positions.clone()

    def _take(self, z: Tensor, system: Tensor, molecules: Ragged) -> None:
        """Check elements and keep what positions do not change."""
        for item in range(len(molecules)):
            for member in self._members:
                member.check_elements(molecules[item], f"system {item}")
        self._z, self._system = z.clone(), system.clone()
        atoms = torch.ones_like(z, dtype=torch.bool)[None]
        graphs = torch.ones((1, len(molecules)), dtype=torch.bool, device=self._device)
        nothing = torch.zeros((1, 2, 0), dtype=torch.int64)  # pairs and positions follow
        self._graph = Graph(self._z[None], nothing, self._system[None], nothing, atoms, atoms[:, :0], graphs)
        self._counts = torch.bincount(system)[:, None]
        offsets = np.stack([member.offsets(molecules) for member in self._members])
        self._offsets = torch.from_numpy(offsets).to(self._device)
