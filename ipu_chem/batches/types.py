"""Batches that are transferred to the device: NamedTuples of tensors, whose order and shapes are compiled in."""

from functools import lru_cache
from typing import Any, NamedTuple, Tuple

import torch
from torch import Tensor


def inputs_of(batch: Any) -> Tuple[Tensor, ...]:
    """Inputs of the model, of a batch of any kind."""
    return tuple(batch[: first_target(batch)])


def targets_of(batch: Any) -> Tuple[Tensor, ...]:
    """Labels and weights, and those of forces where there are any: arguments of the loss behind the prediction."""
    return tuple(batch[first_target(batch) :])


def first_target(batch: Any) -> int:
    """Index of the first target among a batch's fields, counted from the end."""
    return -4 if "forces" in getattr(batch, "_fields", ()) else -2


class CompactPack(NamedTuple):
    """B packs of molecules side by side in as few bytes as possible: counts instead of masks.

    Molecules, atoms and edges fill their slots from the front; labels and weights come last in every kind of batch.
    """

    # inputs
    z: Tensor  # [B, N] uint8, atomic numbers
    pos: Tensor  # [B, N, 3] int16, steps from the middle of the molecule; or float32, Å
    graph_ends: Tensor  # [B, G] integer, atoms up to the end of each molecule; in padding those of the whole pack
    edge_index: Tensor  # [B, 2, E] integer in 0..N-1, row 0 source, row 1 target (PyG's order)
    num_edges: Tensor  # [B, 1] integer, real edges; padding follows them
    # targets
    y: Tensor  # [B, G, T] float, standardized targets
    weight: Tensor  # [B, G, T] float, 0 in padding and for missing labels; sums to 1 over an optimizer step

    @property
    def graph_mask(self) -> Tensor:
        """[B, G] bool, False in padding."""
        return _grows(self.graph_ends)

    inputs = property(inputs_of)
    targets = property(targets_of)


class CompactNodePack(NamedTuple):
    """A `CompactPack` without edges, for models that find them on the device (`ipu_chem.models.device_edges`)."""

    # inputs
    z: Tensor  # [B, N] uint8, atomic numbers
    pos: Tensor  # [B, N, 3] int16, steps from the middle of the molecule; or float32, Å
    graph_ends: Tensor  # [B, G] integer, atoms up to the end of each molecule; in padding those of the whole pack
    # targets
    y: Tensor  # [B, G, T] float, standardized targets
    weight: Tensor  # [B, G, T] float, 0 in padding and for missing labels; sums to 1 over an optimizer step

    @property
    def graph_mask(self) -> Tensor:
        """[B, G] bool, False in padding."""
        return _grows(self.graph_ends)

    inputs = property(inputs_of)
    targets = property(targets_of)


@lru_cache(maxsize=None)
def compact_kind(edges: bool = True, charges: bool = False, forces: bool = False) -> Any:
    """The kind of batch that a graph model needs: `CompactPack` or `CompactNodePack`, with more fields if asked for.

    Args:
        edges: from the host; else the device finds them.
        charges: of molecules, as inputs behind the others: charge [B, G] int8, e, and spin [B, G] uint8, unpaired
            electrons; 0 in padding.
        forces: as targets behind the others: forces [B, N, 3] float, standardized, 0 where unknown, and
            force_weight [B, N, 1] float, 0 in padding and where unknown; three times its sum over a step is 1.
    """
    plain: Any = CompactPack if edges else CompactNodePack
    if not charges and not forces:
        return plain
    fields = (
        plain._fields[:-2] + ("charge", "spin") * charges + plain._fields[-2:] + ("forces", "force_weight") * forces
    )
    kind: Any = NamedTuple(plain.__name__ + "Charge" * charges + "Force" * forces, [(name, Tensor) for name in fields])
    kind.inputs, kind.targets, kind.graph_mask = plain.inputs, plain.targets, plain.graph_mask
    return kind


class TokenPack(NamedTuple):
    """B packs of S tokens: molecules written as text one after the other, padding at the end of every pack.

    Neither masks nor boundaries travel: positions that start again at 0 say where a molecule begins, and what
    follows the last molecule comes too late to be seen by any (`ipu_chem.models.chemgpt`).
    """

    # inputs
    ids: Tensor  # [B, S] integer in 0..V-1, tokens
    position_ids: Tensor  # [B, S] integer, place of each token in its molecule, from 0; 0 in padding
    # targets
    labels: Tensor  # [B, S] integer in 0..V-1, the next token of the same molecule
    weight: Tensor  # [B, S] float, 0 in padding and on last tokens; sums to 1 over an optimizer step

    inputs = property(inputs_of)
    targets = property(targets_of)


class TextPropertyPack(NamedTuple):
    """B packs of S tokens with labels for each of at most M molecules, not for each token."""

    # inputs
    ids: Tensor  # [B, S] integer in 0..V-1, tokens
    position_ids: Tensor  # [B, S] integer, place of each token in its molecule, from 0; 0 in padding
    ends: Tensor  # [B, M] integer, tokens up to the end of each molecule; in padding those of the whole pack
    # targets
    y: Tensor  # [B, M, T] float, standardized targets
    weight: Tensor  # [B, M, T] float, 0 in padding and for missing labels; sums to 1 over an optimizer step

    @property
    def graph_mask(self) -> Tensor:
        """[B, M] bool, False in padding; by the name that packs of graphs have for it."""
        return _grows(self.ends)

    inputs = property(inputs_of)
    targets = property(targets_of)


def _grows(ends: Tensor) -> Tensor:
    """True where a value of [B, G] is larger than the one before it, or than 0 at the first; bool."""
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    return ends > before
