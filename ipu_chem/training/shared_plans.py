"""One plan for all processes of a run: column generation may stop on the clock, so no two would make the same.

The process of rank 0 makes the plans and writes them into the run's folder before anything compiles; the
others wait for them there. The folder must be on a file system that all hosts share.
"""

import json
import time
from pathlib import Path
from typing import Any, Mapping

from ipu_chem.backends.options import World
from ipu_chem.config import RunConfig, to_dict
from ipu_chem.options import differences
from ipu_chem.tasks.base import State, Task
from ipu_chem.tasks.registry import load_task
from packing import PackingPlan
from packing.files import atomic_file

WAIT_SECONDS = 3600.0
_COMPLETE = "complete.json"
_DECIDE = ("data", "pack", "model", "batching")


def load_together(config: RunConfig, world: World, state: State) -> Task:
    """`load_task` with the same plans in every process of a run.

    Args:
        config: of the run.
        world: this process among those that train together.
        state: of the checkpoint that the run resumes from; empty for a new one.
    """
    folder = Path(config.out) / "plans"
    if world.size == 1 or state:
        task = load_task(config, folder if state else None, state)
    elif world.rank > 0:
        task = load_task(config, wait_for_plans(folder, config))
    else:
        task = load_task(config, folder if plans_are_complete(folder, config) else None)
        write_plans(folder, task.plans, config)
    task.world = world
    return task


def write_plans(folder: Path, plans: Mapping[str, PackingPlan], config: RunConfig) -> None:
    """Write every plan, and last of all the file that says they are complete."""
    for name, plan in plans.items():
        plan.save(folder / f"{name}.npz")
    with atomic_file(folder / _COMPLETE, "w") as file:
        json.dump(_deciding(config), file)


def plans_are_complete(folder: Path, config: RunConfig) -> bool:
    """True if an earlier start of the same run has left its plans.

    Raises:
        ValueError: the plans there were made for another run; names what differs.
    """
    path = folder / _COMPLETE
    if not path.is_file():
        return False
    changed = differences(json.loads(path.read_text(encoding="utf-8")), _deciding(config))
    if changed:
        key, before, after = changed[0]
        raise ValueError(
            f"{folder} holds plans made with {key}={before!r}, this run asks for {after!r}; choose another --out."
        )
    return True


def wait_for_plans(folder: Path, config: RunConfig, seconds: float = WAIT_SECONDS) -> Path:
    """Wait until rank 0 has written the plans; returns their folder.

    Raises:
        ValueError: they do not come.
    """
    print(f"waiting for the plans that the process of rank 0 writes to {folder} ...", flush=True)
    end = time.monotonic() + seconds
    while not plans_are_complete(folder, config):
        if time.monotonic() > end:
            raise ValueError(
                f"no plans came to {folder} in {seconds:.0f} s; give an --out on a file system that all hosts share."
            )
        time.sleep(min(1.0, seconds / 10))
    return folder


def _deciding(config: RunConfig) -> Mapping[str, Any]:
    """Options that the plans depend on, as JSON values."""
    values = to_dict(config)
    chosen = {name: values[name] for name in _DECIDE}
    for name in ("cache", "workers", "path"):  # where data lie may differ from host to host
        chosen["data"].pop(name, None)
    return chosen
