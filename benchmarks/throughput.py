"""Training throughput of one model on one device: what every command of benchmarks.yml runs.

    python -m benchmarks.throughput --model schnet --dataset qm9 --accelerator cpu --calls 3
    python -m benchmarks.throughput --model chemgpt-4.7m --accelerator ipu --batching.replication_factor 16

Warm-up calls, in which programs are compiled and loaded, do not count. A timed call is all that training does
for it: batches made on the host, sent, trained on, losses back. Of several processes only the first prints.

Use: `read(words)` gives the settings of a command without running it; `benchmarks.pod` checks with it.
"""

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import machine_line, throughput_line
from ipu_chem.backends.ipu_options import IpuOptions
from ipu_chem.backends.options import Batching, Precision, TorchOptions
from ipu_chem.optim import OptimizerConfig

# Atom slots of a pack and of a padded molecule as in the IPU study of SchNet, arXiv:2211.13853.
_NODES = {"qm9": (36, 32), "hydronet": (192, 96), "hydronet_2_7m": (192, 96), "hydronet_500k": (192, 96)}
_CHEMGPT = "chemgpt-"
_VOCABULARY = 684  # symbols of ChemGPT's published tokenizer


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        model: schnet, chemgpt-4.7m, chemgpt-19m or chemgpt-1.2b.
        data: generated, made up in the sizes of the data set, or real, read from path.
        dataset: of schnet: qm9, hydronet, hydronet_2_7m or hydronet_500k.
        path: folder of the raw files of qm9, or a file (.extxyz, .xyz, .sdf, .csv) of the others.
        target: label to learn from real data; empty takes the first.
        limit: use only the first this many real molecules; 0 uses all.
        cache: folder for prepared real data; empty is the usual one.
        packed: many molecules to a pack; true unless padded.
        padded: one molecule to a pack of the largest size, the baseline.
        nodes: atom slots of a pack; 0 takes those of the IPU study for the data set.
        tokens: token slots of a pack, for chemgpt.
        layers: of chemgpt; 0 takes all that it has.
        edges: where edges are made: host, or device, from the positions.
        neighbours: edges that end at an atom, at most; real data has what lies within the cutoff.
        hidden_features: of schnet.
        num_filters: of schnet.
        num_interactions: of schnet.
        num_gaussians: of schnet.
        cutoff: of schnet, Å.
        warmup: calls that do not count.
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
    packed: bool = True
    padded: bool = False
    nodes: int = 0
    tokens: int = 256
    layers: int = 0
    edges: str = "host"
    neighbours: int = 28
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
        known = {"data": ("generated", "real"), "edges": ("host", "device"), "dataset": tuple(_NODES)}
        known["accelerator"] = ("auto", "cpu", "cuda", "ipu")
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(values)}.")
        if self.model not in ("schnet", f"{_CHEMGPT}4.7m", f"{_CHEMGPT}19m", f"{_CHEMGPT}1.2b"):
            raise ValueError(f"model={self.model!r}: choose schnet, chemgpt-4.7m, chemgpt-19m or chemgpt-1.2b.")
        if self.is_graph_model and self.data == "real" and not self.path and self.dataset != "qm9":
            raise ValueError(f"data=real of {self.dataset} needs path, a file of molecules with energies.")
        if not self.is_graph_model and self.data == "real":
            raise ValueError(f"{self.model} is measured on generated sequences; leave data=real out.")
        if self.padded and self.data == "real":
            raise ValueError("padded is measured on generated molecules; leave data=real out.")
        if self.warmup < 1 or self.calls < 1 or self.prefetch < 0:
            raise ValueError("warmup and calls are 1 or more, because the first call compiles; prefetch is 0 or more.")

    @property
    def is_graph_model(self) -> bool:
        """Whether packs hold molecules rather than token sequences."""
        return not self.model.startswith(_CHEMGPT)

    @property
    def pack_nodes(self) -> int:
        """Atom slots of a pack."""
        return self.nodes or _NODES[self.dataset][int(self.padded)]


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
    tokens: float


def read(words: Sequence[str]) -> Settings:
    """The settings that a command line stands for; wrong options end the program with a usage message.

    Raises:
        ValueError: settings that cannot go together; says why.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="throughput", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_class_arguments(Settings, None)
    parsed = parser.parse_args([_switch(word) for word in words])
    # jsonargparse renamed the method in 4.49, which needs a newer Python than PopTorch's.
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    settings = Settings(**vars(make(parsed)))
    return replace(settings, packed=not settings.padded)


def measure(settings: Settings) -> Dict[str, float]:
    """Train for the warm-up and the timed calls.

    Returns:
        throughput: samples per second; tokens: per second, 0 for molecules; loss: mean over the timed calls;
        host: share of the time in which the device waited for batches; slowest, fastest: seconds of a call.
        Empty in all processes but the first, and where programs are only compiled.

    Raises:
        ValueError: the device or the data cannot do what is asked for.
        FloatingPointError: the loss is not finite.
    """
    from ipu_chem.backends import get_backend
    from ipu_chem.prefetch import prefetched

    backend = get_backend(settings.accelerator, settings.torch, settings.ipu, settings.precision)
    say = print if backend.world.rank == 0 else _silent
    say(_header(settings))
    work = _graph_work(settings, backend.world) if settings.is_graph_model else _token_work(settings, backend.world)
    parameters = sum(parameter.numel() for parameter in work.model.parameters())
    say(f"model: {settings.model}, {parameters:,} parameters, on {backend.name}; {settings.batching}")
    say(f"packs: {work.fill}", flush=True)
    batches = prefetched(_endless(work.epoch), settings.prefetch)
    batch, samples = next(batches)
    started = time.perf_counter()
    backend.compile(work.model, work.loss, settings.optimizer, settings.batching, batch)
    say(f"compiled in {time.perf_counter() - started:.1f} s", flush=True)
    if settings.ipu.offline is not None:
        batches.close()
        backend.close()
        return {}
    rate, losses, seconds, waits, counts = settings.optimizer.learning_rate, [], [], [], []
    for call in range(settings.warmup + settings.calls):
        started = time.perf_counter()
        if call:
            batch, samples = next(batches)
        made = time.perf_counter()
        loss = float(backend.train_step(batch, rate).mean())
        if not math.isfinite(loss) and not settings.ipu.synthetic_data:
            raise FloatingPointError(f"the loss of call {call} is {loss}; what was measured is no training.")
        if call >= settings.warmup:
            losses.append(loss)
            seconds.append(time.perf_counter() - started)
            waits.append(made - started)
            counts.append(samples)
    batches.close()
    backend.close()
    if backend.world.rank != 0:
        return {}
    per_second = sum(counts) / sum(seconds)
    return {
        "throughput": per_second,
        "tokens": per_second * work.tokens,
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


def _graph_work(settings: Settings, world: Any) -> Work:
    """A graph model and molecules of the data set's sizes, or its real ones."""
    from ipu_chem.losses import LOSSES

    if settings.data == "real":
        from ipu_chem.training.run import load_data, make_model

        config = _run_config(settings)
        data = load_data(config)
        data.world = world
        loader = data.loader("train", config)
        loader.check_steps()
        model = make_model(config, data.targets, data.neighbors)
        return Work(model, LOSSES["mse"], loader.epoch, data.plans["train"].summary(), 0.0)

    import torch

    from benchmarks.generated import graph_feed
    from ipu_chem.models.device_edges import DeviceEdges
    from ipu_chem.models.registry import build_model

    feed = graph_feed(settings, world)
    torch.manual_seed(0)
    model = build_model("schnet", 1, True, "sum", **_sizes(settings))
    if settings.edges == "device":
        model = DeviceEdges(model, settings.cutoff, settings.neighbours)
    return Work(model, LOSSES["mse"], feed.loader.epoch, feed.plan.summary(), 0.0)


def _token_work(settings: Settings, world: Any) -> Work:
    """ChemGPT and sequences as long as those of drug-like molecules."""
    import torch

    from benchmarks.generated import token_feed
    from ipu_chem.losses import token_cross_entropy
    from ipu_chem.models.chemgpt import ChemGPT

    feed = token_feed(settings, _VOCABULARY, world)
    torch.manual_seed(0)
    model = ChemGPT(settings.model, _VOCABULARY, settings.tokens, num_layers=settings.layers)
    return Work(model, token_cross_entropy, feed.loader.epoch, feed.plan.summary(), float(feed.sizes.mean()))


def _run_config(settings: Settings) -> Any:
    """A training run on real molecules with the same model, packs and options."""
    from ipu_chem.config import DataConfig, ModelConfig, PackConfig, RunConfig

    return RunConfig(
        data=DataConfig(
            name="qm9" if settings.dataset == "qm9" else "file",
            path=settings.path,
            cache=settings.cache,
            target=settings.target,
            limit=settings.limit,
            validation=0.0,
            test=0.0,
        ),
        pack=PackConfig(nodes=settings.pack_nodes, device_neighbors=-1 if settings.edges == "device" else 0),
        model=ModelConfig(**_sizes(settings)),
        optimizer=settings.optimizer,
        batching=settings.batching,
        precision=settings.precision,
    )


def _sizes(settings: Settings) -> Dict[str, Any]:
    """Of the graph model."""
    names = ("hidden_features", "num_filters", "num_interactions", "num_gaussians", "cutoff")
    return {name: getattr(settings, name) for name in names}


def _endless(epoch: Callable[[int, int], Iterator[Tuple[Any, int]]]) -> Iterator[Tuple[Any, int]]:
    number = 0
    while True:
        yield from epoch(0, number)
        number += 1


def _header(settings: Settings) -> str:
    """Date, machine and versions, and what kind of data."""
    libraries = ("numpy", "torch", "poptorch") if settings.accelerator == "ipu" else ("numpy", "torch")
    kind = settings.dataset if settings.is_graph_model else "SELFIES lengths"
    layout = "padded" if settings.padded else "packed"
    return f"{machine_line(settings.precision.weights, *libraries)} | {settings.data} {kind}, {layout}"


def _switch(word: str) -> str:
    """`--packed` and `--padded` may stand alone."""
    return f"{word}=true" if word in ("--packed", "--padded") else word


def _silent(*_: Any, **__: Any) -> None:
    """What every process but the first prints."""


if __name__ == "__main__":
    sys.exit(main())
