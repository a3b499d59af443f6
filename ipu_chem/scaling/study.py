"""A scaling study: a grid of sizes, amounts of data and seeds, each combination trained to its end and made a point.

Loss follows data only when nothing else does. So all runs of a study have the same shape of a pack, the same
held-out molecules, number of optimizer steps (or one other rule of when training ends) and number of evaluations that
the best weights are chosen from.
"""

import math
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ipu_chem.config import from_dict
from ipu_chem.executors import PROCESSES, check_executor, opened
from ipu_chem.json_file import read_json, write_json
from ipu_chem.scaling.campaign import train_all
from ipu_chem.scaling.candidates import Candidate, Progress, make_candidates
from ipu_chem.scaling.counted import counted_metric, usual_metric, value_of
from ipu_chem.scaling.held_fixed import HeldFixed, facts_of, held_fixed
from ipu_chem.scaling.points import (
    CONVERGED,
    EPOCHS_HELD,
    STEPS_HELD,
    STEPS_TOLERANCE,
    Point,
    config_hash,
    steps_agree,
    write_points,
)

_SEED, _DATA = "training.seed", "data.train"
_RULES = ("steps", "epochs")
_OF_TEXT = "nats_per_heavy_atom"


@dataclass(frozen=True)
class StudyOptions:
    """Options of a study.

    Attributes:
        rule: when training ends: steps, the same number for all, or epochs, those of the config.
        steps: that all runs make, as near as whole epochs allow; 0 is what the config's epochs of the most data are.
        evaluations: of every run, from which its best weights are chosen; rule=epochs keeps the config's cadence.
        metric: validation metric that is the loss; empty is nats_per_heavy_atom of text, the forces' error where forces
            are learned, else the first one.
        jobs: runs side by side on this machine, which divide its CPU cores.
        executor: where runs train: processes, of this machine; submitit, jobs of Slurm, with options
            submitit:timeout_min=600,slurm_partition=NAME; dask:tcp://HOST:8786; or module:factory, which returns an
            executor of Python. The same command on machines that share the folder joins in.
    """

    rule: str = "steps"
    steps: int = 0
    evaluations: int = 8
    metric: str = ""
    jobs: int = 1
    executor: str = PROCESSES

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise ValueError(f"rule={self.rule!r}: choose {' or '.join(_RULES)}.")
        if self.steps < 0 or self.evaluations < 1 or self.jobs < 1 or (self.steps and self.rule != "steps"):
            raise ValueError(
                f"steps={self.steps}, evaluations={self.evaluations}, jobs={self.jobs}: give 1 or more evaluations and "
                "jobs, and steps for rule=steps only."
            )
        check_executor(self.executor)


@dataclass(frozen=True)
class Amount:
    """Training of runs on one amount of data.

    Attributes:
        train: value of data.train.
        molecules, tokens: of the training molecules, each counted once; of graphs, atoms.
        steps_per_epoch: optimizer steps of a pass over them.
        epochs, evaluate_every, evaluate_calls: of their runs.
        unit: of tokens, symbols or atoms.
    """

    train: float
    molecules: int
    tokens: int
    steps_per_epoch: int
    epochs: int
    evaluate_every: int
    evaluate_calls: int
    unit: str = "symbols"

    @property
    def steps(self) -> int:
        """Optimizer steps of a run."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Plan:
    """Runs that a study will train.

    Attributes:
        candidates: its runs.
        amounts: of data, least first.
        rule: of `Point`.
        held_out: validation molecules.
    """

    candidates: List[Candidate]
    amounts: List[Amount]
    rule: str
    held_out: int = 0

    def lines(self) -> List[str]:
        """Lines to print before the wait."""
        found = [f"{len(self.candidates)} runs; {self.rule}"]
        for one in self.amounts:
            cadence = f"{one.evaluate_calls:,} calls" if one.evaluate_calls else f"{one.evaluate_every:,} epochs"
            found.append(
                f"{one.molecules:,} molecules, {one.tokens:,} {one.unit}: {one.epochs:,} epochs of "
                f"{one.steps_per_epoch:,} steps are {one.steps:,}, evaluated every {cadence}"
            )
        if self.rule != STEPS_HELD and not steps_agree([one.steps for one in self.amounts]):
            found.append("runs on more data take more steps: exponents of data mix both")
        return found


def make_plan(base: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], out: Path, options: StudyOptions) -> Plan:
    """The runs of a study; what is decided once is kept in plan.json of its folder.

    Args:
        base: nested values of a run.
        grid: values of options of the model, of data.train and of training.seed.
        out: folder of the study.
        options: of the study.

    Raises:
        ValueError: see `make_candidates` and `load_task`; the grid varies something else, two of its models are of one
            size, no molecules are held out, or whole epochs are too coarse for that many steps.
    """
    for key in grid:
        if key not in (_SEED, _DATA) and not key.startswith("model."):
            raise ValueError(
                f"{key}: a scaling study varies options of the model, {_DATA} and {_SEED}; `ipu-chem search` is for "
                "all others."
            )
        if key == "model.name" and isinstance(grid[key], (list, tuple)) and len(grid[key]) > 1:
            raise ValueError(
                "model.name of the grid: a scaling study is of one model; make one study for each, then "
                "`ipu-chem scale --compare FOLDER FOLDER`."
            )
    from ipu_chem.tasks.early import count_weights  # loads torch

    candidates = make_candidates(base, grid, out)
    _check_sizes(candidates)
    values = sorted({one.config["data"]["train"] for one in candidates}, key=lambda value: value or math.inf)
    if any(0 < value < 1 for value in values) and any(value >= 1 for value in values):
        raise ValueError("data.train of the grid has fractions and numbers of molecules: give one of them.")
    # The most data and the model of most weights decide the shape of a pack for all.
    most = (one.config for one in candidates if one.config["data"]["train"] == values[-1])
    reference = max(most, key=lambda config: count_weights(from_dict(config)))
    asked = {
        **{name: reference[name] for name in ("pack", "model", "batching", "force_share")},
        "data": {name: value for name, value in reference["data"].items() if name not in ("cache", "workers")},
        "training": {
            name: reference["training"][name]
            for name in ("epochs", "evaluate_every", "evaluate_calls", "early_stopping")
        },
        "train": values,
        **{name: getattr(options, name) for name in ("rule", "steps", "evaluations")},
    }
    path = out / "plan.json"
    made = read_json(path, "delete it, and the same command makes it again") if path.is_file() else {}
    if made.get("asked") == asked:
        pack, amounts, held_out = made["pack"], [Amount(**one) for one in made["amounts"]], made.get("held_out", 0)
    else:
        pack, amounts, held_out = _amounts(reference, values, options)
        out.mkdir(parents=True, exist_ok=True)
        saved = {"asked": asked, "pack": pack, "amounts": [asdict(one) for one in amounts], "held_out": held_out}
        write_json(path, saved)
    patience = reference["training"]["early_stopping"]
    if options.rule == "steps":
        rule = STEPS_HELD
    else:
        rule = f"{CONVERGED} no better in {patience} evaluations" if patience else EPOCHS_HELD
    by_value = {one.train: one for one in amounts}
    return Plan([_planned(one, pack, by_value, options) for one in candidates], amounts, rule, held_out)


def run_study(plan: Plan, out: Path, options: StudyOptions, progress: bool = True) -> List[Point]:
    """Train what is not trained yet; every run is in points.json of the study's folder as soon as it has finished.

    Raises:
        ValueError: see `train_all` and `point_of`.
        KeyboardInterrupt: stopped; the next call goes on from there.
    """
    points: Dict[int, Point] = {}

    def finished(done: Mapping[int, Progress]) -> None:
        for index in set(done) - set(points):
            points[index] = point_of(plan.candidates[index], done[index], plan.rule, options.metric)
        write_points(out / "points.json", [points[place] for place in sorted(points)])

    with opened(options.executor, options.jobs, out) as engine:
        train_all(plan.candidates, 1.0, progress=progress, finished=finished, engine=engine)
    return [points[place] for place in sorted(points)]


def point_of(candidate: Candidate, reached: Progress, rule: str, metric: str = "") -> Point:
    """A finished run as a point, from what its folder says of it.

    FLOPs are 6 N a symbol (2 N forward, 4 N back, Kaplan et al., "Scaling laws for neural language models", 2020) and D
    symbols an epoch: 6 N D epochs. Attention's scores are left out, and of graphs the work on edges.

    Raises:
        ValueError: the run has no such metric, or its validation molecules; names those that are known.
    """
    again = f"`ipu-chem train --resume {quote(str(candidate.folder))}` writes it again"
    run = read_json(candidate.folder / "run.json", again)
    tokens = (run.get("tokens") or run["atoms"])["train"]
    parameters = run["parameters without embeddings"]
    epochs = reached.step / reached.total * candidate.config["training"]["epochs"]
    name = metric or _usual_metric(list(reached.metrics), "tokens" in run)
    if reached.status == "diverged" or not reached.metrics:  # or not one evaluation was finite
        loss = math.inf
    else:
        name, loss = value_of(counted_metric(list(reached.metrics), name), reached.metrics)
    return Point(
        parameters=parameters,
        tokens=tokens,
        molecules=run["splits"]["train"],
        flops=6.0 * parameters * tokens * epochs,
        steps=reached.step,
        seed=candidate.seed,
        loss=loss,
        loss_name=name,
        rule=rule,
        tokenizer=run.get("tokenizer", ""),
        config=config_hash(candidate.config),
    )


def held_of(plan: Plan, options: StudyOptions) -> HeldFixed:
    """List of what a study holds fixed; of molecules and vocabulary what trained runs say.

    Raises:
        ValueError: a file of a run is damaged.
    """
    facts = facts_of([one.folder for one in plan.candidates])
    if plan.held_out:
        facts.setdefault("held-out molecules", f"{plan.held_out:,} validation")
    follows: Dict[str, str] = {}
    if options.rule == "steps":
        steps = sorted({one.steps for one in plan.amounts})
        counts = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        facts["training ends after"] = f"{counts} optimizer steps ({plan.rule}, to {STEPS_TOLERANCE:.0%})"
        facts["evaluations"] = f"{options.evaluations:,} a run"
        consequence = f"{_DATA}, so that steps are held"
        follows = {"training.epochs": consequence, "training.evaluate_calls": consequence}
    else:
        facts["training ends after"] = plan.rule
    seeds = sorted({one.seed for one in plan.candidates})
    if len(seeds) > 1:
        facts["seeds"] = f"{', '.join(map(str, seeds))} of every size and amount of data"
    return held_fixed([one.config for one in plan.candidates], facts, follows)


def _usual_metric(names: Sequence[str], is_text: bool) -> str:
    """Comparable over vocabularies, or what is hardest to learn; of a run that diverged at once, nothing is known."""
    if is_text and (not names or _OF_TEXT in names):
        return _OF_TEXT
    return usual_metric(names) or "mae_forces"


def _check_sizes(candidates: Sequence[Candidate]) -> None:
    """Refuse two models of equally many parameters, of which no law over size could tell which is which."""
    from ipu_chem.tasks.early import count_weights  # loads torch

    sizes: Dict[int, Dict[str, Any]] = {}
    seen: List[Dict[str, Any]] = []
    for one in candidates:
        model = one.config["model"]
        if model in seen:
            continue
        seen.append(model)
        size = count_weights(from_dict(one.config), embeddings=False)
        other = sizes.setdefault(size, model)
        if other is not model:
            names = [name for name in model if model[name] != other[name]]
            pairs = ", ".join(f"model.{name}={other[name]} and {model[name]}" for name in names)
            raise ValueError(
                f"{pairs} make models of equally many parameters, N={size:,}: leave one of them out of the grid, since "
                "a scaling study is of models that differ in size."
            )


def _amounts(
    reference: Dict[str, Any], values: List[float], options: StudyOptions
) -> Tuple[Dict[str, int], List[Amount], int]:
    """Shape of a pack, how runs on every amount of data train, and the number of validation molecules.

    Every amount is loaded once, the most data first.
    """
    from ipu_chem.tasks.registry import load_task

    pack: Dict[str, int] = {}
    found: List[Tuple[float, int, int, int]] = []
    held_out: Any = None
    for value in reversed(values):
        values_of_run = {**reference, "data": {**reference["data"], "train": value}}
        values_of_run["pack"] = {**reference["pack"], **pack}
        config = from_dict(values_of_run)
        with redirect_stdout(StringIO()):  # each run says it again in its log
            task = load_task(config)
        if "validation" not in task.plans:
            raise ValueError("a scaling study needs held-out molecules to measure losses on: set data.validation.")
        if held_out is None:
            held_out, pack = task.items["validation"], _fixed_pack(reference["pack"], task.budget.as_dict())
        elif not np.array_equal(held_out, task.items["validation"]):
            raise ValueError(
                f"data.split={config.data.split} holds other molecules out when data.train={value:g}: give "
                "data.split=random."
            )
        described = task.describe()
        tokens = (described.get("tokens") or described["atoms"])["train"]
        found.append((value, len(task.items["train"]), tokens, task.loader("train").steps_per_epoch))
    molecules = [one[1] for one in found]
    if len(set(molecules)) < len(molecules):
        raise ValueError(
            f"data.train={values[0]:g} and others of the grid give the same {molecules[0]:,} training molecules with "
            f"data.split={reference['data']['split']}: leave some out, or choose data.split=random."
        )
    training, iterations = reference["training"], reference["batching"]["device_iterations"]
    wanted = options.steps or training["epochs"] * found[0][3]
    amounts = []
    for one in found:
        if options.rule == "steps":
            epochs = max(1, round(wanted / one[3]))
            cadence = 1, math.ceil(epochs * one[3] / iterations / options.evaluations)
        else:
            epochs, cadence = training["epochs"], (training["evaluate_every"], training["evaluate_calls"])
        amounts.append(Amount(*one, epochs, *cadence, "symbols" if "tokens" in described else "atoms"))
    steps = [one.steps for one in amounts]
    if options.rule == "steps" and not steps_agree(steps):
        raise ValueError(
            f"in whole epochs the runs would take {min(steps):,} to {max(steps):,} steps, and steps that are held may "
            f"differ by {STEPS_TOLERANCE:.0%}: give --steps {_more(found, wanted)}, or --rule epochs."
        )
    return pack, amounts[::-1], len(held_out)


def _more(found: Sequence[Tuple[float, int, int, int]], wanted: int) -> int:
    """Passes over the most data whose steps whole epochs of all amounts come near, more than ``wanted``."""
    most = max(one[3] for one in found)
    for passes in range(wanted // most + 1, wanted // most + 1000):
        steps = [max(1, round(passes * most / one[3])) * one[3] for one in found]
        if steps_agree(steps):
            return passes * most
    return 20 * most


def _planned(
    candidate: Candidate, pack: Dict[str, int], amounts: Dict[float, Amount], options: StudyOptions
) -> Candidate:
    """A candidate that trains as its study wants it."""
    config = candidate.config
    one = amounts[config["data"]["train"]]
    cadence = {name: getattr(one, name) for name in ("epochs", "evaluate_every", "evaluate_calls")}
    training = {**config["training"], **cadence}
    if options.rule == "steps":
        training["early_stopping"] = 0
    packed = {**config["pack"], **pack}
    return replace(candidate, config={**config, "pack": packed, "training": training}, metric=options.metric)


def _fixed_pack(pack: Mapping[str, Any], budget: Mapping[str, int]) -> Dict[str, int]:
    """Capacities that the config leaves open, so that all runs have those of the most data."""
    edges = () if pack["device_neighbors"] else ("edges",)  # the device makes its own
    return {name: budget[name] for name in ("nodes", *edges, "graphs", "tokens") if name in budget and not pack[name]}
