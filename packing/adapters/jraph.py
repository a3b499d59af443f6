"""Planned batches for jraph, in place of its `dynamically_batch`, with the same arguments and padding.

for batch in dynamically_batch(graphs, n_node=128, n_edge=2304, n_graph=16): ...
"""

from importlib import import_module
from typing import Any, Iterator, List, Sequence

import numpy as np

from packing.adapters.torch import PackBatchSampler
from packing.checks import whole
from packing.types import Budget


def dynamically_batch(
    graphs: Sequence[Any], n_node: int, n_edge: int, n_graph: int, **options: Any
) -> "PlannedBatches":
    """Batches of a list of `GraphsTuple`: see `PlannedBatches`."""
    return PlannedBatches(graphs, n_node, n_edge, n_graph, **options)


class PlannedBatches:
    """Padded `GraphsTuple` of constant shape, as few as possible, every graph in one of them.

    As in jraph, the first graph of padding has all nodes and edges that are left over, at least one node, and further
    ones are empty; `jraph.get_graph_padding_mask` and the others find them.

    Attributes:
        sampler: of the items of batches; has `set_epoch`, `state_dict` and `load_state_dict`.
    """

    def __init__(self, graphs: Sequence[Any], n_node: int, n_edge: int, n_graph: int, **options: Any) -> None:
        """Make the plan.

        Args:
            graphs: of `GraphsTuple`, kept.
            n_node: nodes of a batch, at least those of the largest graph and one.
            n_edge: edges of a batch.
            n_graph: graphs of a batch, at least 2.
            options: see `packing.adapters.torch.PackBatchSampler`, such as shuffle, seed, rank and world.

        Raises:
            ValueError: a number is too small, a graph is larger than a batch, or the graphs are a stream.
        """
        n_node, n_edge, n_graph = (
            whole(name, value) for name, value in (("n_node", n_node), ("n_edge", n_edge), ("n_graph", n_graph))
        )
        if n_graph < 2 or n_node < 2:
            raise ValueError(
                f"n_node={n_node}, n_edge={n_edge}, n_graph={n_graph}: padding takes a node and a graph, "
                "so the least are 2, 0 and 2."
            )
        if not hasattr(graphs, "__len__"):
            raise ValueError(
                f"{type(graphs).__name__} is read once, and a plan needs all sizes; give list(graphs), or pack a "
                "stream with packing.streaming.StreamPacker."
            )
        _check(graphs)
        self.graphs, self.shape = graphs, (n_node, n_edge, n_graph)
        sizes = {
            "nodes": np.array([int(np.sum(graph.n_node)) for graph in graphs], np.int64),
            "edges": np.array([int(np.sum(graph.n_edge)) for graph in graphs], np.int64),
        }
        counts = np.array([len(graph.n_node) for graph in graphs], np.int64)
        budget = Budget(nodes=n_node - 1, edges=max(n_edge, 1), graphs=n_graph - 1)
        if n_edge == 0 and sizes["edges"].any():
            raise ValueError(f"n_edge=0, and graph {int(sizes['edges'].argmax())} has edges.")
        if (counts > 1).any():  # batches as items
            sizes["members"] = counts
            budget = Budget(nodes=n_node - 1, edges=max(n_edge, 1), members=n_graph - 1)
        largest = sizes["nodes"].max(initial=0), sizes["edges"].max(initial=0), counts.max(initial=0)
        if options.get("oversize", "error") == "error" and any(
            most > limit for most, limit in zip(largest, (n_node - 1, n_edge, n_graph - 1))
        ):
            raise ValueError(
                f"the largest graphs have {largest[0]} nodes and {largest[1]} edges, and padding takes a node and a "
                f"graph; n_node={max(n_node, largest[0] + 1)}, n_edge={max(n_edge, largest[1])}, "
                f"n_graph={max(n_graph, largest[2] + 1)} hold every graph, oversize='skip' leaves larger ones out."
            )
        self.sampler = PackBatchSampler(sizes, budget, **options)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        return map(self._batch, self.sampler)

    def _batch(self, items: List[int]) -> Any:
        jraph: Any = import_module("jraph")
        return jraph.pad_with_graphs(jraph.batch_np([self.graphs[item] for item in items]), *self.shape)


def _check(graphs: Sequence[Any]) -> None:
    """Refuse graphs that cannot be batched together."""
    for number, graph in enumerate(graphs):
        if not hasattr(graph, "n_node") or not hasattr(graph, "n_edge"):
            raise ValueError(f"graph {number} is a {type(graph).__name__}; give jraph.GraphsTuple.")
        for name in ("nodes", "edges", "globals"):
            if (getattr(graph, name) is None) != (getattr(graphs[0], name) is None):
                raise ValueError(f"graph {number} and graph 0 differ in having {name}; give {name} to all or to none.")
