"""Items and a model of `adapter_examples.py`: strings of MOSES, molecules of ogbg-molhiv, jraph's graph network."""

import gzip
import itertools
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np

from benchmarks.histograms import QM9, sizes_of


def moses(shared: Path, count: int) -> Tuple[List[str], str]:
    """SMILES of MOSES, or strings of like lengths that are made up."""
    file = shared / "data" / "smiles" / "moses_test.csv.gz"
    if file.is_file():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            found = [line.split(",")[0].strip() for line in itertools.islice(lines, 1, 20 * count)]
        return [
            found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]
        ], f"{count:,} molecules of MOSES"
    random = np.random.default_rng(0)
    lengths = np.clip(random.normal(36, 5, count), 15, 55).astype(int)
    return [
        "".join(random.choice(list("CNOcn1()="), n)) for n in lengths
    ], f"{count:,} SYNTHETIC strings of MOSES' lengths"


def molhiv(shared: Path, count: int) -> Tuple[List[Any], str]:
    """Molecules of ogbg-molhiv as `GraphsTuple`, bonds in both directions, or rings of QM9's sizes that are made up."""
    import jraph

    folder = shared / "data" / "ogb" / "ogbg_molhiv" / "raw"
    if folder.is_dir():
        origin = f"{count:,} molecules of ogbg-molhiv"
        atoms, bonds = (_table(folder / f"num-{kind}-list.csv.gz", count)[:, 0] for kind in ("node", "edge"))
        x, e = _table(folder / "node-feat.csv.gz", atoms.sum()), _table(folder / "edge-feat.csv.gz", bonds.sum())
        ends, labels = _table(folder / "edge.csv.gz", bonds.sum()), _table(folder / "graph-label.csv.gz", count)
    else:
        origin, random = f"{count:,} SYNTHETIC rings of QM9's sizes", np.random.default_rng(0)
        atoms = bonds = random.permutation(sizes_of(QM9))[:count]
        x, e = np.ones((atoms.sum(), 9), int), np.ones((bonds.sum(), 3), int)
        ends = np.concatenate([np.stack([np.arange(n), (np.arange(n) + 1) % n], 1) for n in atoms])
        labels = random.integers(0, 2, (count, 1))
    graphs, node, edge = [], np.append(0, np.cumsum(atoms)), np.append(0, np.cumsum(bonds))
    for item in range(count):
        ours = slice(edge[item], edge[item + 1])
        graphs.append(
            jraph.GraphsTuple(
                nodes=x[node[item] : node[item + 1]].astype(np.float32),
                edges=np.tile(e[ours].astype(np.float32), (2, 1)),
                senders=ends[ours].T.reshape(-1).astype(np.int32),
                receivers=ends[ours, ::-1].T.reshape(-1).astype(np.int32),
                n_node=atoms[item : item + 1],
                n_edge=2 * bonds[item : item + 1],
                globals={"label": labels[item : item + 1].astype(np.int32)},
            )
        )
    return graphs, origin


def _table(path: Path, rows: int) -> np.ndarray:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return np.loadtxt(itertools.islice(lines, int(rows)), np.int64, delimiter=",", ndmin=2)


def graph_network() -> Tuple[Any, Any]:
    """Weights of a graph network of 128 features, as in jraph's ogbg-molhiv example, and its training step.

    Returns:
        (weights, function of weights and a padded batch that returns new weights and the loss).
    """
    import jax
    import jax.numpy as jnp
    import jraph

    def layers(*widths: int) -> List[Any]:
        return [
            (jax.random.normal(key, (i, o)) / i**0.5, jnp.zeros(o))
            for key, i, o in zip(jax.random.split(jax.random.PRNGKey(sum(widths)), len(widths)), widths, widths[1:])
        ]

    def mlp(weights: List[Any], x: Any) -> Any:
        for place, (weight, bias) in enumerate(weights):
            x = x @ weight + bias
            x = jax.nn.relu(x) if place + 1 < len(weights) else x
        return x

    wide = 128
    start = {
        "node_in": layers(9, wide), "edge_in": layers(3, wide), "edge": layers(3 * wide + 1, wide, wide),
        "node": layers(3 * wide + 1, wide, wide), "out": layers(2 * wide + 1, wide, 2),
    }  # fmt: skip

    def loss_of(params: Any, graph: Any) -> Any:
        labels, mask = graph.globals["label"][:, 0], jraph.get_graph_padding_mask(graph)
        network = jraph.GraphNetwork(
            jraph.concatenated_args(lambda x: mlp(params["edge"], x)),
            jraph.concatenated_args(lambda x: mlp(params["node"], x)),
            jraph.concatenated_args(lambda x: mlp(params["out"], x)),
        )
        inputs = graph._replace(
            nodes=mlp(params["node_in"], graph.nodes),
            edges=mlp(params["edge_in"], graph.edges),
            globals=jnp.zeros((len(graph.n_node), 1)),
        )
        chosen = jnp.take_along_axis(jax.nn.log_softmax(network(inputs).globals), labels[:, None], 1)[:, 0]
        return -(chosen * mask).sum() / len(mask)

    @jax.jit
    def compiled(params: Any, graph: Any) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(params, graph)
        return jax.tree_util.tree_map(lambda p, g: p - 1e-3 * g, params, gradient), loss

    def step(params: Any, graph: Any) -> Any:
        return jax.block_until_ready(compiled(params, graph))  # else the next contestant pays for it

    return start, step
