"""One trained model as a point of a scaling study, files of such points, and which of them make one fit."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence

import numpy as np

from ipu_chem.scaling.intervals import Interval
from packing.files import PathLike, atomic_file

STEPS_HELD = "steps held"  # every run has the same number of optimizer steps, as near as whole epochs allow
STEPS_TOLERANCE = 0.05  # fraction by which held steps may differ
EPOCHS_HELD = "epochs held"  # every run sees its molecules as often: runs on more of them take more steps
CONVERGED = "converged:"  # begins a rule that says when a run counts as converged

# What else must be the same when loss is followed over one of them.
_HELD = {"parameters": ("tokens",), "tokens": ("parameters",), "molecules": ("parameters",), "flops": ()}


@dataclass(frozen=True)
class Point:
    """A trained model.

    Attributes:
        parameters: N, without embeddings.
        tokens: D, symbols of the training molecules, each counted once; of graphs, atoms.
        molecules: D in molecules.
        flops: of the whole training; about 6 * parameters * symbols seen.
        steps: optimizer steps.
        seed: of weights and order.
        loss: on held-out molecules, of the weights that are kept, in natural units; inf for a run that diverged.
        loss_name: what it is, such as nats_per_token or nats_per_heavy_atom.
        rule: when training ended: "steps held", "epochs held", or "converged: " and the stated rule.
        tokenizer: fingerprint of the vocabulary; empty where there is none.
        config: `config_hash` of the run.
    """

    parameters: int
    tokens: int
    molecules: int
    flops: float
    steps: int
    seed: int
    loss: float
    loss_name: str
    rule: str
    tokenizer: str = ""
    config: str = ""

    def __post_init__(self) -> None:
        sizes = (self.parameters, self.tokens, self.molecules, self.flops, self.steps)
        if not all(0 < size < math.inf for size in sizes):
            raise ValueError(f"{self}: parameters, tokens, molecules, flops and steps are above 0.")
        if self.rule not in (STEPS_HELD, EPOCHS_HELD) and not self.rule.partition(CONVERGED)[2].strip():
            raise ValueError(
                f"{self}: its rule is {self.rule!r}; give {STEPS_HELD!r}, {EPOCHS_HELD!r}, or {CONVERGED!r} and the "
                "rule by which a run counts as converged."
            )

    def __str__(self) -> str:
        return f"the run of N={self.parameters:,}, D={self.tokens:,} tokens, seed {self.seed}"

    @property
    def diverged(self) -> bool:
        """True where its loss is not finite."""
        return not math.isfinite(self.loss)


def write_points(path: PathLike, points: Iterable[Point]) -> None:
    """Write points as JSON, atomically; a loss that is not finite becomes null."""
    rows = [{**asdict(point), "loss": None if point.diverged else point.loss} for point in points]
    with atomic_file(path, "w") as file:
        json.dump({"points": rows}, file, indent=1)


def read_points(path: PathLike) -> List[Point]:
    """The reverse of `write_points`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds something else; names the entry.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["points"]
        if not isinstance(rows, list):
            raise TypeError("points is no list")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} holds no points: write {{"points": [...]}} with `write_points`.') from error
    points = []
    for number, row in enumerate(rows, 1):
        try:
            points.append(_point_of(row))
        except ValueError as error:
            raise ValueError(f"{path}, point {number}: {error}") from error
    return points


def _point_of(row: Any) -> Point:
    """A point from the values of its fields."""
    if not isinstance(row, dict):
        raise ValueError(f"{row!r} is no object of fields such as parameters.")
    kinds = {field.name: field.type for field in fields(Point)}
    needed = {field.name for field in fields(Point) if field.default is MISSING}
    for word, names in (("unknown", set(row) - set(kinds)), ("missing", needed - set(row))):
        if names:
            raise ValueError(f"{word} {', '.join(sorted(names))}: give {', '.join(kinds)}.")
    values = {**row, "loss": math.inf if row["loss"] is None else row["loss"]}
    for name, value in values.items():
        if kinds[name] is str:
            if not isinstance(value, str):
                raise ValueError(f"{name}={value!r}: give a text.")
            continue
        number = _number(value)
        if kinds[name] is int and (not math.isfinite(number) or number != int(number)):
            raise ValueError(f"{name}={value!r}: give a whole number.")
        if math.isnan(number) or (name == "flops" and math.isinf(number)):
            raise ValueError(f"{name}={value!r}: give a number{', or null of a run that diverged' * (name == 'loss')}.")
        values[name] = kinds[name](value)
    return Point(**values)


def _number(value: Any) -> float:
    """A number as float64; NaN of all else, and of what is too large."""
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits of a run's `ipu_chem.config.to_dict` that say which runs differ in their seed alone."""
    values: Dict[str, Any] = {name: value for name, value in config.items() if name != "out"}
    if isinstance(values.get("training"), Mapping):
        values["training"] = {name: value for name, value in values["training"].items() if name != "seed"}
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def check_loss(points: Sequence[Point]) -> None:
    """Refuse points whose losses do not compare.

    Raises:
        ValueError: no points, a diverged run, a loss that has no logarithm, two losses, or nats per token of two
            tokenizers.
    """
    if not points:
        raise ValueError("there are no points to fit: train some models first.")
    for point in points:
        if point.diverged:
            raise ValueError(
                f"{point} diverged (loss {point.loss}): repeat it with a lower learning rate, or leave its size out."
            )
        if point.loss <= 0:
            raise ValueError(
                f"{point} has a loss of {point.loss:g}, and laws are of losses above 0: choose an error or nats per "
                "token by --metric, or leave its size out."
            )
    names = _different(points, "loss_name")
    if len(names) > 1:
        raise ValueError(f"the points have losses of two kinds, {names[0]} and {names[1]}: fit one of them.")
    if ("per_token" in names[0] or names[0] == "perplexity") and len(_different(points, "tokenizer")) > 1:
        raise ValueError(
            f"{names[0].replace('_', ' ')} of different tokenizers do not compare, since their tokens are of different "
            "length: use nats_per_heavy_atom."
        )


def check_comparable(points: Sequence[Point]) -> None:
    """Refuse points that differ in more than size, data and seed.

    Raises:
        ValueError: see `check_loss`; or two rules of when training ended, steps that are held and differ, a run that is
            there twice, or a seed that only some sizes have.
    """
    check_loss(points)
    rules = _different(points, "rule")
    if len(rules) > 1:
        raise ValueError(
            f"runs that ended by different rules ({rules[0]!r} and {rules[1]!r}) do not make one law: train all by one "
            "of them."
        )
    steps = _different(points, "steps")
    if rules[0] == STEPS_HELD and not steps_agree(steps):
        raise ValueError(
            f"the points say that steps are held, and have {steps[0]:,} and {steps[-1]:,}: train all for as many, or "
            "to convergence by one stated rule."
        )
    runs = Counter((point.parameters, point.tokens, point.seed) for point in points)
    (size, data, seed), times = runs.most_common(1)[0]
    if times > 1:
        raise ValueError(f"N={size:,}, D={data:,}, seed {seed} is there {times} times: keep one of them.")
    seeds = set(_different(points, "seed"))
    for size, data in sorted({run[:2] for run in runs}):
        missing = seeds - {run[2] for run in runs if run[:2] == (size, data)}
        if missing:
            raise ValueError(
                f"N={size:,}, D={data:,} lacks seed {min(missing)}, which others have: train it, or leave that seed "
                "out everywhere."
            )


def steps_agree(steps: Sequence[int]) -> bool:
    """True where numbers of steps count as the same, `STEPS_TOLERANCE` apart at most."""
    return max(steps) <= (1 + STEPS_TOLERANCE) * min(steps)


def check_over(points: Sequence[Point], over: str) -> None:
    """Refuse points that do not show how loss follows one quantity.

    Args:
        points: of one fit.
        over: parameters, tokens, molecules or flops.

    Raises:
        ValueError: see `check_comparable`; or what must be held as well differs.
    """
    if over not in _HELD:
        raise ValueError(f"over={over!r}: choose {', '.join(_HELD)}.")
    check_comparable(points)
    for name in _HELD[over]:
        values = _different(points, name)
        if len(values) > 1:
            raise ValueError(
                f"loss over {over} needs points of the same {name}, and these have {values[0]:,} and {values[1]:,}: "
                "fit each by itself, or both together with `fit_joint`."
            )


def edge(points: Sequence[Point], over: str) -> List[Point]:
    """Points of the most data, for a law over parameters, or of the largest size, for one over tokens."""
    (held,) = _HELD[over]
    most = max(getattr(point, held) for point in points)
    return [point for point in points if getattr(point, held) == most]


def columns(points: Sequence[Point], *names: str) -> List[np.ndarray]:
    """[K] float64 of each of these attributes."""
    return [np.array([getattr(point, name) for point in points], np.float64) for name in names]


def as_json(value: Any) -> Any:
    """Values for a JSON file: records by name, numbers that are not finite and open ends of intervals as null."""
    if isinstance(value, Interval):
        ends = None if value.open_low else value.low, None if value.open_high else value.high
        return {"value": as_json(value.value), "low": ends[0], "high": ends[1]}
    if hasattr(value, "_asdict"):
        return {name: as_json(inner) for name, inner in value._asdict().items()}
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: as_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [as_json(inner) for inner in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _different(points: Sequence[Point], name: str) -> List[Any]:
    return sorted({getattr(point, name) for point in points})
