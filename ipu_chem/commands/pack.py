"""Print how well molecules fill packs of given sizes; needs neither torch nor the molecules."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.commands.parsing import several
from ipu_chem.outputs import check_file
from ipu_chem.ranges import check_fields, check_number
from packing import ALGORITHMS, Budget, PackingPlan, make_plan

if TYPE_CHECKING:
    from ipu_chem.data.files.layout import TableOptions

_MOST_ITEMS = 1 << 28
_HEADER = ("budget", "algorithm", "packs", "lower bound", "gap", "filled", "items/pack", "closed by", "seconds")


@dataclass(frozen=True)
class Options:
    """Sizes, packs and algorithms.

    Attributes:
        sizes: JSON file {data set: {nodes: count}} of sizes.
        dataset: which histogram of --sizes.
        data: a data set by name, or file, instead of --sizes.
        path: where the raw files of --data lie, or the file.
        smiles_column: column of the file that holds SMILES, if it is not called so.
        delimiter: between the cells of the file: comma, semicolon, tab or another character; found if not given.
        encoding: of the file, such as cp1252; found if not given.
        cutoff: longest edge of --data, in Å.
        edges: pairs of neighboring atoms of a pack, each counted once as in a run (all pairs for --sizes); SMILES are
            embedded to find them.
        graphs: molecules of a pack.
        time_limit: seconds for column generation.
        plot: picture of the filled fraction over --nodes (.png, .svg).
    """

    nodes: List[int] = several("atoms of a pack, one or more values")
    sizes: Optional[str] = None
    dataset: Optional[str] = None
    data: Optional[str] = None
    path: Optional[str] = None
    smiles_column: str = ""
    delimiter: str = ""
    encoding: str = ""
    cutoff: float = 5.0
    edges: Optional[int] = None
    graphs: Optional[int] = None
    algorithms: List[str] = several(", ".join(ALGORITHMS), ("lpfhp", "best_fit", "auto"))
    time_limit: float = 10.0
    plot: Optional[str] = None

    def __post_init__(self) -> None:
        check_fields(self, cutoff="above 0", edges="1 or more", graphs="1 or more", time_limit="0 or more")
        for nodes in self.nodes:
            check_number("nodes", nodes, "1 or more", whole=True)


def run(options: Options) -> int:
    """Print the table."""
    if options.plot:
        check_file("--plot", options.plot, (".png", ".svg", ".pdf"))
    name, sizes = _sizes(options)
    total = ", ".join(f"{values.sum():,} {axis}" for axis, values in sizes.items())
    print(f"{name}: {len(sizes['nodes']):,} molecules, {total}, largest {sizes['nodes'].max()} nodes")
    rows: List[Tuple[str, ...]] = []
    points: Dict[str, List[Tuple[int, float]]] = {}
    for nodes in options.nodes:
        limits = {"nodes": nodes, "edges": options.edges, "graphs": options.graphs}
        budget = Budget(**{axis: capacity for axis, capacity in limits.items() if capacity is not None})
        plans: List[Tuple[str, PackingPlan, float]] = []
        for algorithm in options.algorithms:
            if algorithm == "lpfhp" and len(budget.measured) > 1:
                continue  # it packs one dimension
            started = time.perf_counter()
            wanted = {axis: sizes[axis] for axis in budget.measured}
            plan = make_plan(wanted, budget, algorithm, time_limit=options.time_limit)
            plans.append((algorithm, plan, time.perf_counter() - started))
            points.setdefault(algorithm, []).append((nodes, plan.efficiency["nodes"]))
        # What one algorithm proves holds for every other.
        bound = max((plan.lower_bound for _, plan, _ in plans), default=0)
        rows += [_row(algorithm, plan, bound, seconds) for algorithm, plan, seconds in plans]
    print_table(_HEADER, rows)
    if options.plot:
        _plot(Path(options.plot), name, points)
        print(f"plot: {options.plot}")
    return 0


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns padded to their widest cell."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def read_histogram(path: str, dataset: Optional[str]) -> Tuple[str, np.ndarray]:
    """Sizes of a data set given as counts per size.

    Args:
        path: JSON file, {size: count} or {data set: {size: count}}.
        dataset: which one, in the second case.

    Returns:
        (name, sizes [I] int64).

    Raises:
        ValueError: no such file or data set, or something that is no count; says what there is.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no histogram; it should be {{size: count}} or {{data set: {{size: count}}}}.")
    name = file.stem
    if any(isinstance(value, dict) for value in content.values()):
        if dataset not in content:
            raise ValueError(f"{path} has no data set {dataset!r}; choose --dataset from {', '.join(content)}.")
        name, content = str(dataset), content[dataset]
    try:
        pairs = [(int(size), int(count)) for size, count in content.items()]
        broken = next((count for count in content.values() if count != int(count)), None)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: sizes and counts of {name} must be integers ({error}).") from error
    if broken is not None:
        raise ValueError(f"{path}: sizes and counts of {name} must be integers (there is {broken}).")
    if not all(1 <= size < 2**31 and count >= 0 for size, count in pairs):
        raise ValueError(f"{path}: sizes of {name} are from 1 to 2**31 - 1 and counts 0 or more.")
    total = sum(count for _, count in pairs)
    if not 0 < total <= _MOST_ITEMS:
        raise ValueError(f"{path}: {name} counts {total:,} molecules; 1 to {_MOST_ITEMS:,} can be packed.")
    return name, np.repeat(*np.array(pairs).T)


def _sizes(options: Options) -> Tuple[str, Dict[str, np.ndarray]]:
    if (options.sizes is None) == (options.data is None):
        raise ValueError("give either --sizes FILE (with --dataset) or --data NAME.")
    if options.sizes is not None:
        name, nodes = read_histogram(options.sizes, options.dataset)
        sizes = {"nodes": nodes}
        if options.edges is not None:
            sizes["edges"] = nodes * (nodes - 1) // 2
        return name, sizes
    from ipu_chem.data.datasets import load_dataset
    from ipu_chem.data.edges import with_edges
    from ipu_chem.data.files.layout import TableOptions
    from ipu_chem.data.files.text import existing_file, holds_smiles

    table = TableOptions.of(options, "--")
    given = table.given()
    if options.data == "file" and options.path and options.edges is None and holds_smiles(Path(options.path)):
        return options.data, {"nodes": _atoms_of_smiles(existing_file(options.path), table)}
    store = with_edges(load_dataset(options.data, options.path, **given), options.cutoff)
    return options.data, {axis: store.sizes()[axis] for axis in ("nodes", "edges")}


def _atoms_of_smiles(file: Path, table: "TableOptions") -> np.ndarray:
    """Atoms of the molecules of a file, counted in their SMILES."""
    from ipu_chem.data.files.table import read_smiles_file
    from ipu_chem.data.smiles import count_atoms

    counts, failures = count_atoms(read_smiles_file(file, table))
    if not len(counts):
        raise ValueError(f"{file}: no SMILES could be read; the first failed with: {failures[0].reason}.")
    print(
        f"{file.name}: {len(counts):,} molecules of {counts[:, 1].mean():.1f} heavy atoms (largest "
        f"{counts[:, 1].max()}) counted, {len(failures):,} left out"
        + (f" (the first is line {failures[0].line}: {failures[0].reason})" if failures else "")
    )
    return counts[:, 0]


def _row(algorithm: str, plan: PackingPlan, bound: int, seconds: float) -> Tuple[str, ...]:
    filled = ", ".join(f"{name} {share:.2%}" for name, share in plan.efficiency.items())
    closed = ", ".join(f"{name} {share:.0%}" for name, share in plan.closed_by.items() if share >= 0.005)
    name = algorithm if algorithm == plan.algorithm else f"{algorithm} ({plan.algorithm})"
    items = f"{plan.num_items / max(plan.num_packs, 1):.2f} (max {plan.max_items_per_pack})"
    counts = (f"{plan.num_packs:,}", f"{bound:,}", f"{plan.num_packs - bound:,}")
    return (str(plan.budget), name, *counts, filled, items, closed, f"{seconds:.2f}")


def _plot(path: Path, name: str, points: Dict[str, List[Tuple[int, float]]]) -> None:
    from ipu_chem.reports.figures import colors, figure_of, legend_beside, save

    figure, axis = figure_of(1, 1)
    widths = range(2 * len(points) - 1, 0, -2)  # equal curves are seen below each other
    for (algorithm, curve), color, width in zip(points.items(), colors(len(points)), widths):
        axis.plot(*zip(*sorted(curve)), color=color, linewidth=width, marker="o", markersize=2 + width, label=algorithm)
    axis.set(xlabel="capacity of a pack (nodes)", ylabel="packing efficiency (fraction of the nodes)", title=name)
    legend_beside(axis)
    save(figure, path)
