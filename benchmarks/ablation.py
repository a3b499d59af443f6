"""Ablation: training of the paper's SchNet on QM9, every row with one thing more than the row above.

    python benchmarks/ablation.py [--quick] [--shared PATH]

Molecules per second of wall time, batches included, because a loader that works beside training takes no time of it;
so nothing else should run on the machine. One thread computes. Rows take turns, the median over the rounds counts.
"""

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from benchmarks.common import arguments, machine_line, print_table, throughput_line
from benchmarks.schnet_step import SETTINGS, Data, load
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels.convolution import shifted_softplus
from ipu_chem.batches.loader import PackLoader
from ipu_chem.batches.prefetch import prefetched
from ipu_chem.data.fixed_point import STEP
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.layers import ShiftedSoftplus
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, make_plan
from packing.tune import fit_budget

SETTING = SETTINGS["paper"]
# The study's own steps (perf_ablation.ipynb of hydronet-gnn), QM9 on 16 Bow IPUs, molecules per second.
STUDY = {"padded": 68_905, "packs": 83_879, "batches made beside": 97_915, "softplus": 131_556}


class Row(NamedTuple):
    """One configuration.

    Attributes:
        packed: several molecules to a pack, else one padded to the largest.
        prefetch: batches made ahead by a thread.
        softplus: the activation in native kernels.
        pairs: every edge once.
        filter: exact or table.
        kernels: convolutions in native kernels.
        compile: torch.compile.
    """

    packed: bool = False
    prefetch: int = 0
    softplus: bool = False
    pairs: bool = False
    filter: str = "exact"
    kernels: bool = False
    compile: bool = False


def rows() -> Dict[str, Row]:
    """Every row with one thing more than the row above."""
    row = Row()
    result = {"padded": row}
    for name, change in (
        ("packs", {"packed": True}),
        ("batches made beside", {"prefetch": 1}),
        ("softplus", {"softplus": True}),
        ("every pair once", {"pairs": True}),
        ("filters from a table", {"filter": "table"}),
        ("compiled", {"compile": True}),
        ("convolutions in native kernels", {"kernels": True}),
        ("four batches ahead", {"prefetch": 4}),
    ):
        row = row._replace(**change)
        result[name] = row
    return result


class Training:
    """Goes on for ever; each call is a step."""

    def __init__(self, row: Row, data: Data) -> None:
        store = data.once if row.pairs else _with_fixed_point(data)
        sizes = store.sizes()
        if row.packed:
            budget = fit_budget(sizes, {"nodes": 0, "edges": 0, "graphs": 0})
        else:
            budget = Budget(nodes=int(sizes["nodes"].max()), edges=int(sizes["edges"].max()), graphs=1)
        plan = make_plan(sizes, budget)
        budget = budget.replace(graphs=plan.max_items_per_pack)
        batching = Batching(max(round(plan.num_packs * SETTING.step / len(store)), 1))
        loader = PackLoader(store, np.arange(len(store)), plan, store.fields["y"], budget, batching)
        torch.manual_seed(0)
        model = CompactInputs(SchNet(**SETTING.sizes, filter=row.filter, undirected=row.pairs), store.info[STEP])
        if row.softplus:
            _use_softplus(model)
        self.backend = TorchBackend(options=TorchOptions(compile=row.compile, kernels=row.kernels, threads=1))
        self.backend.compile(model, mse, OptimizerConfig(), batching, loader.example(training=True))
        self.batches = _forever(loader, row.prefetch)

    def __call__(self) -> Tuple[int, float]:
        """Molecules of the next step, and its seconds."""
        start = time.perf_counter()
        batch, count = next(self.batches)
        self.backend.train_step(batch, 1e-3)
        return count, time.perf_counter() - start


def _with_fixed_point(data: Data) -> Any:
    from ipu_chem.data.fixed_point import fixed_point_in_memory

    return fixed_point_in_memory(data.both)


def _use_softplus(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, ShiftedSoftplus):
            module.kernel = shifted_softplus


def _forever(loader: PackLoader, prefetch: int) -> Iterator[Any]:
    def epochs() -> Iterator[Any]:
        epoch = 0
        while True:
            yield from loader.epoch(0, epoch)
            epoch += 1

    return prefetched(epochs(), prefetch)


def main() -> int:
    """Print the table."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "numpy"))
    data = load(SETTING, options.shared, 4)
    trainings = {name: Training(row, data) for name, row in rows().items() if not (row.compile and options.quick)}
    seconds: Dict[str, List[float]] = {name: [] for name in trainings}
    for turn in range(-2, 3 if options.quick else 11):
        for name, training in trainings.items():
            steps = [training() for _ in range(2)]
            if turn >= 0:
                seconds[name].append(sum(spent for _, spent in steps) / sum(count for count, _ in steps))
    first = seconds["padded"]
    before = first
    table = []
    for name, spent in seconds.items():
        total = statistics.median(a / b for a, b in zip(first, spent))
        gain = statistics.median(a / b for a, b in zip(before, spent))
        study = f"{STUDY[name]:,} ({STUDY[name] / STUDY['padded']:.2f})" if name in STUDY else ""
        table.append([name, f"{1 / statistics.median(spent):,.0f}", f"{gain:.2f}", f"{total:.2f}", study])
        before = spent
    print_table(
        f"QM9, the paper's SchNet; {data.origin}",
        ["with", "molecules/s", "x row above", "x padded", "study, 16 Bow IPUs (x padded)"],
        table,
    )
    print(throughput_line(1 / statistics.median(spent), 1.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
