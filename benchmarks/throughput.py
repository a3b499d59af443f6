"""Training throughput of one model on one device: what every command of benchmarks.yml runs.

    python -m benchmarks.throughput --model schnet --dataset qm9 --accelerator cpu --calls 3
    python -m benchmarks.throughput --model chemgpt-4.7m --accelerator ipu --batching.replication_factor 16

Warm-up calls, in which programs are compiled and loaded, do not count. A timed call is all that training does
for it: batches made on the host, sent, trained on, losses back. Of several processes only the first prints.

Use: `read(words)` gives the settings of a command without running it; `benchmarks.pod` checks with it.
"""

import argparse
import hashlib
import itertools
import math
import statistics
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import machine_line, throughput_line
from ipu_chem.backends.options import Batching, Precision, TorchOptions, World
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.optim import OptimizerConfig

# Atom slots of a pack and of a padded molecule as in the IPU study of SchNet, arXiv:2211.13853; of all HydroNet
# without the 154th slot there, which no sum of clusters of 3 n atoms can fill.
_NODES = {"qm9": (36, 32), "hydronet": (153, 96), "hydronet_2_7m": (192, 96), "hydronet_500k": (192, 96)}
_CHEMGPT = "chemgpt-"
_VOCABULARY = 684  # symbols of ChemGPT's published tokenizer


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        model: schnet, chemgpt-4.7m, chemgpt-19m or chemgpt-1.2b.
        data: generated, made up in the sizes of the data set, or real, read from path.
        dataset: of schnet: qm9, hydronet, hydronet_2_7m or hydronet_500k.
        path: folder of the raw files of qm9, or a file (.extxyz, .xyz, .sdf, .csv) of the others.
        target: label to learn from real data; empty takes the first.
        limit: use only the first this many real molecules; 0 uses all.
        cache: folder for prepared real data; empty is the usual one.
        layout: packed, or padded: one molecule to a pack that holds the largest, the baseline.
        nodes: atom slots of a pack; 0 takes those of the IPU study for the data set.
        tokens: token slots of a pack, for chemgpt.
        layers: of chemgpt; 0 takes all that it has.
        edges: where edges are made: host, or device, from the positions.
        neighbors: edges that end at an atom, at most; real ones made on the host are all within the cutoff.
        hidden_features: of schnet.
        num_filters: of schnet.
        num_interactions: of schnet.
        num_gaussians: of schnet.
        cutoff: of schnet, Å.
        warmup: calls that do not count, besides those with batches made ahead during compilation.
        calls: calls that are timed.
        prefetch: batches that a thread makes ahead; 0 makes each when it is needed.
        accelerator: auto, cpu, cuda or ipu.
        optimizer: how weights follow gradients.
        batching: how a call of all processes together is cut up.
        precision: number formats.
        torch: options of the CPU and CUDA backend.
        ipu: options of the IPU backend.
    """

    model: str = "schnet"
    data: str = "generated"
    dataset: str = "qm9"
    path: str = ""
    target: str = ""
    limit: int = 0
    cache: str = ""
    layout: str = "packed"
    nodes: int = 0
    tokens: int = 256
    layers: int = 0
    edges: str = "host"
    neighbors: int = 28
    hidden_features: int = 100
    num_filters: int = 100
    num_interactions: int = 4
    num_gaussians: int = 25
    cutoff: float = 6.0
    warmup: int = 1
    calls: int = 10
    prefetch: int = 2
    accelerator: str = "auto"
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adam"))
    batching: Batching = field(default_factory=Batching)
    precision: Precision = field(default_factory=Precision)
    torch: TorchOptions = field(default_factory=TorchOptions)
    ipu: IpuOptions = field(default_factory=IpuOptions)

    def __post_init__(self) -> None:
        known = {
            "model": ("schnet", f"{_CHEMGPT}4.7m", f"{_CHEMGPT}19m", f"{_CHEMGPT}1.2b"),
            "data": ("generated", "real"),
            "dataset": tuple(_NODES),
            "layout": ("packed", "padded"),
            "edges": ("host", "device"),
            "accelerator": ("auto", "cpu", "cuda", "ipu"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(values)}.")
        if self.is_graph_model and self.data == "real" and not self.path and self.dataset != "qm9":
            raise ValueError(f"data=real of {self.dataset} needs path, a file of molecules with energies.")
        if not self.is_graph_model and self.data == "real":
            raise ValueError(f"{self.model} is measured on generated sequences; leave data=real out.")
        if self.warmup < 1 or self.calls < 1 or self.prefetch < 0:
            raise ValueError("warmup and calls are 1 or more, because the first call compiles; prefetch is 0 or more.")

    @property
    def is_graph_model(self) -> bool:
        """True where packs hold molecules rather than token sequences."""
        return not self.model.startswith(_CHEMGPT)

    @property
    def pack_nodes(self) -> int:
        """Atom slots of a pack."""
        return self.nodes or _NODES[self.dataset][self.layout == "padded"]


class Work(NamedTuple):
    """A model and what to train it on.

    Attributes:
        model: parameters on the host.
        loss: function of (prediction, labels, weights).
        epoch: (seed, epoch) -> batches with their number of samples.
        fill: what of a pack is used, in words.
        tokens: per sample, 0 for molecules.
    """

    model: Any
    loss: Callable[..., Any]
    epoch: Callable[[int, int], Iterator[Tuple[Any, int]]]
    fill: str
    tokens: float = 0.0


def read(words: Sequence[str]) -> Settings:
    """The settings that a command line stands for; --help prints them and ends the program.

    Raises:
        ValueError: an option is unknown, or settings cannot go together; says why.
    """
    try:
        return _read(tuple(words))
    except argparse.ArgumentError as error:
        raise ValueError(f"{' '.join(str(error).split())}; --help lists the options.") from None


def measure(settings: Settings) -> Dict[str, float]:
    """Train for the warm-up and the timed calls.

    Returns:
        throughput: samples per second; tokens: per second, 0 for molecules; loss: mean over the timed calls;
        host: fraction of the time in which the device waited for batches; slowest, fastest: seconds of a call.
        Empty in all processes but the first, and where programs are only compiled.

    Raises:
        ValueError: the device or the data cannot do what is asked for.
        FloatingPointError: the loss is not finite.
    """
    from ipu_chem.backends import get_backend
    from ipu_chem.batches.prefetch import prefetched

    with closing(get_backend(settings.accelerator, settings.torch, settings.ipu, settings.precision)) as backend:
        say = print if backend.world.rank == 0 else _silent
        say(_header(settings))
        work = make_work(settings, backend.world)
        parameters = sum(parameter.numel() for parameter in work.model.parameters())
        say(f"model: {settings.model}, {parameters:,} parameters, on {backend.name}; {settings.batching}")
        say(f"packs: {work.fill}", flush=True)
        batches = _same(work.epoch) if settings.ipu.synthetic_data else _endless(work.epoch)
        ahead: Any = prefetched(batches, settings.prefetch)
        with closing(ahead):
            first = next(ahead)
            started = time.perf_counter()
            backend.compile(work.model, work.loss, settings.optimizer, settings.batching, first[0])
            say(f"compiled in {time.perf_counter() - started:.1f} s", flush=True)
            if backend.compiles_only:
                return {}
            # Batches that were made while programs compiled say nothing about the host: they do not count either.
            uncounted = settings.warmup + settings.prefetch
            feed = itertools.chain([first], ahead)
            timed = [_call(backend, feed, settings) for _ in range(uncounted + settings.calls)]
    if backend.world.rank != 0:
        return {}
    samples, losses, waits, seconds = zip(*timed[uncounted:])
    return {
        "throughput": sum(samples) / sum(seconds),
        "tokens": sum(samples) / sum(seconds) * work.tokens,
        "loss": statistics.mean(losses),
        "host": sum(waits) / sum(seconds),
        "slowest": max(seconds),
        "fastest": min(seconds),
    }


def main(words: Optional[List[str]] = None) -> int:
    """Measure and print; returns the exit status."""
    try:
        figures = measure(read(sys.argv[1:] if words is None else words))
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 1
    if figures:
        print(f"loss: {figures['loss']:.6f}")
        spread = f"{figures['fastest']:.4f} to {figures['slowest']:.4f} s"
        print(f"calls: {spread}, waited for the host {100 * figures['host']:.1f} %")
        if figures["tokens"]:
            print(f"tokens: {figures['tokens']:.2f} tokens/sec")
        print(throughput_line(figures["throughput"], 1.0), flush=True)
    return 0


def make_work(settings: Settings, world: World) -> Work:
    """The model, and molecules or token sequences: real ones, or made up in their sizes.

    Args:
        settings: see `Settings`.
        world: this process among those that train together.

    Raises:
        ValueError: the data cannot be read, or do not fit the packs.
    """
    if not settings.is_graph_model:
        return _token_work(settings, world)
    return _real_work(settings, world) if settings.data == "real" else _generated_work(settings, world)


@lru_cache(maxsize=None)
def _read(words: Tuple[str, ...]) -> Settings:
    """Settings of a command; reading takes a while, and a list of benchmarks is read several times."""
    # jsonargparse renamed the method in 4.49, which needs a newer Python than PopTorch's.
    make = getattr(_parser(), "instantiate", None) or _parser().instantiate_classes
    return Settings(**vars(make(_parser().parse_args(list(words)))))


@lru_cache(maxsize=None)
def _parser() -> Any:
    """One argument for each of the settings."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="throughput",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_class_arguments(Settings, None)
    return parser


def _generated_work(settings: Settings, world: World) -> Work:
    """A graph model and molecules of the data set's sizes."""
    import torch

    from benchmarks.generated import graph_feed
    from ipu_chem.losses import mse
    from ipu_chem.models.compact import CompactInputs
    from ipu_chem.models.device_edges import DeviceEdges
    from ipu_chem.models.registry import build_model

    feed = graph_feed(settings, world)
    torch.manual_seed(0)
    model = build_model("schnet", 1, True, "sum", **_sizes(settings))
    if settings.edges == "device":
        model = DeviceEdges(model, settings.cutoff, settings.neighbors)
    return Work(CompactInputs(model, feed.position_step), mse, feed.loader.epoch, feed.plan.summary())


def _real_work(settings: Settings, world: World) -> Work:
    """A graph model and the molecules of the data set."""
    from ipu_chem.losses import mse
    from ipu_chem.tasks.graphs import make_model
    from ipu_chem.training.shared_plans import load_together

    config = _run_config(settings)
    task: Any = load_together(config, world, {})
    loader = task.loader("train")
    loader.check_steps()
    # A run would refuse to look for fewer neighbors than there are; the study whose speed this compares to did.
    neighbors = min(task.neighbors, settings.neighbors)
    model = make_model(config.model, config.training.seed, task.targets, neighbors, task.position_step)
    return Work(model, mse, loader.epoch, task.plans["train"].summary())


def _token_work(settings: Settings, world: World) -> Work:
    """ChemGPT and sequences as long as those of drug-like molecules."""
    import torch

    from benchmarks.generated import token_feed
    from ipu_chem.losses import token_cross_entropy
    from ipu_chem.models.chemgpt import ChemGPT

    feed = token_feed(settings, _VOCABULARY, world)
    torch.manual_seed(0)
    model = ChemGPT(settings.model, _VOCABULARY, settings.tokens, num_layers=settings.layers or 24)
    return Work(model, token_cross_entropy, feed.loader.epoch, feed.plan.summary(), float(feed.sizes.mean()))


def _run_config(settings: Settings) -> Any:
    """A training run on real molecules with the same model, packs and options."""
    from ipu_chem.cache import cache_folder
    from ipu_chem.config import DataConfig, ModelConfig, PackConfig, RunConfig, to_dict

    config = RunConfig(
        data=DataConfig(
            name="qm9" if settings.dataset == "qm9" else "file",
            path=settings.path,
            cache=settings.cache,
            target=settings.target,
            limit=settings.limit,
            validation=0.0,
            test=0.0,
        ),
        pack=PackConfig(
            nodes=settings.pack_nodes,
            graphs=int(settings.layout == "padded"),
            device_neighbors=-1 if settings.edges == "device" else 0,
        ),
        model=ModelConfig(filter="exact", **_sizes(settings)),
        optimizer=settings.optimizer,
        batching=settings.batching,
        precision=settings.precision,
    )
    # Here the first of several processes leaves its plan for the others.
    digest = hashlib.sha256(repr(to_dict(config)).encode()).hexdigest()[:12]
    return replace(config, out=str(cache_folder(settings.cache or None) / f"benchmark_{digest}"))


def _sizes(settings: Settings) -> Dict[str, Any]:
    """Options of the graph model."""
    names = ("hidden_features", "num_filters", "num_interactions", "num_gaussians", "cutoff")
    return {name: getattr(settings, name) for name in names}


def _endless(epoch: Callable[[int, int], Iterator[Tuple[Any, int]]]) -> Iterator[Tuple[Any, int]]:
    for number in itertools.count():
        yield from epoch(0, number)


def _same(epoch: Callable[[int, int], Iterator[Tuple[Any, int]]]) -> Iterator[Tuple[Any, int]]:
    """Always the first batch: a device that makes its own data must not wait for the host's."""
    yield from itertools.repeat(next(epoch(0, 0)))


def _call(backend: Any, feed: Iterator[Tuple[Any, int]], settings: Settings) -> Tuple[int, float, float, float]:
    """One call with the next batch: (samples, loss, seconds waited for the batch, seconds)."""
    started = time.perf_counter()
    packs, samples = next(feed)
    made = time.perf_counter()
    loss = float(backend.train_step(packs, settings.optimizer.learning_rate).mean())
    ended = time.perf_counter()
    if not math.isfinite(loss) and not settings.ipu.synthetic_data:
        raise FloatingPointError(f"the loss of a call is {loss}; what was measured is no training.")
    return samples, loss, made - started, ended - started


def _header(settings: Settings) -> str:
    """Date, machine and versions, and what kind of data."""
    libraries = ("numpy", "torch", "poptorch") if settings.accelerator == "ipu" else ("numpy", "torch")
    kind = settings.dataset if settings.is_graph_model else "SELFIES lengths"
    return f"{machine_line(settings.precision.weights, *libraries)} | {settings.data} {kind}, {settings.layout}"


def _silent(*_: Any, **__: Any) -> None:
    """Output of every process but the first."""


if __name__ == "__main__":
    sys.exit(main())
