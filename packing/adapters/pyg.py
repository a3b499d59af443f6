"""Packs for PyTorch Geometric: a batch sampler for its data sets, and batches of constant shape.

    loader = fixed_size_loader(dataset, Budget(nodes=126, edges=2304), seed=0)

which is

    sampler = PackBatchSampler(dataset, Budget(nodes=126, edges=2304), seed=0)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, collate_fn=fixed_size_collate(sampler.budget)
    )

PyTorch Geometric's own DataLoader takes the sampler, too, but silently drops a `collate_fn`.
"""

import inspect
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from packing.adapters.torch import PackBatchSampler as _PackBatchSampler
from packing.checks import budget_of
from packing.types import Budget

# Of two padding nodes: no length there is 0, whose derivatives are not finite, and none is within a cutoff.
_SPACING, _SIDE = 1000.0, 32
# Names that PyTorch Geometric takes for those of nodes, beside everything with "node" in it, and molecules' own.
_NODE_NAMES = ("x", "pos", "z", "batch", "ptr", "features", "force", "forces")
_MASKS = ("nodes_mask", "edges_mask", "graphs_mask")
PadValue = Union[float, Mapping[str, float]]


class PackBatchSampler(_PackBatchSampler):
    """Batches of one pack each, of a list of `Data` or a data set, whose sizes are read once: see `adapters.torch`."""

    def __init__(self, dataset: Sequence[Any], budget: Budget, **options: Any) -> None:
        """Read the sizes and make the plan.

        Args:
            dataset: of `Data`; kept, to notice that its length changes.
            budget: measures nodes, and edges where batches are to be of constant shape.
            options: see `packing.adapters.torch.PackBatchSampler`.

        Raises:
            ValueError: sizes cannot be read; see `graph_sizes` and the base class.
        """
        sizes = None if options.get("plan") is not None else graph_sizes(dataset, budget_of(budget).measured)
        super().__init__(sizes, budget, **options)
        self.dataset = dataset

    def __iter__(self) -> Iterator[List[int]]:
        found, planned = len(self.dataset), len(self.plan.sizes)
        if found != planned:
            raise ValueError(
                f"the data set has {found:,} graphs and had {planned:,} when its sizes were read; make the sampler "
                "anew."
            )
        self._meet_shards()
        return super().__iter__()


def graph_sizes(dataset: Sequence[Any], names: Sequence[str] = ("nodes", "edges")) -> Dict[str, np.ndarray]:
    """Nodes and edges of every graph, name -> [I] int64.

    Of an `InMemoryDataset` without a transform they are taken from its slices; else every graph is read once.

    Raises:
        ValueError: an item has no such number, or a name is neither nodes nor edges.
    """
    unknown = [name for name in names if name not in ("nodes", "edges")]
    if unknown:
        raise ValueError(f"graphs of PyTorch Geometric have nodes and edges, and the budget measures {unknown[0]}.")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"{type(dataset).__name__} cannot be indexed, so its graphs cannot be planned; give a list or a data set, "
            "or pack a stream with packing.streaming.StreamPacker."
        )
    whole, part = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if whole is not None and part is not None and not callable(part):  # torch's Subset
        return {name: column[np.asarray(part)] for name, column in graph_sizes(whole, names).items()}
    sliced = {name: _from_slices(dataset, name) for name in names}
    missing = [name for name, column in sliced.items() if column is None]
    read = {name: np.zeros(len(dataset), np.int64) for name in missing}
    for index in range(len(dataset)) if missing else ():
        item = dataset[index]
        for name in missing:
            count = getattr(item, f"num_{name}", None)
            if not isinstance(count, int):
                raise ValueError(
                    f"item {index} of the data set ({type(item).__name__}) has no num_{name}; give Data of "
                    "torch_geometric, or sizes to packing.adapters.torch.PackBatchSampler."
                )
            read[name][index] = count
    return {name: read[name] if column is None else column for name, column in sliced.items()}


def _from_slices(dataset: Any, name: str) -> Optional[np.ndarray]:
    """Sizes from the table of an `InMemoryDataset`, None where it does not say them."""
    slices = getattr(dataset, "slices", None)
    if not slices or getattr(dataset, "transform", None) is not None or not len(dataset):
        return None
    for key in ("x", "pos", "z") if name == "nodes" else ("edge_index", "edge_attr"):
        if key in slices:
            column = np.diff(np.asarray(slices[key]))[np.asarray(dataset.indices(), np.int64)]
            some = sorted({0, len(column) // 2, len(column) - 1})
            if all(getattr(dataset[index], f"num_{name}") == column[index] for index in some):
                return column.astype(np.int64)
    return None


def fixed_size_loader(dataset: Sequence[Any], budget: Budget, **options: Any) -> Any:
    """DataLoader of torch over batches of one pack and one shape; its ``batch_sampler`` is a `PackBatchSampler`.

    Args:
        dataset: of `Data`.
        budget: measures nodes and edges.
        options: of `PackBatchSampler`, of `FixedSizeCollater` and of torch's DataLoader, such as num_workers.

    Raises:
        ValueError: see there.
    """
    from torch.utils.data import DataLoader

    def taken_by(function: Any) -> Dict[str, Any]:
        return {name: options.pop(name) for name in inspect.signature(function).parameters if name in options}

    sampler = PackBatchSampler(dataset, budget, **taken_by(_PackBatchSampler))
    collate = fixed_size_collate(sampler.budget, **taken_by(FixedSizeCollater))
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **options)


def fixed_size_collate(budget: Budget, **options: Any) -> "FixedSizeCollater":
    """Collate function for torch's DataLoader: see `FixedSizeCollater`."""
    return FixedSizeCollater(budget, **options)


class FixedSizeCollater:
    """Lists of `Data` as a `Batch` of constant shape.

    The batch has two nodes and one graph more than the budget, so that padding has an edge and a graph of its own even
    in a full pack: padding comes last, its edges lead from its first node to its second, all its nodes are of the very
    last graph, so that models which count graphs by the largest index of ``batch`` find them all, and graphs between
    are empty. ``nodes_mask``, ``edges_mask`` and ``graphs_mask`` are true for what is real. In ``pos`` nodes of padding
    are 1000 apart: models divide by lengths of edges and differentiate their roots, and of a length of 0 the gradients
    of all weights would be nan.

    Attributes of nodes, edges and graphs are distinguished by their sizes, over a whole pack.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        node_pad_value: PadValue = 0.0,
        edge_pad_value: PadValue = 0.0,
        graph_pad_value: PadValue = 0.0,
        pad_graph_defaults: Optional[Mapping[str, Any]] = None,
        levels: Optional[Mapping[str, str]] = None,
        follow_batch: Optional[List[str]] = None,
        exclude_keys: Optional[List[str]] = None,
    ) -> None:
        """Set the shape.

        Args:
            budget: real nodes, edges and graphs of a batch at most, such as a sampler's ``budget``.
            node_pad_value: of tensors in padding, or {attribute: value}; positions only if named, indices never.
            edge_pad_value: the same for edges.
            graph_pad_value: the same for graphs.
            pad_graph_defaults: attribute -> value in padding, of what is neither tensor, number nor text.
            levels: attribute -> "node", "edge" or "graph" where sizes are misleading.
            follow_batch: see PyTorch Geometric's DataLoader.
            exclude_keys: attributes to leave out.

        Raises:
            ValueError: the budget does not limit nodes, edges and graphs, or a level is unknown.
        """
        missing = [name for name in ("nodes", "edges", "graphs") if name not in budget_of(budget)]
        if missing:
            raise ValueError(
                f"a constant shape needs {', '.join(missing)} in the budget ({budget}), e.g. {missing[0]}=8; "
                "PackBatchSampler.budget has the graphs."
            )
        if isinstance(exclude_keys, str) or isinstance(follow_batch, str):
            raise ValueError("exclude_keys and follow_batch are lists of attributes, such as ['edge_attr'].")
        self.levels = dict(levels or {})
        for key, level in self.levels.items():
            if level not in ("node", "edge", "graph"):
                raise ValueError(f"levels={{{key!r}: {level!r}}}: choose node, edge or graph.")
        self.budget = budget
        self.pad_values = {"node": node_pad_value, "edge": edge_pad_value, "graph": graph_pad_value}
        self.defaults = dict(pad_graph_defaults or {})
        self.follow_batch, self.exclude_keys = follow_batch, list(exclude_keys or ())
        self._found: Dict[str, Tuple[str, bool]] = {}  # attribute -> level, and if sizes left no doubt
        named = [values for values in self.pad_values.values() if isinstance(values, Mapping)]
        self._named = {key for names in (self.levels, self.defaults, *named) for key in names}  # not yet seen

    def __call__(self, graphs: List[Any]) -> Any:
        """Collate graphs.

        Raises:
            ValueError: they exceed the budget, are no `Data`, or an attribute has no constant shape.
        """
        import torch
        from torch_geometric.data import Batch, Data

        if not graphs or not all(isinstance(graph, Data) for graph in graphs):
            kind = type(next((graph for graph in graphs if not isinstance(graph, Data)), None)).__name__
            raise ValueError(f"a pack of PyTorch Geometric holds one Data or more, not {kind if graphs else 'none'}.")
        nodes, edges = [self._nodes(graph) for graph in graphs], [graph.num_edges for graph in graphs]
        totals = {"nodes": sum(nodes), "edges": sum(edges), "graphs": len(graphs)}
        for name, count in totals.items():
            if count > self.budget[name]:
                raise ValueError(
                    f"a pack of {len(graphs)} graphs holds {count} {name} and the budget {self.budget[name]}; if sizes "
                    "change at every reading, make the change before they are read (pre_transform), or count its most."
                )
        keys = self._keys(graphs)
        levels = {key: self._level(key, graphs, nodes, edges) for key in keys if key != "num_nodes"}
        spare = {name: self.budget[name] - count for name, count in totals.items()}
        empty = [self._padding(graphs[0], levels, 0, 0)] * spare["graphs"]
        last = self._padding(graphs[0], levels, spare["nodes"] + 2, spare["edges"])
        try:
            batch: Any = Batch.from_data_list([*graphs, *empty, last], self.follow_batch, self.exclude_keys)
        except RuntimeError as error:
            raise _uneven(graphs, levels) or error from error
        for name, count in totals.items():
            total = self.budget[name] + {"nodes": 2, "edges": 0, "graphs": 1}[name]
            batch[f"{name}_mask"] = torch.arange(total) < count
        if len(batch.batch) != len(batch.nodes_mask):  # PyTorch Geometric has counted them from edges
            raise ValueError(
                f"no attribute ({', '.join(keys)}) says how many nodes padding has; set data.num_nodes, or name one x "
                "or pos."
            )
        return batch

    def _keys(self, graphs: List[Any]) -> List[str]:
        """Attributes of all graphs."""
        keys = [key for key in graphs[0].keys() if key not in self.exclude_keys]
        known = set(keys)
        for graph in graphs[1:]:
            other = known.symmetric_difference(graph.keys()).difference(self.exclude_keys)
            if other:
                raise ValueError(
                    f"some graphs of a pack have the attribute {min(other)!r} and others not; give it to all, or leave "
                    f"it out, exclude_keys=[{min(other)!r}]."
                )
        taken = known.intersection(_MASKS)
        if taken:
            raise ValueError(f"the batch has a mask {min(taken)!r} of its own; rename that attribute, or exclude it.")
        if self._named:
            self._named -= known
            if self._named:
                raise ValueError(
                    f"no graph has the attribute {min(self._named)!r} that was named; it has {', '.join(keys)}."
                )
        return keys

    @staticmethod
    def _nodes(graph: Any) -> int:
        if not getattr(graph._store, "can_infer_num_nodes", True):
            raise ValueError(
                f"nodes cannot be counted from {', '.join(graph.keys())}; set data.num_nodes, or name one x or pos."
            )
        return int(graph.num_nodes)

    def _level(self, key: str, graphs: List[Any], nodes: List[int], edges: List[int]) -> str:
        """Level of an attribute: node, edge, graph, or other for what is no tensor."""
        import torch

        values = [graph[key] for graph in graphs]
        if not isinstance(values[0], torch.Tensor):
            if not isinstance(values[0], (bool, int, float, str)) and self.defaults.get(key) is None:
                raise ValueError(
                    f"attribute {key!r} is a {type(values[0]).__name__}, which has no padding; say what stands there, "
                    f"pad_graph_defaults={{{key!r}: ...}}, or leave it out, exclude_keys=[{key!r}]."
                )
            return "other"
        dim = graphs[0].__cat_dim__(key, values[0])
        if dim is None or values[0].dim() == 0:
            return "graph"
        if not isinstance(dim, int) or values[0].is_sparse:
            raise ValueError(f"attribute {key!r} is a sparse matrix, which has no constant shape; use exclude_keys.")
        sizes = [value.size(dim) for value in values]
        fits = [level for level, counts in (("node", nodes), ("edge", edges)) if sizes == counts]
        fits += ["graph"] if len(set(sizes)) == 1 else []
        if key in self.levels:
            if self.levels[key] not in fits:
                raise ValueError(
                    f"attribute {key!r} has sizes {sizes[:4]} in graphs of {nodes[:4]} nodes and {edges[:4]} edges, "
                    f"so it is none of a {self.levels[key]}; correct levels={{{key!r}: ...}}."
                )
            return self.levels[key]
        level, sure = _likely(key, fits, sizes[0]), len(fits) == 1
        known, was_sure = self._found.get(key, (level, sure))
        if not fits or (known not in fits if was_sure or sure else False):
            raise ValueError(
                f"attribute {key!r} has sizes {sizes[:4]} in graphs of {nodes[:4]} nodes and {edges[:4]} edges"
                + (f", and was one of the {known} in an earlier pack" if fits else "")
                + f"; say what it belongs to, levels={{{key!r}: 'node'}}, or leave it out, exclude_keys=[{key!r}]."
            )
        level = known if was_sure else level
        self._found[key] = level, was_sure or sure
        return level

    def _padding(self, graph: Any, levels: Mapping[str, str], nodes: int, edges: int) -> Any:
        """A graph of padding like a real one."""
        import torch

        padding = type(graph)()
        for key, level in levels.items():
            value = graph[key]
            if level == "other":
                kept = 0 if isinstance(value, (bool, int, float)) else "" if isinstance(value, str) else None
                padding[key] = self.defaults.get(key, kept if kept is None else type(value)(kept))
                continue
            shape, dim = list(value.shape), graph.__cat_dim__(key, value)
            if level != "graph":
                shape[dim] = nodes if level == "node" else edges
            fills = self.pad_values[level]
            fill = fills.get(key, 0.0) if isinstance(fills, Mapping) else fills
            # Indices are counted from the first node of the padding.
            fill = 0 if "index" in key or key == "face" else fill
            padding[key] = torch.full(shape, fill, dtype=value.dtype)
            if key == "edge_index":
                padding[key][1] = 1
            elif key == "pos" and level == "node" and not (isinstance(fills, Mapping) and key in fills):
                padding[key] = _apart(nodes, shape[1:]).to(value.dtype)
        if "num_nodes" in graph:
            padding.num_nodes = nodes
        return padding


def _apart(nodes: int, shape: Sequence[int]) -> Any:
    """Positions on a grid, [nodes, *shape] float32; a line of as many nodes would leave the range of half precision."""
    import torch

    places, columns = torch.arange(nodes), int(np.prod(shape))
    grid = [places // _SIDE**column % _SIDE for column in range(columns - 1)] + [places // _SIDE ** (columns - 1)]
    return _SPACING * torch.stack(grid, 1).reshape(nodes, *shape).float()


def _uneven(graphs: List[Any], levels: Mapping[str, str]) -> Optional[ValueError]:
    """The sentence about an attribute whose further axes differ from graph to graph."""
    for key, level in levels.items():
        if level == "other":
            continue
        dim, shapes = graphs[0].__cat_dim__(key, graphs[0][key]), [list(graph[key].shape) for graph in graphs]
        further = [shape[:dim] + shape[dim:][1:] if shape and dim is not None else shape for shape in shapes]
        if further != further[:1] * len(further):
            other = next(shape for shape, rest in zip(shapes, further) if rest != further[0])
            return ValueError(
                f"attribute {key!r} has shapes such as {shapes[0]} and {other}, which cannot be joined; leave it out, "
                f"exclude_keys=[{key!r}]."
            )
    return None


def _likely(key: str, fits: List[str], size: int) -> str:
    """The level of an attribute whose sizes fit several, such as forces where all molecules have as many atoms."""
    named = "edge" if "edge" in key else "node" if key in _NODE_NAMES or "node" in key else None
    if named in fits:
        return named
    return "graph" if size == 1 and "graph" in fits else next(iter(fits), "graph")
