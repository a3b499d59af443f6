"""The table of models: each compiled by PopTorch in every layout, its losses beside those of the torch backend.

    python tests/poptorch_table.py --double        # PopTorch's double, a few minutes
    python tests/poptorch_table.py                 # the PopTorch that is installed, on the SDK's IPU Model or IPUs
    python tests/poptorch_table.py --quick         # one layout of each model, float32

Exit status 1 if a case does not compile that should, or its losses differ by more than the tolerance; 2 without
PopTorch. `make test-sdk` runs it on an unpacked SDK.
"""

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager, Iterator, List, NamedTuple, Optional, Sequence

sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from poptorch_cases import CASES, Case
from poptorch_helpers import installed_double
from torch import Tensor

from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import FLOATS, Batching, Precision
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.optim import OptimizerConfig

STEPS = 50
OPTIMIZER = OptimizerConfig("adamw", 1e-3, weight_decay=0.01)
# Of a loss. In float16 both round at the same places, but add up in another order between them, and 50 steps carry on
# what one has rounded otherwise.
TOLERANCES = {"float32": 1e-6, "float16": 5e-3}
# Each takes the same packs in a step.
LAYOUTS = {
    "single": (1, Batching(2, 2, 1, 2)),
    "replicated": (1, Batching(1, 2, 2, 2)),
    "pipelined": (2, Batching(1, 4, 1, 2)),
}
THREE_STAGES = Batching(1, 5, 1, 2)  # which need five micro-batches


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        case: what was trained.
        layout, weights: how.
        answer: whether it compiled: "yes", or "no" or "not run" with the reason.
        is_right: whether that, and the differences, are as they should be.
        largest: |difference| of losses; None where there are none.
        relative: largest difference as a fraction of the step's loss.
        seconds: of PopTorch, compilation included.
    """

    case: Case
    layout: str
    weights: str
    answer: str
    is_right: bool
    largest: Optional[float] = None
    relative: Optional[float] = None
    seconds: float = 0.0


def losses_of(backend: Backend, case: Case, batching: Batching, steps: int) -> Tensor:
    """Losses of so many optimizer steps, [steps], with a learning rate that moves."""
    loader = case.loader(batching)
    backend.compile(case.model(), case.loss, OPTIMIZER, batching, loader.example(training=True))
    losses: List[Tensor] = []
    epoch = 0
    while True:
        for batch, _ in loader.epoch(0, epoch):
            call = len(losses)
            if call * batching.device_iterations >= steps:
                return torch.cat(losses)[:steps]
            losses.append(backend.train_step(batch, OPTIMIZER.learning_rate * (1 + (call // 2) % 3)))
        epoch += 1


def compare(case: Case, layout: str, weights: str, steps: int, tolerance: float) -> Line:
    """Train a case by PopTorch and by torch."""
    ipus, batching = LAYOUTS[layout]
    if ipus > 1 and case.stages == 3:
        batching = THREE_STAGES
    if batching.replication_factor > 1 and IpuOptions().on_ipu_model:
        return Line(case, layout, weights, "not run: the SDK's IPU Model runs one replica", True)
    precision = Precision() if weights == "float32" else Precision("float16", loss_scaling=128.0)
    # PopTorch first: imported after a backward pass it cannot differentiate inside forward.
    backend = PopTorchBackend(IpuOptions(ipus_per_replica=ipus), precision)
    started = time.perf_counter()
    try:
        losses = losses_of(backend, case, batching, steps)
    except ValueError as error:
        sentence = " ".join(str(error).split())
        whole = ipus > 1 and case.stages == 0 and "blocks cannot be spread" in sentence
        return Line(case, layout, weights, f"not applicable: {sentence}" if whole else f"no: {sentence}", whole)
    finally:
        backend.close()
    seconds = time.perf_counter() - started
    expected = losses_of(TorchBackend("cpu", precision=precision), case, batching, steps)
    difference = (losses.double() - expected.double()).abs()
    largest, relative = float(difference.max()), float((difference / expected.double().abs()).max())
    return Line(case, layout, weights, "yes", relative <= tolerance, largest, relative, seconds)


def quick(cases: Sequence[str]) -> Iterator[Any]:
    """(case, layout, weights) of a small part: every model once, the tied ChemGPT in two stages."""
    for name in cases:
        yield name, "pipelined" if CASES[name].stages == 3 else "single", "float32"


def every(cases: Sequence[str], layouts: Sequence[str], weights: Sequence[str]) -> Iterator[Any]:
    """(case, layout, weights) of the whole grid."""
    return ((name, layout, kind) for name in cases for layout in layouts for kind in weights)


HEAD = f"{'model':<14} {'learns':<13} {'layout':<11} {'weights':<8} {'largest':>9} {'relative':>9} {'s':>6}  compiled"


def text_of(line: Line) -> str:
    """A line as it is printed."""
    numbers = f"{'-':>9} {'-':>9} {'-':>6}"
    if line.largest is not None:
        numbers = f"{line.largest:9.1e} {line.relative:9.1e} {line.seconds:6.1f}"
    mark = "" if line.is_right else "   <- WRONG"
    return (
        f"{line.case.name:<14} {line.case.learns:<13} {line.layout:<11} {line.weights:<8} {numbers}  "
        f"{line.answer}{mark}"
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--double", action="store_true", help="PopTorch's double in place of PopTorch")
    made.add_argument("--quick", action="store_true", help="one layout of each model, float32")
    made.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of each case")
    made.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    made.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    made.add_argument("--weights", nargs="+", choices=FLOATS, default=list(FLOATS))
    for name, tolerance in TOLERANCES.items():
        made.add_argument(f"--{name}", type=float, default=tolerance, help="largest relative difference of a loss")
    return made


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Print the table; the exit status."""
    asked = parser().parse_args(arguments)
    torch.set_num_threads(1)
    poptorch: ContextManager[Any] = installed_double() if asked.double else nullcontext()
    with poptorch:
        try:
            PopTorchBackend().close()
        except ValueError as error:
            print(f"{error} Or give --double, which takes PopTorch's double.", file=sys.stderr)
            return 2
        chosen = quick(asked.cases) if asked.quick else every(asked.cases, asked.layouts, asked.weights)
        lines = []
        print(f"{'PopTorch double' if asked.double else 'PopTorch'} against the torch backend, {asked.steps} steps")
        print(HEAD, flush=True)
        for name, layout, weights in chosen:
            lines.append(compare(CASES[name], layout, weights, asked.steps, getattr(asked, weights)))
            print(text_of(lines[-1]), flush=True)
    wrong = sum(not line.is_right for line in lines)
    trained = sum(line.largest is not None for line in lines)
    allowed = ", ".join(f"{getattr(asked, name):.0e} in {name}" for name in TOLERANCES)
    print(f"{trained} of {len(lines)} trained, {wrong} wrong; relative differences up to {allowed} are right.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
