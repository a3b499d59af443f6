"""Candidates of a search: configs from a grid of options, each a run in a folder that is trained as far as asked."""

import hashlib
import itertools
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ipu_chem.config import KINDS, from_dict, to_dict
from ipu_chem.json_file import read_json, write_json
from ipu_chem.options import differences, merge, nested
from ipu_chem.training.logging import METRICS

PROGRESS = "candidate.json"  # in the folder of a candidate
_SEED = "training.seed"
# What a search sets itself, and what may differ when it goes on: where runs are and how they are computed.
_SET = {"training.log_every": 1, "training.progress": False, "training.report": False, "training.samples": 0}
# What the models and packs of candidates are built from.
_BUILT = ("data", "pack", "model", "loss", "force_share", "batching", "ipu")
FREE = ("out", "torch.threads", "data.cache", "data.workers")


@dataclass(frozen=True)
class Candidate:
    """One run of a search.

    Attributes:
        name: of its options; candidates of one name differ in their seed.
        seed: of the run.
        config: nested values of a `RunConfig`, with the folder.
        metric: validation metric that its run must have; empty is `ipu_chem.scaling.counted.usual_metric`.
    """

    name: str
    seed: int
    config: Dict[str, Any]
    metric: str = ""

    @property
    def folder(self) -> Path:
        """Folder of its run."""
        return Path(self.config["out"])


@dataclass(frozen=True)
class Progress:
    """Progress of a candidate, as in its candidate.json.

    Attributes:
        status: stopped (at a budget), finished or diverged.
        step: optimizer steps done.
        total: of a whole run.
        seconds: that all its parts took.
        metrics: of its best evaluation so far.
        message: of what went wrong.
        per_step: seconds that a step took once the run was under way, with its evaluations; None where that is not
            known. The others went into imports, molecules and the first call.
    """

    status: str
    step: int
    total: int
    seconds: float
    metrics: Dict[str, float]
    message: str = ""
    per_step: Optional[float] = None

    def reaches(self, budget: float) -> bool:
        """True where nothing is left to do up to this fraction of the run."""
        return self.status != "stopped" or self.step >= budget_steps(self.total, budget) > 0 and budget < 1


def budget_steps(total: int, budget: float) -> int:
    """Optimizer steps of a fraction of a run, rounded up."""
    return max(1, math.ceil(budget * total - 1e-9))


def make_candidates(base: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], out: Path) -> List[Candidate]:
    """All combinations of the grid's values.

    Args:
        base: nested values of a run.
        grid: dotted options, such as optimizer.learning_rate, and the values of each.
        out: folder of the search; every candidate gets one in it, named after its options.

    Raises:
        ValueError: an option is unknown or has no list of values, a combination cannot work, or two have one name.
    """
    from ipu_chem.tasks.early import check_run  # loads torch

    if not grid:
        raise ValueError("the grid is empty: give options and their values, such as optimizer.learning_rate: [...].")
    for key, values in grid.items():
        if key == "out" or key in _SET:
            raise ValueError(f"{key} of the grid: it is set for every run alike, leave it out of the grid.")
        if not isinstance(values, (list, tuple)) or not values:
            such = values if isinstance(values, (int, float, str)) else "1, 2"
            raise ValueError(f"{key} of the grid needs a list of values, such as {key}: [{such}].")
        if "." not in key and isinstance(base.get(key), Mapping):
            raise ValueError(f"{key} of the grid is a section: name its options, such as {key}.name: [...].")
        if any(isinstance(value, Mapping) for value in values):
            raise ValueError(f"{key} of the grid: values are numbers, words or lists of them.")
    short = _short_names(list(grid))
    candidates: List[Candidate] = []
    checked: Set[str] = set()
    for combination in itertools.product(*grid.values()):
        chosen = dict(zip(grid, combination))
        values, _ = merge(KINDS, base, nested({**chosen, **_SET}))
        parts = [f"{short[key]}={_text(value)}" for key, value in chosen.items() if key != _SEED]
        name = ",".join(parts) or "base"
        folder = name + (f",seed={chosen[_SEED]}" if _SEED in chosen else "")
        values["out"] = str(out / folder)
        try:
            config = from_dict(values)
            made = to_dict(config)
            sizes = json.dumps([made[name] for name in _BUILT], default=str)
            if sizes not in checked:
                check_run(config)
            checked.add(sizes)
        except ValueError as error:
            raise ValueError(f"candidate {folder}: {error}") from error
        candidates.append(Candidate(name, config.training.seed, made))
    folders = [candidate.folder for candidate in candidates]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"two candidates of the grid are called {folder.name}: leave one of the values out.")
    return candidates


def read_progress(candidate: Candidate) -> Optional[Progress]:
    """Progress of a candidate; None if it has not come to a budget.

    Raises:
        ValueError: its folder holds a run of other options.
    """
    path = candidate.folder / PROGRESS
    if not path.is_file():
        return None
    again = f"delete the folder {candidate.folder}, and the same command trains this candidate again"
    saved = read_json(path, again)
    size, digest = saved.pop("log", (0, None))  # earlier versions have none
    if digest not in (None, _log(candidate.folder, size)[1]):
        raise ValueError(f"{candidate.folder / METRICS} is damaged (its checksum does not match); {again}.")
    before = to_dict(from_dict(saved.pop("config")))  # with the values of options that were not there yet
    changed = [one for one in differences(before, candidate.config) if one[0] not in FREE]
    if changed:
        key, was, now = changed[0]
        raise ValueError(
            f"{candidate.folder} was trained with {key}={was!r}, and the search asks for {now!r}: give another --out."
        )
    return Progress(**saved)


def write_progress(candidate: Candidate, reached: Progress) -> None:
    """Write candidate.json, by which a candidate is known to have come so far.

    Raises:
        OSError: the disk is full; what was there is kept.
    """
    values = {**asdict(reached), "log": _log(candidate.folder), "config": candidate.config}
    write_json(candidate.folder / PROGRESS, values)


def _log(folder: Path, size: Optional[int] = None) -> Tuple[int, str]:
    """Bytes of the metrics that estimates are made of, and the checksum of so many of them; training appends more."""
    try:
        content = (folder / METRICS).read_bytes()[:size]
    except FileNotFoundError:  # of a run that diverged at once
        content = b""
    return len(content), hashlib.blake2b(content, digest_size=16).hexdigest()


def _short_names(names: Sequence[str]) -> Dict[str, str]:
    """Last parts of dotted names where these differ."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last)}


def _text(value: Any) -> str:
    """A value as part of a folder's name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]", "_", text)
