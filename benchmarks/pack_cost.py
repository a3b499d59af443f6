"""Steps on packs of equal shape and other contents: whether a training of several ranks has work to balance."""

from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch

from benchmarks import chemgpt_tokens, schnet_step
from benchmarks.common import interleaved, median_ratio
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.loader import Loader, PackLoader
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.data.fixed_point import STEP
from ipu_chem.losses import mse, token_cross_entropy
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, Cost, make_plan
from packing.tune import fit_budget

CUTOFF = 5.0  # Å
RANKS = (4, 16, 64)
_ROUNDS, _SEEDS = 9, 5


class Setting(NamedTuple):
    """A model on one CPU and the packs it trains on.

    Attributes:
        name: of the model.
        loader: of the packs; its batching is of the packs that are timed together.
        backend: compiled.
        work: what the model's cost depends on, if on anything.
    """

    name: str
    loader: Loader
    backend: TorchBackend
    work: Cost


def settings(shared: Path, quick: bool) -> Tuple[List[Setting], str]:
    """SchNet with a table and with exact filters on QM9, ChemGPT on packs of 128 and 512; origin of the molecules."""
    data = schnet_step.load(_QM9, shared, 10 if quick else 30)
    budget = fit_budget(data.once.sizes(), {"nodes": 128})
    plan = make_plan(data.once.sizes(), budget)
    budget = budget.replace(graphs=plan.max_items_per_pack)
    loader = PackLoader(data.once, np.arange(len(data.once)), plan, data.once.fields["y"], budget, Batching(16))
    found = []
    for name, filter, kernels in (
        ("SchNet, table, native kernels", "table", True),
        ("SchNet, exact filters, native kernels", "exact", True),
        ("SchNet, table, plain torch", "table", False),
    ):
        torch.manual_seed(0)
        model = CompactInputs(SchNet(**_QM9.sizes, filter=filter, undirected=True), data.once.info[STEP])
        found.append(Setting(name, loader, _compiled(model, mse, loader, kernels), Cost(edges=1.0)))
    ids, vocab_size = chemgpt_tokens.tokens(shared, 400 if quick else 2000)
    for length, packs, kernels in ((128, 16, True), (512, 4, True), (128, 16, False)):
        budget = Budget(tokens=length)
        loader = TokenLoader(ids, make_plan({"tokens": ids.lengths}, budget), budget, Batching(packs), vocab_size)
        name = f"ChemGPT-4.7M, packs of {length}, {'native kernels' if kernels else 'plain torch'}"
        backend = _compiled(chemgpt_tokens.new_model(vocab_size), token_cross_entropy, loader, kernels)
        found.append(Setting(name, loader, backend, Cost(quadratic=1.0)))
    return found, f"{data.origin}, pairs within {CUTOFF:g} Å; {len(ids):,} molecules as text"


_QM9 = schnet_step.SETTINGS["paper"]._replace(sizes={**schnet_step.PAPER, "cutoff": CUTOFF})


def _compiled(model: Any, loss: Callable[..., Any], loader: Loader, kernels: bool) -> TorchBackend:
    backend = TorchBackend(options=TorchOptions(kernels=kernels, threads=1))
    backend.compile(model, loss, OptimizerConfig(), loader.batching, loader.example(training=True))
    return backend


def row_of(setting: Setting, quick: bool) -> Tuple[List[str], float]:
    """Time steps on the packs with least and most work, and on half-empty ones.

    Returns:
        (cells of the table, what 16 ranks would wait: largest over mean cost of a pack).
    """
    loader, plan = setting.loader, setting.loader.plan
    costs = setting.work.of_items(plan)
    work = np.add.reduceat(costs[plan.items], plan.offsets[:-1])
    order, count = np.argsort(work, kind="stable"), loader.batching.packs_per_call
    fill = next(iter(plan.fills.values()))
    full = order[fill[order] >= 0.97 * loader.budget[plan.budget.measured[0]]]  # the last packs are not
    chosen = {"least": full[:count], "most": full[-count:]}
    packs = {name: [plan.items[plan.offsets[p] : plan.offsets[p + 1]] for p in of] for name, of in chosen.items()}
    packs["half"] = [items[: len(items) // 2] for items in packs["most"]]
    steps = {name: _step(setting, items) for name, items in packs.items()}
    timings = interleaved(steps, 3 if quick else _ROUNDS, 2)
    ratio = median_ratio(timings["least"], timings["most"])
    of = {name: sum(costs[items].sum() for items in some) / count for name, some in packs.items()}
    # A pack costs the same plus a part in proportion to its work; what is slower with less work is noise.
    coefficient = max(1 - ratio, 0.0) / (of["most"] - of["least"])
    relative = 1 + coefficient * (work - of["most"])
    waits = [_waiting(plan, relative, ranks) for ranks in RANKS]
    cells = [setting.name, f"{timings['most'].median / count * 1e3:.1f}"]
    cells += [
        f"{median_ratio(timings['half'], timings['most']):.2f}",
        f"{of['least'] / of['most']:.2f}",
        f"{ratio:.3f}",
    ]
    return cells + [f"{wait:.3f}" if wait == wait else "-" for wait in waits], waits[RANKS.index(16)]


def _step(setting: Setting, items: Sequence[np.ndarray]) -> Callable[[], Any]:
    """A training step on given packs."""
    together = np.concatenate(items), np.concatenate([[0], np.cumsum([len(some) for some in items])])
    batch = setting.loader._collate(together, setting.loader._labels_of_steps(together, 1))
    return lambda: setting.backend.train_step(batch, 1e-4)


def _waiting(plan: Any, costs: np.ndarray, ranks: int) -> float:
    """Largest over mean cost of the packs of a step, one of each rank, in chance order."""
    steps = len(costs) // ranks * ranks
    orders = [np.random.default_rng(seed).permutation(len(costs))[:steps].reshape(-1, ranks) for seed in range(_SEEDS)]
    found = [costs[order] for order in orders] if steps else []
    return float(np.mean([some.max(1).sum() / some.mean(1).sum() for some in found])) if found else float("nan")


def header() -> List[str]:
    """Of the table that `row_of` fills."""
    return ["model", "ms a pack", "half-empty", "least work", "costs", *(f"{ranks} ranks wait" for ranks in RANKS)]
