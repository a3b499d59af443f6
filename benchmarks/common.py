"""Parts of every benchmark: an honest header, interleaved timing, memory of a fresh process, goals.

Machines are shared and their speed drifts, so seconds are CPU seconds of the process, contestants take turns
within one run, and what counts is the ratio of their medians.

Use: `from benchmarks.common import ...` in a script that runs with the repository root on the path.
"""

import argparse
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

# Libraries that are installed by another name.
_DISTRIBUTIONS = {"torch_sim": "torch-sim-atomistic"}
ROOT = Path(__file__).resolve().parent.parent


def machine_line(dtype: str, *libraries: str) -> str:
    """One line that says what a figure was measured on: date, CPU, cores, load, versions, dtype."""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version_of(name)}" for name in libraries)]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?"
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return f"{date} | {_cpu_model()}, {_cores()} cores, load {load} | {', '.join(versions)} | {dtype}"


def version_of(library: str) -> str:
    """Version of a library by its own account, unless that is behind the installed release."""
    try:
        installed = version(_DISTRIBUTIONS.get(library, library))
    except PackageNotFoundError:
        installed = ""
    try:
        stated = str(getattr(importlib.import_module(library), "__version__", ""))
    except ImportError:  # some need a remedy first, as SchNetPack does beside torch 2.13
        return installed or "missing"
    return stated if stated.startswith(installed) else installed


def throughput_line(samples: float, seconds: float) -> str:
    """Throughput as Graphcore's benchmark runner finds it in the output."""
    return f"throughput: {samples / seconds:.2f} samples/sec"


@dataclass
class Timing:
    """CPU seconds of every repetition of one contestant.

    Attributes:
        seconds: one value per repetition, in order.
        result: what the last call returned.
    """

    seconds: List[float] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        """Median CPU seconds of a repetition."""
        return statistics.median(self.seconds)


def interleaved(
    contestants: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1, least_seconds: float = 0.0
) -> Dict[str, Timing]:
    """Let contestants take turns: a, b, c, a, b, c, ...

    Args:
        contestants: name -> function without arguments.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        least_seconds: a repetition calls its function again until it has lasted this long, so that a fast
            contestant is not measured on what a slow one left in the caches.
    """
    timings = {name: Timing() for name in contestants}
    for turn in range(warmup + repeats):
        for name, function in contestants.items():
            calls, seconds = 0, 0.0
            start = time.process_time()
            while calls == 0 or seconds < least_seconds:
                result = function()
                calls, seconds = calls + 1, time.process_time() - start
            if turn >= warmup:
                timings[name].seconds.append(seconds / calls)
                timings[name].result = result
    return timings


def median_ratio(slow: Timing, fast: Timing) -> float:
    """Ratio of speeds of two contestants: the median over rounds of the ratio within a round."""
    return statistics.median(s / max(f, 1e-9) for s, f in zip(slow.seconds, fast.seconds))


def in_child(target: str, **arguments: Any) -> Dict[str, Any]:
    """Measure in a fresh process, where nothing else has raised the memory peak.

    Args:
        target: "module:function"; called with ``arguments``, it prepares and returns a function without
            arguments, which is measured and whose result must be JSON.

    Returns:
        cpu, wall: seconds; loaded_mb: resident after preparing; peak_mb: highest while measured; result.

    Raises:
        RuntimeError: the child failed; holds its error output.
    """
    code = f"from benchmarks.common import _child; _child({target!r}, {json.dumps(arguments)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{target} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _child(target: str, arguments: str) -> None:
    module, function = target.split(":")
    work = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    gc.collect()
    _forget_peak()
    loaded = _memory_mb("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    figures = {"cpu": cpu, "wall": wall, "loaded_mb": loaded, "peak_mb": _memory_mb("VmHWM"), "result": result}
    print(json.dumps(figures))


def _forget_peak() -> None:
    """Start the kernel's memory peak anew; where that is not allowed the peak includes the preparation."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _memory_mb(name: str) -> float:
    """VmRSS or VmHWM of this process in MB (10^6 bytes); elsewhere than on Linux the peak since the start."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table whose columns line up."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(f"\n### {title}\n" + "\n".join(lines), flush=True)


class Goals:
    """Targets that are judged only after every figure is printed."""

    def __init__(self) -> None:
        self.judged: List[str] = []
        self.missed = 0

    def at_most(self, what: str, value: float, limit: float) -> None:
        """Record a goal that is met when ``value`` is small enough."""
        self._judge(value <= limit, f"{what}: {value:,.4g} <= {limit:,.4g}")

    def at_least(self, what: str, value: float, limit: float) -> None:
        """Record a goal that is met when ``value`` is large enough."""
        self._judge(value >= limit, f"{what}: {value:,.4g} >= {limit:,.4g}")

    def _judge(self, met: bool, text: str) -> None:
        self.judged.append(f"{'met   ' if met else 'MISSED'}  {text}")
        self.missed += not met

    def finish(self, enforce: bool) -> int:
        """Print every goal; the exit status is 1 when one is missed and goals are enforced."""
        print("\n### Goals\n" + "\n".join(self.judged))
        return int(enforce and self.missed > 0)


def arguments(description: Optional[str], argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The options that all benchmarks share: --quick, --shared, --no-goals."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and smaller sets")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    return parser.parse_args(argv)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
