"""QM9 accuracy: `ipu-chem train` against PyTorch Geometric's SchNet on the same molecules, steps and optimizer.

    python benchmarks/qm9_accuracy.py [--quick] [--shared PATH] [--out DIR] [--no-goals]

PyG's model starts from the same weights and sees the same molecules in the same steps as ours did, in its
own dynamic batches; denormals are flushed for it, which alone makes it several times faster than as shipped.
Goals: our validation MAE is at most 3 % above PyG's, in at most 30 minutes. Exits with 1 when one is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch

from benchmarks.common import ROOT, Goals, interleaved, machine_line, median_ratio, print_table, throughput_line
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.numerics import build_optimizer
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import RunConfig, from_dict
from ipu_chem.losses import loss_by_name
from ipu_chem.models.pyg import schnet_to_pyg
from ipu_chem.optim import Schedule
from ipu_chem.tasks.graphs import GraphTask, make_model
from ipu_chem.training.logging import read_rows

METRIC = "mae_u0_meV"


def train_ours(out: Path, shared: Path, quick: bool) -> float:
    """Run the command as anyone would; returns its wall seconds."""
    command = [sys.executable, "-m", "ipu_chem", "train", "--config", "qm9_u0_10k", "--out", str(out)]
    command += ["--data.path", str(shared / "data" / "qm9"), "--accelerator", "cpu"]
    if quick:
        command += ["--data.train", "1000", "--data.test", "0", "--training.epochs", "2"]
    print("$ " + " ".join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    return time.perf_counter() - started


class PygTraining:
    """PyTorch Geometric's SchNet in the place of ours."""

    def __init__(self, config: RunConfig, task: GraphTask) -> None:
        """Build model, molecules and optimizer; the weights are those that ours started from."""
        from torch_geometric.data import Data
        from torch_geometric.nn import SchNet

        self.config, self.task = config, task
        sizes = config.model
        self.edges: Any = None
        self.model = SchNet(
            hidden_channels=sizes.hidden_features,
            num_filters=sizes.num_filters,
            num_interactions=sizes.num_interactions,
            num_gaussians=sizes.num_gaussians,
            cutoff=sizes.cutoff,
            interaction_graph=lambda pos, batch: self._edges(pos),
        )
        ours: Any = make_model(config.model, config.training.seed, task.targets)
        self.model.load_state_dict(schnet_to_pyg(ours.model))
        self.optimizer = build_optimizer(config.optimizer, self.model.parameters())
        store = task.store
        labels = task.labels.standardizer.apply(store.ragged("z"), store.fields["y"]).astype(np.float32)
        used = np.concatenate([task.items["train"], task.items["validation"]])
        self.molecules = {
            item: Data(
                z=torch.from_numpy(store["z"][item].astype(np.int64)),
                pos=torch.from_numpy(np.array(store["pos"][item])),
                edge_index=_both_ways(store["edge_index"][item]),
                y=torch.from_numpy(labels[item : item + 1]),
            )
            for item in used.tolist()
        }

    def step(self, items: np.ndarray, learning_rate: float) -> float:
        """One optimizer step on these molecules, mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batch = self._batch(items)
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.model(batch.z, batch.pos, batch.batch) - batch.y).square().mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def validation_mae(self) -> float:
        """In meV."""
        items = self.task.items["validation"]
        parts = []
        with torch.no_grad():
            for start in range(0, len(items), 50):
                batch = self._batch(items[start : start + 50])
                parts.append(self.model(batch.z, batch.pos, batch.batch).double().numpy())
        predictions = self.task.labels.to_units(items, np.concatenate(parts))
        return float(np.abs(predictions - self.task.store.fields["y"][items]).mean() * 1000.0)

    def _batch(self, items: np.ndarray) -> Any:
        from torch_geometric.data import Batch

        batch = Batch.from_data_list([self.molecules[item] for item in items.tolist()])
        self.edges = batch.edge_index
        return batch

    def _edges(self, pos: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        source, target = self.edges
        return self.edges, (pos[source] - pos[target]).norm(dim=-1)


def _both_ways(pairs: np.ndarray) -> torch.Tensor:
    """Pairs [P, 2] as edges in both directions, [2, 2 P]."""
    edges = np.concatenate([pairs, pairs[:, ::-1]]).T.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(edges))


def steps_of_epoch(config: RunConfig, task: GraphTask, epoch: int) -> Iterator[np.ndarray]:
    """The molecules of every optimizer step of our run, as store items."""
    size = config.batching.packs_per_step
    order = task.plans["train"].epoch(config.training.seed, epoch, multiple=config.batching.packs_per_call)
    for start in range(0, len(order), size):
        yield task.items["train"][order.slice(start, start + size)[0]]


def train_pyg(config: RunConfig, task: GraphTask) -> Tuple[List[float], float]:
    """Validation MAE in meV after every epoch, and wall seconds."""
    torch.set_flush_denormal(True)
    training = PygTraining(config, task)
    steps = task.loader("train").steps_per_epoch
    schedule = Schedule(config.schedule, config.optimizer.learning_rate, config.training.epochs * steps)
    started, step, curve = time.perf_counter(), 0, []
    for epoch in range(config.training.epochs):
        for items in steps_of_epoch(config, task, epoch):
            training.step(items, schedule.learning_rate(step))
            step += 1
        curve.append(training.validation_mae())
        print(f"PyG epoch {epoch + 1}: step {step}, {METRIC} {curve[-1]:.2f}", flush=True)
    torch.set_flush_denormal(False)
    return curve, time.perf_counter() - started


def race(config: RunConfig, task: GraphTask, repeats: int) -> Dict[str, Any]:
    """Molecules per CPU second on one thread, taking turns over the same steps."""
    torch.set_num_threads(1)
    loader = task.loader("train")
    backend = TorchBackend()
    model = make_model(config.model, config.training.seed, task.targets, 0, task.position_step)
    backend.compile(model, loss_by_name(config.loss), config.optimizer, config.batching, None)
    pyg = PygTraining(config, task)
    chosen = list(steps_of_epoch(config, task, 0))[:8]
    batches = [batch for _, (batch, _) in zip(range(8), loader.epoch(config.training.seed, 0))]
    flush = torch.set_flush_denormal

    def theirs(flushed: bool) -> Callable[[], None]:
        def run() -> None:
            flush(flushed)
            for items in chosen:
                pyg.step(items, 1e-4)
            flush(False)

        return run

    contestants = {
        "ours": lambda: [backend.train_step(batch, 1e-4) for batch in batches],
        "PyG, denormals flushed": theirs(True),
        "PyG as shipped": theirs(False),
    }
    timings = interleaved(contestants, repeats)
    molecules = sum(len(items) for items in chosen)
    rows = [
        [name, f"{molecules / timing.median:,.0f}", f"{median_ratio(timing, timings['ours']):.2f}x"]
        for name, timing in timings.items()
    ]
    header = ["training step", "molecules per CPU second, one thread", "ours is faster by"]
    print_table("Throughput, collation included, as the run trains", header, rows)
    return {"ours": molecules / timings["ours"].median}


def main() -> int:
    """Train both, print both, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 molecules, 2 epochs, no goals")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder of our run; an existing one is not trained again"
    )
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    options = parser.parse_args()
    print(machine_line("float32", "torch", "torch_geometric", "numpy"))
    out = options.out or Path(tempfile.mkdtemp(prefix="qm9-accuracy-")) / "run"
    goals = Goals()
    if not (out / "checkpoints" / "best.safetensors").is_file():
        seconds = train_ours(out, options.shared, options.quick)
        goals.at_most("ipu-chem train, minutes", seconds / 60, 30)
    _, state = load_checkpoint(out / "checkpoints" / "best.safetensors")
    config = from_dict(state["config"])
    task = GraphTask.load(config, out / "plans", state)
    ours = [row[METRIC] for row in read_rows(out) if row["kind"] == "validation"]
    theirs, seconds = train_pyg(config, task)
    rows = [
        ["ours, packs", f"{min(ours):.2f}", f"{ours[-1]:.2f}"],
        ["PyG, dynamic batches", f"{min(theirs):.2f}", f"{theirs[-1]:.2f}"],
        ["ratio", f"{min(ours) / min(theirs):.4f}", f"{ours[-1] / theirs[-1]:.4f}"],
    ]
    counts = f"{len(task.items['train']):,} training and {len(task.items['validation']):,} validation molecules"
    title = f"Validation MAE of U0 in meV after {config.training.epochs} epochs, {counts}"
    print_table(title, ["model", "best epoch", "last epoch"], rows)
    print(f"PyG trained for {seconds / 60:.1f} minutes with denormals flushed.")
    goals.at_most("best validation MAE, ours / PyG", min(ours) / min(theirs), 1.03)
    speed = race(config, task, 3 if options.quick else 7)
    status = goals.finish(not (options.no_goals or options.quick))
    print(throughput_line(speed["ours"], 1.0))
    return status


if __name__ == "__main__":
    sys.exit(main())
