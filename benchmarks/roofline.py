"""Time of a training step by its parts, and its distance from the limits of this machine.

    python benchmarks/roofline.py [--quick] [--shared PATH]

One thread. Peaks are measured here: the fastest matrix product, the speed of a copy. The bound adds up what cannot be
left out, each at the best rate at which this machine does it alone: the matrix products of atoms, and filters read
and applied along pairs. What is achieved is a whole step of training through the backend, batches and Adam included.
"""

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.common import arguments, machine_line, print_table, throughput_line
from benchmarks.schnet_step import SETTINGS, Contestant, Data, Setting, load, ours
from ipu_chem.backends.pytorch.kernels.convolution import table_convolution
from ipu_chem.models.convolution import EdgeList
from ipu_chem.models.tables import CubicTable

DERIVATIVES = 3  # a training step computes a product once forward, twice for derivatives
CONVOLUTION_FLOPS = 33  # per feature of a pair: 11 forward, 22 for derivatives


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of the fastest of several calls."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds[2:])


def peaks(repeats: int) -> Tuple[float, float]:
    """(floating-point operations per second of the fastest matrix product, bytes per second read and written)."""
    rates = []
    for rows, inner, columns in ((2304, 128, 128), (1024, 1024, 1024), (2048, 512, 512)):
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        rates.append(2 * rows * inner * columns / fastest(lambda a=a, b=b: a @ b, repeats))
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    return max(rates), 2 * source.nbytes / fastest(lambda: target.copy_(source), repeats)


class Work:
    """Work of a molecule, and the best time for it here."""

    def __init__(self, setting: Setting, data: Data, repeats: int) -> None:
        sizes = setting.sizes
        features, blocks = sizes["hidden_features"], sizes["num_interactions"]
        atoms = len(data.once.fields["z"]) / len(data.once)
        pairs = len(data.once.fields["edge_index"]) / len(data.once)
        table = CubicTable(sizes["cutoff"], sizes["cutoff"] / (sizes["num_gaussians"] - 1))
        self.atoms, self.pairs = atoms, pairs
        self.flops = {
            "matrix products of atoms": DERIVATIVES * 2 * atoms * features**2 * (3 * blocks + 0.5),
            "convolution": CONVOLUTION_FLOPS * pairs * features * blocks,
            "tables of filters": DERIVATIVES
            * 2
            * (table.points + 5)
            * (sizes["num_gaussians"] * features + features**2)
            * blocks
            / setting.step,
        }
        rows = round(atoms * setting.step)
        x, weight, down = torch.randn(rows, features), torch.randn(features, features), torch.randn(rows, features)
        product = sum(
            fastest(work, repeats) for work in (lambda: x @ weight, lambda: down @ weight, lambda: down.t() @ x)
        )
        self.product_rate = DERIVATIVES * 2 * rows * features**2 / product
        self.pair_seconds = self._pairs_alone(setting, data, table, features, repeats)
        self.bound = self.flops["matrix products of atoms"] / self.product_rate + blocks * pairs * self.pair_seconds

    def _pairs_alone(self, setting: Setting, data: Data, table: CubicTable, features: int, repeats: int) -> float:
        """CPU seconds for a pair of a block, forward and derivatives."""
        count = int(data.once.axes["edges"][setting.step])
        rows = int(data.once.axes["nodes"][setting.step])
        sizes = data.once.sizes()["edges"][: setting.step]
        first = torch.repeat_interleave(
            torch.from_numpy(data.once.axes["nodes"][: setting.step]), torch.from_numpy(sizes)
        )
        ends = torch.from_numpy(data.once.fields["edge_index"][:count].astype("int64")) + first.unsqueeze(1)
        pos = torch.from_numpy(data.once.fields["pos"][:rows])
        distance = (pos[ends[:, 0]] - pos[ends[:, 1]]).norm(dim=1)
        places = table.places(distance, torch.ones_like(distance))
        edges = EdgeList(ends[:, 0].contiguous(), ends[:, 1].contiguous(), True)
        x = torch.randn(rows, features, requires_grad=True)
        entries, down = torch.randn(table.points + 1, 2 * features, requires_grad=True), torch.randn(rows, features)
        return fastest(lambda: table_convolution(x, entries, places, edges).backward(down), repeats) / count


def parts(contestant: Contestant, setting: Setting, steps: int) -> Dict[str, float]:
    """Share of the time of a step that each part takes."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        for _ in range(steps):
            contestant()
    points = CubicTable(setting.sizes["cutoff"], setting.sizes["cutoff"] / (setting.sizes["num_gaussians"] - 1)).points
    shares: Dict[str, float] = {}
    total = 0.0
    for event in recorded.key_averages(group_by_input_shape=True):
        spent = event.self_cpu_time_total
        total += spent
        part = _part_of(event.key, event.input_shapes, points + 5)
        shares[part] = shares.get(part, 0.0) + spent
    return {part: spent / total for part, spent in shares.items()}


def _part_of(name: str, shapes: List[Any], grid: int) -> str:
    on_grid = any(grid in shape for shape in shapes if isinstance(shape, (list, tuple)))
    if "table_convolution" in name:
        return "convolution"
    if "softplus" in name:
        return "activations"
    if name in ("aten::mm", "aten::addmm"):
        return "tables of filters" if on_grid else "matrix products of atoms"
    if "dam" in name or "Optimizer" in name:
        return "Adam"
    return "rest: sums, copies, Python, batches"


def run(name: str, shared: Path, quick: bool, peak: float, bandwidth: float) -> float:
    """Two tables for one setting; returns the rate of training."""
    setting, repeats = SETTINGS[name], 5 if quick else 15
    data = load(setting, shared, 2)
    work = Work(setting, data, repeats)
    contestant = ours(setting, data, "table", False, True)
    for _ in range(2):
        contestant()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        count = contestant()
        seconds.append((time.process_time() - start) / count)
    spent = statistics.median(seconds)
    shares = parts(contestant, setting, repeats)
    rows = []
    for part, share in sorted(shares.items(), key=lambda item: -item[1]):
        flops = work.flops.get(part)
        rate = (
            ""
            if flops is None
            else f"{flops / (share * spent) / 1e9:.1f} ({flops / (share * spent) / peak:.0%} of peak)"
        )
        rows.append([part, f"{share:.0%}", f"{share * spent * 1e6:.0f}", f"{flops / 1e6:.2f}" if flops else "", rate])
    print_table(
        f"{setting.title}: one molecule ({work.atoms:.1f} atoms, {work.pairs:.0f} pairs)",
        ["part", "share", "µs", "MFLOP", "GFLOP/s"],
        rows,
    )
    # A pair reads four rows of the table and two of atoms, and reads and writes as many derivatives.
    moved = setting.sizes["num_interactions"] * work.pairs * setting.sizes["hidden_features"] * 4 * (8 + 22)
    print_table(
        "against this machine",
        ["what", "value"],
        [
            ["peak of matrix products", f"{peak / 1e9:.0f} GFLOP/s"],
            ["peak of a copy", f"{bandwidth / 1e9:.1f} GB/s"],
            ["matrix products of atoms, alone", f"{work.product_rate / 1e9:.0f} GFLOP/s"],
            ["convolution, alone", f"{work.pair_seconds * 1e9:.0f} ns for a pair of a block, forward and derivatives"],
            ["whole step", f"{sum(work.flops.values()) / spent / 1e9:.1f} GFLOP/s, {spent * 1e6:.0f} µs a molecule"],
            ["convolution's rows moved, mostly in cache", f"{moved / (shares['convolution'] * spent) / 1e9:.1f} GB/s"],
            ["bound: both alone", f"{1 / work.bound:,.0f} molecules/s"],
            ["achieved", f"{1 / spent:,.0f} molecules/s, {work.bound / spent:.0%} of the bound"],
        ],
    )
    return 1 / spent


def main() -> int:
    """Print the peaks and the tables."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "numpy"))
    peak, bandwidth = peaks(5 if options.quick else 15)
    rates = [run(name, options.shared, options.quick, peak, bandwidth) for name in ("paper", "large")]
    print(throughput_line(rates[0], 1.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
