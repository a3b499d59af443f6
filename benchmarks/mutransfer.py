"""A learning rate found on a narrow ChemGPT is right for wider ones under the maximal update parametrization only.

    python benchmarks/mutransfer.py [--quick] [--seeds 1] [--jobs 2] [--shared PATH] [--out DIR]

ChemGPTs of 2 layers and growing width learn molecules of MOSES as text (those that RDKit ships where MOSES is not
there) for one epoch at learning rates in steps of 2, in the standard parametrization and with `model.mup_base_width`.
Steps, schedule, batches and weight decay are the same for all, and in both parametrizations a head is 32 features wide,
so that wider models have more heads and scores are scaled alike. At the base width both are one model, trained once.
What counts is the loss of held-out molecules at the end, the mean over seeds; one that diverged is infinite. It is the
experiment of G. Yang et al., "Tensor Programs V", 2022.

Goals: under the maximal update parametrization the best rates of the least and the largest width are one step apart at
most; in the standard one they are further apart than that one's, and one step at least, by the vertices of parabolas.
Writes mutransfer.json and mutransfer.png. Runs that are finished in the folder are not trained again. About 15 minutes
on two cores. Exits with 1 when a goal is missed.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import ROOT, Goals, machine_line, print_table, throughput_line
from ipu_chem.scaling.campaign import train_all
from ipu_chem.scaling.candidates import Candidate, Progress, make_candidates
from packing.files import atomic_file

METRIC = "nats_per_token"
STANDARD, MUP = "standard", "maximal update"
Losses = Dict[str, Dict[int, List[float]]]  # parametrization -> width -> one loss for every rate


class Setting(NamedTuple):
    """Models and data that are trained.

    Attributes:
        widths: features of a symbol, the base width first.
        exponents: learning rates are 2 to the power of these, one apart.
        train, validation: molecules.
        warmup: steps.
    """

    widths: Tuple[int, ...] = (64, 128, 256)
    exponents: Tuple[int, ...] = tuple(range(-11, -4))
    train: int = 20000
    validation: int = 1000
    warmup: int = 60

    @property
    def rates(self) -> List[float]:
        """The learning rates."""
        return [2.0**exponent for exponent in self.exponents]


QUICK = Setting((32, 64), (-9, -7, -5), 200, 50, 2)


class Best(NamedTuple):
    """Minimum of a line of losses.

    Attributes:
        index: of the best rate of the grid.
        vertex: log2 of the rate at which the parabola through the best and its neighbors is lowest; the best rate's
            own where one of the neighbors is not there or diverged.
        is_inside: the parabola is there.
    """

    index: int
    vertex: float
    is_inside: bool


def base_config(setting: Setting, shared: Path) -> Dict[str, Any]:
    """Nested values that all runs share: those of the recipe chemgpt_moses, but for model, rate and amount of data."""
    moses = shared / "data" / "smiles" / "moses_test.csv.gz"
    data = {"name": "moses", "path": str(moses)} if moses.is_file() else {"name": "nci"}
    return {
        "data": {**data, "train": setting.train, "validation": setting.validation, "test": 0, "long": "drop"},
        # Left alone, the row would depend on the width, and the plan on how busy the machine is.
        "pack": {"tokens": 128, "algorithm": "best_fit"},
        "model": {"name": "chemgpt", "num_layers": 2},
        "optimizer": {"weight_decay": 0.1, "betas": [0.9, 0.95], "max_grad_norm": 1.0},
        "schedule": {"name": "cosine", "warmup_steps": setting.warmup, "min_factor": 0.1},
        "batching": {"micro_batch_size": 8},
        "training": {"epochs": 1},
        "accelerator": "cpu",
        "torch": {"threads": 1},
    }


def candidates_of(setting: Setting, shared: Path, seeds: int, out: Path) -> List[Candidate]:
    """All runs, the widest first: they last longest."""
    base, first = base_config(setting, shared), setting.widths[0]
    rates = {"optimizer.learning_rate": setting.rates, "training.seed": list(range(seeds))}
    standard = {"model.hidden_features": list(setting.widths), **rates}
    mup = {"model.hidden_features": list(setting.widths[1:]), "model.mup_base_width": [first], **rates}
    made = make_candidates(base, standard, out / "standard") + make_candidates(base, mup, out / "mup")
    return sorted(made, key=lambda one: -one.config["model"]["hidden_features"])


def losses_of(setting: Setting, candidates: Sequence[Candidate], reached: Sequence[Progress]) -> Losses:
    """Means over seeds; infinite where one of them diverged."""
    found: Dict[Any, List[float]] = {}
    for candidate, progress in zip(candidates, reached):
        model, rate = candidate.config["model"], candidate.config["optimizer"]["learning_rate"]
        loss = progress.metrics.get(METRIC, math.inf) if progress.status == "finished" else math.inf
        found.setdefault((model["mup_base_width"], model["hidden_features"], rate), []).append(loss)
    first = setting.widths[0]
    return {
        name: {
            width: [statistics.mean(found[0 if width == first else base, width, rate]) for rate in setting.rates]
            for width in setting.widths
        }
        for name, base in ((STANDARD, 0), (MUP, first))
    }


def best_of(losses: Sequence[float], exponents: Sequence[float]) -> Best:
    """The lowest of a line of losses.

    Raises:
        ValueError: all of them diverged.
    """
    index = int(np.argmin(losses))
    if not math.isfinite(losses[index]):
        raise ValueError("no learning rate trained: all runs of one width diverged; begin the grid at a lower one.")
    near = range(index - 1, index + 2)
    if near[0] < 0 or near[-1] >= len(losses) or not all(math.isfinite(losses[one]) for one in near):
        return Best(index, float(exponents[index]), False)
    left, middle, right = (math.log(losses[one]) for one in near)
    bend = left - 2 * middle + right
    step = exponents[index] - exponents[index - 1]
    return Best(index, exponents[index] + (step * (left - right) / (2 * bend) if bend > 0 else 0.0), True)


def shift(best: Dict[int, Best], widths: Sequence[int]) -> float:
    """Shift of the best rate from the least to the largest width, in powers of 2."""
    return best[widths[-1]].vertex - best[widths[0]].vertex


def draw(setting: Setting, losses: Losses, best: Dict[str, Dict[int, Best]], path: Path) -> None:
    """Loss against learning rate, a panel for each parametrization and a line for each width, the best ones marked."""
    from ipu_chem.reports.figures import figure_of, legend_beside, save, shades

    figure, axes = figure_of(1, len(losses))
    for axis, (name, lines) in zip(axes, losses.items()):
        for (width, line), color in zip(lines.items(), shades(len(lines))):
            finite = [(rate, loss) for rate, loss in zip(setting.rates, line) if math.isfinite(loss)]
            axis.plot(*zip(*finite), color=color, marker="o", markersize=3, linewidth=1, label=f"{width} features")
            index = best[name][width].index
            axis.plot(setting.rates[index], line[index], color=color, marker="*", markersize=11)
        axis.set_xscale("log", base=2)
        axis.set(
            title=f"{name} parametrization",
            xlabel="learning rate (per step)",
            ylabel="validation loss (nats per token)",
        )
        legend_beside(axis)
    lowest = [min(line) for lines in losses.values() for line in lines.values()]
    top = min(1.5 * max(lowest), max(axis.get_ylim()[1] for axis in axes))
    for axis in axes:  # rates that hardly train would flatten what counts
        axis.set_ylim(0.97 * min(lowest), top)
    save(figure, path)


def show(setting: Setting, losses: Losses, best: Dict[str, Dict[int, Best]], steps: int) -> None:
    """Print a line of the table for every parametrization and width, and how far the best rates move."""
    first, rows = setting.widths[0], []
    for name, lines in losses.items():
        for width, line in lines.items():
            one, cells = best[name][width], [f"{loss:.4f}" for loss in line]
            cells[one.index] = f"**{cells[one.index]}**"
            vertex = f"{one.vertex:.2f}{'' if one.is_inside else ' (edge)'}"
            rows.append([name, width, *cells, vertex, f"{line[best[name][first].index]:.4f}"])
    rates = [f"2^{exponent}" for exponent in setting.exponents]
    print_table(
        f"Nats per token of held-out molecules after {steps} steps, by learning rate",
        ["parametrization", "width", *rates, "vertex, log2", f"at the best rate of {first}"],
        rows,
    )
    print()
    for name, found in best.items():
        moved = shift(found, setting.widths)
        print(f"{name}: from {first} to {setting.widths[-1]} features the best rate moves by a factor of 2^{moved:.2f}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Train all, print all, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two narrow widths, 200 molecules, no goals")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each (default: %(default)s)")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs, the results and their figure")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    options = parser.parse_args(argv)
    setting = QUICK if options.quick else Setting()
    first, last = setting.widths[0], setting.widths[-1]
    out = options.out or Path(tempfile.mkdtemp(prefix="mutransfer-"))
    machine = machine_line(f"float32, {options.jobs} processes of 1 thread", "torch", "numpy")
    candidates = candidates_of(setting, options.shared, options.seeds, out)
    data = candidates[0].config["data"]["name"]
    print(f"{machine}\n{len(candidates)} runs on {setting.train:,} molecules of {data} each, in {out}", flush=True)
    reached = train_all(candidates, 1.0, options.jobs)
    losses = losses_of(setting, candidates, reached)
    best = {
        name: {width: best_of(line, setting.exponents) for width, line in lines.items()}
        for name, lines in losses.items()
    }
    show(setting, losses, best, reached[0].total)
    shifts = {name: shift(found, setting.widths) for name, found in best.items()}
    seconds = sum(one.seconds for one in reached)
    with atomic_file(out / "mutransfer.json", "w") as file:
        values = {
            **{"machine": machine, "data": data, **setting._asdict(), "seeds": options.seeds},
            **{"steps": reached[0].total, "seconds": seconds, "metric": METRIC},
            "losses": {  # JSON has no infinity
                name: {width: [loss if math.isfinite(loss) else None for loss in line] for width, line in lines.items()}
                for name, lines in losses.items()
            },
            "best": {name: {width: one._asdict() for width, one in found.items()} for name, found in best.items()},
            "shift": shifts,
        }
        json.dump(values, file, indent=1)
    draw(setting, losses, best, out / "mutransfer.png")
    print(f"{seconds:,.0f} s of single threads; {out / 'mutransfer.png'}")
    goals = Goals()
    apart = abs(best[MUP][last].index - best[MUP][first].index)
    goals.at_most(f"{MUP}: steps between the best rates of {first} and {last} features", apart, 1)
    limit = max(1.0, abs(shifts[MUP]))
    goals.at_least(f"{STANDARD}: steps between the vertices of {first} and {last}", abs(shifts[STANDARD]), limit)
    status = goals.finish(not (options.no_goals or options.quick))
    whole = [one.seconds for one in reached if one.status == "finished"]
    print(throughput_line(setting.train * len(whole), sum(whole)))
    return status


if __name__ == "__main__":
    sys.exit(main())
