"""The contract of graph models notices models that break it, and passes the one that they are made from."""

from typing import Any, Tuple

import pytest
import torch
from torch import Tensor, nn

from contracts.graph_model import Form, GraphModelContract
from ipu_chem.models.base import Graph, GraphModel, edge_vectors, lengths, zero_padded
from ipu_chem.models.layers import Silu, at_least_float32, cosine_cutoff, read_out, sum_into, take_rows


class Sound(GraphModel):
    """Sums over atoms of what they and their neighbors are."""

    def __init__(self, undirected: bool = False) -> None:
        super().__init__()
        self.undirected = undirected
        self.embedding = nn.Embedding(100, 6)
        self.filter = nn.Linear(1, 6)
        self.head = nn.Sequential(Silu(), nn.Linear(6, 1))

    def blocks(self) -> Any:
        return ["embedding", "filter", "head"]

    def atoms(self, graph: Graph) -> Tensor:
        source, target, vectors = edge_vectors(graph)
        x = self.embedding(graph.z.reshape(-1))
        if self.undirected:
            source, target = torch.cat([source, target]), torch.cat([target, source])
        sent = take_rows(x, source) * self.filters(graph, self.distance(vectors), x.dtype)
        return at_least_float32(self.head(x + sum_into(sent, target, x.shape[0])))

    def distance(self, vectors: Tensor) -> Tensor:
        return lengths(vectors)

    def filters(self, graph: Graph, distance: Tensor, dtype: torch.dtype) -> Tensor:
        near = (cosine_cutoff(distance, 4.0) * graph.edge_mask.reshape(-1)).to(dtype).unsqueeze(1)
        filters = self.filter(distance.to(dtype).unsqueeze(1)) * near
        return torch.cat([filters, filters]) if self.undirected else filters

    def forward(self, graph: Graph) -> Tensor:
        graph = zero_padded(graph)
        return read_out(self.atoms(graph), graph.graph_index, graph.node_mask, graph.graph_mask, mean=False)


class MeanOverSlots(Sound):
    def forward(self, graph: Graph) -> Tensor:
        return super().forward(graph) / graph.z.shape[1]


class SeesPadding(Sound):
    def forward(self, graph: Graph) -> Tensor:
        return super().forward(graph) + 0.0 * graph.pos.sum()


class PredictsPadding(Sound):
    def forward(self, graph: Graph) -> Tensor:
        return super().forward(graph) + 1.0


class DividesByNothing(Sound):
    def forward(self, graph: Graph) -> Tensor:
        return super().forward(graph) / graph.node_mask.sum()


class SeesTheWholePack(Sound):
    def atoms(self, graph: Graph) -> Tensor:
        return super().atoms(graph) * (1.0 + 1e-4 * graph.z.sum())


class AbsolutePositions(Sound):
    def atoms(self, graph: Graph) -> Tensor:
        return super().atoms(graph) + 0.1 * at_least_float32(graph.pos.reshape(-1, 3)).sum(1, keepdim=True)


class PushesItself(Sound):
    """The energy falls with the distance to the origin: forces of a molecule do not add up to nothing."""

    def atoms(self, graph: Graph) -> Tensor:
        return super().atoms(graph) + 0.1 * lengths(graph.pos.reshape(-1, 3)).unsqueeze(1)


class CountsAtoms(Sound):
    def atoms(self, graph: Graph) -> Tensor:
        place = torch.arange(graph.z.numel(), device=graph.z.device).unsqueeze(1) % graph.z.shape[1]
        return super().atoms(graph) * (1.0 + 0.1 * place)


class ConstantDistances(Sound):
    def distance(self, vectors: Tensor) -> Tensor:
        return 0.5 * lengths(vectors) + 0.5 * lengths(vectors).detach()


class ConstantWeights(Sound):
    def filters(self, graph: Graph, distance: Tensor, dtype: torch.dtype) -> Tensor:
        weight = self.filter.weight
        self.filter.weight = nn.Parameter(weight.detach())
        filters = super().filters(graph, distance, dtype)
        self.filter.weight = weight
        return filters


class OneWay(Sound):
    def __init__(self, undirected: bool = False) -> None:
        super().__init__()


class Rounded(Sound):
    def forward(self, graph: Graph) -> Tensor:
        return super().forward(graph).float().to(graph.pos.dtype)


class SumsIn16Bits(Sound):
    def atoms(self, graph: Graph) -> Tensor:
        return super().atoms(graph).to(self.embedding.weight.dtype)


class ShapesFollowContents(Sound):
    def atoms(self, graph: Graph) -> Tensor:
        atoms = super().atoms(graph)
        return atoms + atoms[graph.node_mask.reshape(-1)].sum() * 0.0


class Tanh(Sound):
    def __init__(self, undirected: bool = False) -> None:
        super().__init__(undirected)
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(6, 1))


class KeptNowhere(Sound):
    def __init__(self, undirected: bool = False) -> None:
        super().__init__(undirected)
        self.scale = torch.randn(()).double()

    def atoms(self, graph: Graph) -> Tensor:
        return super().atoms(graph) * self.scale.to(self.embedding.weight.dtype)


class BlocksInDisorder(Sound):
    def blocks(self) -> Any:
        return ["filter", "embedding", "head"]


contract = GraphModelContract()
BROKEN: Tuple[Tuple[Any, Any, Tuple[Any, ...]], ...] = (
    (MeanOverSlots, contract.test_a_pack_equals_its_molecules_one_by_one, ()),
    (SeesPadding, contract.test_garbage_in_padding_changes_no_bit, (torch.float64,)),
    (PredictsPadding, contract.test_garbage_in_padding_changes_no_bit, (torch.float64,)),
    (SeesTheWholePack, contract.test_a_pack_equals_its_molecules_one_by_one, ()),
    (SeesTheWholePack, contract.test_molecules_do_not_see_each_other, ()),
    (SeesTheWholePack, contract.test_forces_of_an_energy_and_their_gradients_in_packs_equal_those_one_by_one, ()),
    (DividesByNothing, contract.test_an_empty_pack_gives_zero_loss_and_zero_gradients, ()),
    (AbsolutePositions, contract.test_predictions_stay_when_molecules_turn_and_move, (False,)),
    (PushesItself, contract.test_forces_of_an_energy_turn_with_the_molecule_and_add_up_to_nothing, (False,)),
    (CountsAtoms, contract.test_the_order_of_atoms_and_edges_does_not_matter, ()),
    (ConstantDistances, contract.test_forces_of_an_energy_are_its_derivatives, ()),
    (ConstantWeights, contract.test_gradients_by_weights_are_derivatives, ()),
    (OneWay, contract.test_pairs_work_as_edges_in_both_directions, ()),
    (Rounded, contract.test_forces_of_an_energy_are_its_derivatives, ()),
    (SumsIn16Bits, contract.test_weights_of_16_bits_give_nearly_the_same, ()),
    (ShapesFollowContents, contract.test_every_operator_has_a_poptorch_handler, ("float32",)),
    (Tanh, contract.test_so_has_every_operator_of_forces_of_an_energy, ("float32",)),
    (KeptNowhere, contract.test_weights_are_saved_and_loaded, ()),
    (BlocksInDisorder, contract.test_blocks_run_in_their_order, ()),
)


def form_of(model: Any) -> Form:
    (plain, *_) = contract.forms(f"{__name__}:{model.__name__}")
    return plain


@pytest.mark.parametrize("model, test, arguments", BROKEN)
def test_a_broken_model_is_caught(model: Any, test: Any, arguments: Tuple[Any, ...]) -> None:
    test(form_of(Sound), *arguments)
    with pytest.raises(AssertionError):
        test(form_of(model), *arguments)
