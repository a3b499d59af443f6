"""Options of the backends as plain values: read by the command line before anything heavy is imported."""

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

from ipu_chem.ranges import THREADS, check_choice, check_fields

ACCELERATORS = ("auto", "cpu", "cuda", "ipu")
FLOATS = ("float32", "float16")
AUTOCASTS = ("none", "bfloat16", "float16")


class World(NamedTuple):
    """Processes that run one training together, each with its part of the replicas.

    Attributes:
        rank: of this process, from 0; the process of rank 0 writes the files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1


ALONE = World()


def world_of_torchrun() -> World:
    """This process among those that torchrun has started; alone when it was not torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # other launchers set RANK for purposes of their own
        return ALONE
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


@dataclass(frozen=True)
class Batching:
    """Cut of the packs of one call, in PopTorch's terms.

    Attributes:
        micro_batch_size: packs in one forward pass on one replica.
        gradient_accumulation: micro-batches whose gradients are added up before a step.
        replication_factor: replicas that each do the same with other packs.
        device_iterations: optimizer steps in one call.
    """

    micro_batch_size: int = 1
    gradient_accumulation: int = 1
    replication_factor: int = 1
    device_iterations: int = 1

    def __post_init__(self) -> None:
        check_fields(self, "batching", **dict.fromkeys(vars(self), "1 or more"))

    @property
    def packs_per_step(self) -> int:
        """Packs whose weighted mean loss one optimizer step follows."""
        return self.micro_batch_size * self.gradient_accumulation * self.replication_factor

    @property
    def packs_per_call(self) -> int:
        """Packs that `Backend.train_step` takes."""
        return self.packs_per_step * self.device_iterations

    @property
    def packs_per_evaluation(self) -> int:
        """Packs that `Backend.evaluate` takes: no accumulation there."""
        return self.micro_batch_size * self.replication_factor * self.device_iterations

    def for_one_of(self, world: World) -> "Batching":
        """The part of one process: its part of the replicas.

        Raises:
            ValueError: the replicas cannot be divided equally.
        """
        if self.replication_factor % world.size:
            raise ValueError(
                f"batching.replication_factor={self.replication_factor} counts the replicas of all {world.size} "
                "processes; use a multiple of their number."
            )
        return replace(self, replication_factor=self.replication_factor // world.size)


@dataclass(frozen=True)
class Precision:
    """Number formats of training; on a CPU float16 is emulated: stored in 16 bits, computed in 32.

    Attributes:
        weights: float32, or float16: weights and activations in 16 bits; positions, distances, normalizations
            and losses stay in 32.
        loss_scaling: factor that keeps float16 gradients from vanishing; the update divides it out.
        stochastic_rounding: round weight updates to float16 at random, right on average (IPUs).
        partials: float32, or float16: format in which IPUs add up matrix products.
        accumulation: float32, or float16: format in which gradients are added up over micro-batches, and in
            which adam and adamw keep the first moment; float16 needs float16 weights.
    """

    weights: str = "float32"
    loss_scaling: float = 1.0
    stochastic_rounding: bool = False
    partials: str = "float32"
    accumulation: str = "float32"

    def __post_init__(self) -> None:
        for name in ("weights", "partials", "accumulation"):
            check_choice(f"precision.{name}", getattr(self, name), FLOATS)
        check_fields(self, "precision", loss_scaling="above 0")
        if self.weights == "float32" and "float16" in (self.partials, self.accumulation):
            raise ValueError("precision.partials and accumulation are float16 only with precision.weights=float16.")


@dataclass(frozen=True)
class TorchOptions:
    """Options of the CPU and CUDA backend.

    Attributes:
        compile: run the model through torch.compile; the fixed shapes need one compilation for training and one
            for evaluation, and later runs find them again.
        compile_blocks: with compile, compile a block that the model repeats once for all, not the model as a
            whole: seconds instead of a minute for deep models; needs torch 2.6.
        compile_backend: of torch.compile; "inductor" generates code, "aot_eager" only traces.
        cuda_graphs: with compile on CUDA, launch a compiled program in one piece; small models gain most.
        autocast: none, bfloat16 or float16: format of matrix products, while weights, distances and energies stay
            in float32. float16 is for CUDA; bfloat16 also for CPUs that have it (avx512_bf16, amx_bf16).
        kernels: on CPUs, run what takes most of the time in native kernels, compiled once by the C compiler that is
            there; where there is none, or in other formats than float32, plain torch does it. On CUDA devices
            attention runs in torch's fused operator.
        threads: CPU threads of torch; 0 leaves torch's choice, which is one each when torchrun starts several
            processes. Compiled scatters are fastest with one.
        fsdp: shard weights, gradients and optimizer state over the processes of torchrun, block by block, for
            models that do not fit one device (fully sharded data parallel); needs torch 2.8. Checkpoints are the
            same with and without. A process that trains alone keeps all.
        timeout: seconds that a process which torchrun has started waits for the others before it gives up.
    """

    compile: bool = False
    compile_blocks: bool = False
    compile_backend: str = "inductor"
    cuda_graphs: bool = False
    autocast: str = "none"
    kernels: bool = True
    threads: int = 0
    fsdp: bool = False
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        check_choice("torch.autocast", self.autocast, AUTOCASTS)
        check_fields(self, "torch", threads=THREADS, timeout="from 1 to 10,000,000")
        for name in ("compile_blocks", "cuda_graphs"):
            if getattr(self, name) and not self.compile:
                raise ValueError(f"torch.{name}=true is a way to compile: set torch.compile=true too.")
        if self.cuda_graphs and self.compile_backend != "inductor":
            raise ValueError("torch.cuda_graphs=true needs torch.compile_backend=inductor.")
        if self.fsdp and self.compile and not self.compile_blocks:
            raise ValueError("torch.fsdp=true shards block by block: set torch.compile_blocks=true too.")
        if self.fsdp and self.cuda_graphs:
            raise ValueError(
                "torch.fsdp=true moves weights, torch.cuda_graphs=true needs them in place; leave one out."
            )
        if self.fsdp and self.autocast == "float16":
            raise ValueError("torch.fsdp=true does not go with torch.autocast=float16; use bfloat16 or none.")
