"""CPU and CUDA: the device program's schedule, step by step, in plain torch.

Device iterations, accumulation and replicas are carried out exactly as an IPU system would, one
micro-batch after the other, so a run's loss curve does not depend on the device.

On data's way: GraphPack -> TorchBackend -> losses and predictions.
"""

from contextlib import nullcontext
from typing import Any, Callable, Dict, Iterable, Optional

import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Backend, Program
from ipu_chem.backends.half import HalfOnCpu, HalfWeights, weights_to_half
from ipu_chem.backends.options import Batching, Precision, TorchOptions
from ipu_chem.optim import OptimizerConfig


class TorchBackend(Backend):
    """Trains on one CPU or one CUDA device."""

    def __init__(
        self, device: str = "cpu", options: Optional[TorchOptions] = None, precision: Optional[Precision] = None
    ) -> None:
        """Choose the device.

        Args:
            device: "cpu", "cuda" or "cuda:1".
            options: compilation and threads.
            precision: number formats; float16 is emulated on CPUs.

        Raises:
            ValueError: there is no such device here, or it cannot do what is asked of it.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                "accelerator=cuda, but torch sees no CUDA device; install a CUDA build of torch or use accelerator=cpu."
            )
        self.name = device
        self.device = torch.device(device)
        self.options = options or TorchOptions()
        self.precision = precision or Precision()
        self._is_half = self.precision.weights == "float16"
        if self._is_half and self.options.compile:
            raise ValueError("precision.weights=float16 does not go with torch.compile=true; leave one of them out.")
        if self.options.threads > 0:
            torch.set_num_threads(self.options.threads)
        self._program: Optional[Program] = None
        self._optimizer: Optional[torch.optim.Optimizer] = None
        self._half: Optional[HalfWeights] = None

    def compile(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        optimizer: Optional[OptimizerConfig],
        batching: Batching,
        example: Any,
    ) -> None:
        """See `Backend.compile`; torch.compile itself runs at the first call."""
        self.batching = batching
        self._config = optimizer
        if self._is_half:
            weights_to_half(model)
        self._program = Program(model, loss).to(self.device)
        self._run: Callable[[Any], Any] = self._program
        if self.options.compile:
            self._run = torch.compile(self._program, dynamic=False, backend=self.options.compile_backend)
        if optimizer is not None:
            if self._is_half:
                self._half = HalfWeights(model, self.precision)
            self._optimizer = build_optimizer(optimizer, self._trained())

    def train_step(self, batch: Any, learning_rate: float) -> Tensor:
        """See `Backend.train_step`."""
        assert self._optimizer is not None and self._config is not None, "compile() got no optimizer"
        batching = self.batching
        self._check_packs(batch, batching.packs_per_call)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        micro_batches = self._micro_batches(batch)
        losses = []
        for _ in range(batching.device_iterations):
            self._optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=self.device)
            for _ in range(batching.gradient_accumulation * batching.replication_factor):
                total = total + self._backward(next(micro_batches))
            if self._half is not None:
                self._half.unscale()
            if self._config.max_grad_norm > 0:
                nn.utils.clip_grad_norm_(self._trained(), self._config.max_grad_norm)
            self._optimizer.step()
            if self._half is not None:
                self._half.write_back(self._optimizer)
            losses.append(total)
        return torch.stack(losses).cpu()

    def evaluate(self, batch: Any) -> Tensor:
        """See `Backend.evaluate`.

        Compiled, it runs the training program and ignores the loss: a second program without gradients
        would mean a second compilation.
        """
        assert self._program is not None, "compile() comes first"
        self._check_packs(batch, self.batching.packs_per_evaluation)
        with torch.set_grad_enabled(self.options.compile), self._arithmetic():
            predictions = [self._run(micro)[0].detach() for micro in self._micro_batches(batch)]
        return torch.cat(predictions).cpu()

    def state_dict(self, weights_only: bool = False) -> Dict[str, Dict[str, Any]]:
        """See `Backend.state_dict`."""
        assert self._program is not None, "compile() comes first"
        model = self._program.model.state_dict()
        state = {"model": {name: value.detach().cpu().clone() for name, value in model.items()}}
        if self._optimizer is not None and not weights_only:
            state["optimizer"] = {
                f"{index}.{name}": value.detach().cpu().clone() if isinstance(value, Tensor) else value
                for index, values in self._optimizer.state_dict()["state"].items()
                for name, value in values.items()
            }
        return state

    def load_state_dict(self, state: Dict[str, Dict[str, Any]]) -> None:
        """See `Backend.load_state_dict`."""
        assert self._program is not None, "compile() comes first"
        self._program.model.load_state_dict(state["model"])
        if self._half is not None:
            self._half.read()
        if "optimizer" in state and self._optimizer is not None:
            full = self._optimizer.state_dict()
            full["state"] = {}
            for key, value in state["optimizer"].items():
                index, name = key.split(".", 1)
                full["state"].setdefault(int(index), {})[name] = value
            self._optimizer.load_state_dict(full)

    def close(self) -> None:
        """See `Backend.close`."""
        self._program = None
        self._optimizer = None
        self._half = None

    def _backward(self, micro_batch: Any) -> Tensor:
        """Add the gradients of one micro-batch to those of the step; returns its loss."""
        with self._arithmetic():
            _, loss = self._run(micro_batch)
            (loss * self.precision.loss_scaling if self._is_half else loss).backward()
        if self._half is not None:
            self._half.collect()
        return loss.detach()

    def _arithmetic(self) -> Any:
        """How operators compute: as the device does, or float16 emulated."""
        return HalfOnCpu() if self._is_half and self.device.type == "cpu" else nullcontext()

    def _trained(self) -> Iterable[nn.Parameter]:
        """What the optimizer moves."""
        assert self._program is not None
        if self._half is not None:
            return self._half.stand_ins
        return [parameter for parameter in self._program.parameters() if parameter.requires_grad]

    def _micro_batches(self, batch: Any) -> Any:
        """The batch on the device, cut into micro-batches in order."""
        size = self.batching.micro_batch_size
        fields = [field.to(self.device, non_blocking=True).split(size) for field in batch]
        return (type(batch)(*micro) for micro in zip(*fields))

    def _check_packs(self, batch: Any, expected: int) -> None:
        got = len(batch[0])
        if got != expected:
            raise ValueError(f"the batch holds {got} packs, the batching ({self.batching}) makes {expected} a call.")


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The torch optimizer that a description stands for."""
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
