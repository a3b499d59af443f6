"""Options of the backends as plain values: read by the command line before anything heavy is imported.

On data's way: config -> Batching, TorchOptions -> Backend.compile.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Batching:
    """How the packs of one call are cut up, in PopTorch's terms.

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
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"batching.{name}={value!r}: give an integer of 1 or more.")

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


@dataclass(frozen=True)
class TorchOptions:
    """Options of the CPU and CUDA backend.

    Attributes:
        compile: run the model through torch.compile; the fixed shapes need one compilation a run.
        compile_backend: of torch.compile; "inductor" generates code, "aot_eager" only traces.
        threads: CPU threads of torch; 0 leaves torch's choice.
    """

    compile: bool = False
    compile_backend: str = "inductor"
    threads: int = 0
