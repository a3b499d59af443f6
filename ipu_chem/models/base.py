"""The contract of graph models: the graph that they take, the prediction that they give, and what they declare.

`tests/contracts/graph_model.py` tests every model against it, and may test those of other projects.
"""

from typing import Any, ClassVar, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import as_index, flat_index, keep, take_rows
from ipu_chem.ranges import check_number


class Graph(NamedTuple):
    """B packs of molecules side by side, of N node, E edge and G graph slots each; every index counts in its own pack.

    Masks are False in padding, where the other fields may hold anything, NaN and indices out of range included.
    """

    z: Tensor  # [B, N] integer, atomic numbers
    pos: Tensor  # [B, N, 3] float, Å
    graph_index: Tensor  # [B, N] integer in 0..G-1, molecule of each atom
    edge_index: Tensor  # [B, 2, E] integer in 0..N-1, row 0 source, row 1 target (PyG's order)
    node_mask: Tensor  # [B, N] bool
    edge_mask: Tensor  # [B, E] bool
    graph_mask: Tensor  # [B, G] bool
    charge: Optional[Tensor] = None  # [B, G] integer, e; charge and spin are for models with `needs_charge` alone
    spin: Optional[Tensor] = None  # [B, G] integer, unpaired electrons: 0 for a singlet, 1 for a doublet


def zero_padded(graph: Graph) -> Graph:
    """The graph with zeros wherever padding was, and indices in the width in which the device indexes."""
    z, pos, graph_index, edge_index, node_mask, edge_mask, graph_mask, charge, spin = graph
    return Graph(
        keep(as_index(z), node_mask),
        keep(pos, node_mask.unsqueeze(-1)),
        keep(as_index(graph_index), node_mask),
        keep(as_index(edge_index), edge_mask.unsqueeze(1)),
        node_mask,
        edge_mask,
        graph_mask,
        None if charge is None else keep(charge.to(torch.int32), graph_mask),
        None if spin is None else keep(spin.to(torch.int32), graph_mask),
    )


def edge_vectors(graph: Graph) -> Tuple[Tensor, Tensor, Tensor]:
    """Edges of all packs in one list.

    Args:
        graph: as `zero_padded` gives it.

    Returns:
        Source and target [B * E] in 0..B * N - 1, and the vectors from one to the other [B * E, 3], Å.
    """
    source, target = (flat_index(ends, graph.pos.shape[1]) for ends in graph.edge_index.unbind(1))
    pos = graph.pos.reshape(-1, 3)
    return source, target, take_rows(pos, target) - take_rows(pos, source)


def lengths(vectors: Tensor) -> Tensor:
    """[..., 3] -> [...], never exactly 0, where the root has no derivative."""
    return torch.sqrt((vectors * vectors).sum(-1) + 1e-12)


class Model(nn.Module):
    """A model with the declarations that every model has."""

    def blocks(self) -> List[str]:
        """Names of the submodules at which a pipeline may be cut, in the order of execution; none by default."""
        return []

    def learning_rate_multipliers(self) -> Dict[str, float]:
        """Factors of Adam's learning rate by parameter name; 1 for those that are not named."""
        return {}


def blocks_of(model: nn.Module) -> List[str]:
    """`Model.blocks`; none of modules that declare nothing."""
    return model.blocks() if isinstance(model, Model) else []


class GraphModel(Model):
    """A model that predicts T numbers for each molecule of a `Graph`.

    Attributes:
        needs_charge: it takes charge and spin of molecules.
        finds_edges: it takes graphs whose edge_index and edge_mask are None.
        differentiates: its forward takes derivatives, so operators inside need derivatives of derivatives.
        usual_filter: which of `ipu_chem.models.tables.FILTERS` is faster, for models with the parameter ``filter``.
    """

    needs_charge: bool = False
    finds_edges: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False
    usual_filter: ClassVar[str] = "exact"

    def forward(self, graph: Graph) -> Any:
        """Predict [B, G, T], exactly 0 in padding; `EnergyForces` adds forces."""
        raise NotImplementedError

    def prepare(self, graph: Graph) -> Tuple[Any, ...]:
        """The part of `forward` that takes no weights; compilers keep it apart from `from_prepared`, the rest."""
        return graph

    def from_prepared(self, *prepared: Any) -> Any:
        """Predict as `forward` does, from what `prepare` has made."""
        return self(Graph(*prepared))

    @classmethod
    def added_energies(cls, **options: Any) -> Tuple[str, ...]:
        """Options, of those of the constructor, that let it add energies in eV to what it learns.

        A model that has any takes ``energy_scale``, the eV that a prediction of 1 means.
        """
        return ()

    @classmethod
    def check_elements(cls, elements: Iterable[int], **options: Any) -> None:
        """Refuse atomic numbers that a model of these options has no constants for.

        Raises:
            ValueError: names them, and what to do.
        """


def check_readout_and_cutoff(readout: str, cutoff: float, more: Sequence[str] = ()) -> None:
    """Refuse values of two options that graph models share.

    Args:
        readout: how atoms make up a molecule.
        cutoff: Å.
        more: readouts of the model beside sum and mean.

    Raises:
        ValueError: unknown readout, or no length.
    """
    known = ("sum", "mean", *more)
    if readout not in known:
        raise ValueError(f"readout={readout!r}: choose {', '.join(map(repr, known[:-1]))} or {known[-1]!r}.")
    check_number("cutoff", cutoff, "above 0")
