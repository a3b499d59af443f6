"""SchNet as people train it: PyTorch Geometric's, on batches of four kinds."""

from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor

from packing import Budget, make_plan
from packing.store import Store

SLOTS = 28  # neighbors of an atom that the study's model looks for


class Pyg:
    """torch_geometric.nn.SchNet with Adam; edges come with the batch, or are looked for by a function."""

    def __init__(self, sizes: Dict[str, Any], seed: int, flush: bool) -> None:
        """Draw weights.

        Args:
            sizes: hidden_features, num_filters, num_interactions, num_gaussians, cutoff.
            seed: of the weights.
            flush: take denormal numbers as 0 while training.
        """
        from torch_geometric.nn import SchNet

        torch.manual_seed(seed)
        self.flush = flush
        self.search: Callable[[Tensor], Tuple[Tensor, Tensor]] = self._given
        self._edges = torch.zeros((2, 0), dtype=torch.int64)
        self.model = SchNet(
            hidden_channels=sizes["hidden_features"],
            num_filters=sizes["num_filters"],
            num_interactions=sizes["num_interactions"],
            num_gaussians=sizes["num_gaussians"],
            cutoff=sizes["cutoff"],
            interaction_graph=lambda pos, batch: self.search(pos),
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)

    def step(self, batch: Any, real: int) -> float:
        """Train on a batch whose first ``real`` graphs count; returns the loss."""
        torch.set_flush_denormal(self.flush)
        self._edges = batch.edge_index
        self.optimizer.zero_grad()
        out = self.model(batch.z, batch.pos, batch.batch)[:, 0]
        loss = ((out - batch.y) ** 2 * batch.weight).sum() / real
        loss.backward()
        self.optimizer.step()
        torch.set_flush_denormal(False)
        return float(loss.detach())

    def _given(self, pos: Tensor) -> Tuple[Tensor, Tensor]:
        source, target = self._edges
        return self._edges, (pos[source] - pos[target]).norm(dim=-1)


def graphs(store: Store) -> List[Any]:
    """Every molecule as PyTorch Geometric's Data, edges in both directions."""
    from torch_geometric.data import Data

    z, pos, edges = store.ragged("z"), store.ragged("pos"), store.ragged("edge_index")
    return [
        Data(
            z=torch.from_numpy(z[item].astype(np.int64)),
            pos=torch.from_numpy(pos[item].copy()),
            edge_index=torch.from_numpy(edges[item].T.astype(np.int64)).contiguous(),
            y=torch.tensor([store.fields["y"][item, 0]], dtype=torch.float32),
            weight=torch.ones(1),
        )
        for item in range(len(store))
    ]


def dynamic(store: Store, size: int) -> Iterator[Tuple[Any, int]]:
    """Batches of a shuffling DataLoader for ever, each with its number of molecules."""
    from torch_geometric.loader import DataLoader

    loader = DataLoader(graphs(store), size, shuffle=True, drop_last=True)
    while True:
        for batch in loader:
            yield batch, size


def padded(store: Store, size: int) -> Iterator[Tuple[Any, int]]:
    """The same molecules, each filled up to the largest with atoms and edges that are worked on like all others."""
    from torch_geometric.data import Batch

    sizes = store.sizes()
    nodes, edges = int(sizes["nodes"].max()), int(sizes["edges"].max())
    filled = []
    for data in graphs(store):
        atoms, missing = len(data.z), edges - data.edge_index.shape[1]
        data.z = torch.cat([data.z, data.z.new_zeros(nodes - atoms)])
        data.pos = torch.cat([data.pos, data.pos.new_zeros(nodes - atoms, 3)])
        data.edge_index = torch.cat([data.edge_index, torch.full((2, missing), nodes - 1)], 1)
        filled.append(data)
    return _forever(
        [(Batch.from_data_list(filled[i : i + size]), size) for i in range(0, len(filled) - size + 1, size)]
    )


def packed_with_search(store: Store, size: int, nodes: int, cutoff: float, model: Pyg) -> Iterator[Tuple[Any, int]]:
    """Packs as the study has them: the model looks for every atom's nearest, over the distances of a whole batch."""
    from torch_geometric.data import Batch, Data

    plan = make_plan({"nodes": store.sizes()["nodes"]}, Budget(nodes=nodes), "best_fit")
    order, z, pos = plan.epoch(0, 0), store.ragged("z"), store.ragged("pos")
    per_pack = len(order.items) / len(order)
    packs = max(round(size / per_pack), 1)
    batches = []
    for first in range(0, len(order) - packs + 1, packs):
        items, offsets = order.slice(first, first + packs)
        filled, graph = [], 0
        atoms, places, owner = (torch.zeros(packs * nodes, dtype=d) for d in (torch.int64, torch.float32, torch.int64))
        places = torch.zeros(packs * nodes, 3)
        owner[:] = len(items)  # padding is a molecule of its own
        for pack in range(packs):
            slot = pack * nodes
            for item in items[offsets[pack] : offsets[pack + 1]].tolist():
                here = slice(slot, slot + len(z[item]))
                atoms[here], places[here] = torch.from_numpy(z[item].astype(np.int64)), torch.from_numpy(pos[item])
                owner[here], slot, graph = graph, here.stop, graph + 1
        filled.append(Data(z=atoms, pos=places))
        batch = Batch.from_data_list(filled)
        batch.batch = owner
        batch.edge_index = torch.zeros((2, 0), dtype=torch.int64)
        labels = store.fields["y"][items, 0].astype(np.float32)
        batch.y = torch.cat([torch.from_numpy(labels), torch.zeros(1)])
        batch.weight = torch.cat([torch.ones(len(items)), torch.zeros(1)])
        batches.append((batch, len(items)))
    current: Dict[str, Tensor] = {}

    def search(pos: Tensor) -> Tuple[Tensor, Tensor]:
        owner, count = current["owner"], len(pos)
        distance = torch.cdist(pos, pos)
        apart = (owner.unsqueeze(1) != owner.unsqueeze(0)) | torch.eye(count, dtype=torch.bool)
        distance = distance.masked_fill(apart | (distance > cutoff), cutoff)
        nearest, source = distance.topk(SLOTS, largest=False)
        target = torch.arange(count).unsqueeze(1).expand_as(source)
        return torch.stack([source.reshape(-1), target.reshape(-1)]), nearest.reshape(-1)

    model.search = search
    for batch, real in _forever(batches):
        current["owner"] = batch.batch
        yield batch, real


def _forever(batches: List[Tuple[Any, int]]) -> Iterator[Tuple[Any, int]]:
    while True:
        yield from batches
