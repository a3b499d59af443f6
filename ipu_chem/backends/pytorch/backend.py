"""CPU and CUDA: the device program's schedule, step by step, in plain torch.

Device iterations, accumulation and replicas are carried out exactly as an IPU system would, one
micro-batch after the other, so a run's loss curve does not depend on the device. Replicas are distributed
over the processes that torchrun starts; their gradients are added up once a step.
"""

import importlib.util
import os
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Backend, Program
from ipu_chem.backends.half import HalfOnCpu, HalfWeights, weights_to_half
from ipu_chem.backends.options import Batching, Precision, TorchOptions, world_of_torchrun
from ipu_chem.backends.pytorch.compile import compile_blocks, compiled_programs
from ipu_chem.backends.pytorch.flat import FlatWeights
from ipu_chem.backends.pytorch.fsdp import Shards, check_torch, on_host
from ipu_chem.backends.pytorch.kernels.choice import add_gradients_in_place, use_native_kernels
from ipu_chem.backends.pytorch.kernels.fused import use_fused_attention, use_torch_activations
from ipu_chem.backends.pytorch.kernels.operator import COMPILES_WHOLE
from ipu_chem.backends.pytorch.numerics import (
    build_optimizer,
    check_autocast,
    denormals_flushed,
    grad_scaler,
    keep_memory,
)
from ipu_chem.backends.pytorch.processes import Processes
from ipu_chem.backends.pytorch.transfer import to_device
from ipu_chem.batches.types import first_target
from ipu_chem.models.base import GraphModel
from ipu_chem.optim import OptimizerConfig, ParameterGroups

_SCALER = "scaler."  # prefix of the gradient scaler's values among those of the optimizer


class TorchBackend(Backend):
    """Trains on one CPU or CUDA device, or on one in each of the processes that torchrun has started."""

    def __init__(
        self, device: str = "cpu", options: Optional[TorchOptions] = None, precision: Optional[Precision] = None
    ) -> None:
        """Choose the device.

        Args:
            device: "cpu", "cuda" or "cuda:1"; "cuda" is one device for every process of a host.
            options: compilation, formats and threads.
            precision: number formats; float16 is emulated on CPUs.

        Raises:
            ValueError: there is no such device here, or it cannot do what is asked of it.
            ConnectionError: the other processes do not come.
        """
        if importlib.util.find_spec("poptorch") is not None:
            # PopTorch must be there before the first derivative of the process
            from ipu_chem.backends.poptorch.backend import import_before_backward

            import_before_backward()
        self.name = device
        self.options = options or TorchOptions()
        self.precision = precision or Precision()
        self.world = self.evaluates = world_of_torchrun()
        self.device = _device(device)
        self._is_half = self.precision.weights == "float16"
        self._check_options()
        if self.options.threads > 0:
            torch.set_num_threads(self.options.threads)
        self._processes = Processes(self.world, self.device, self.options.timeout)
        self._shards = Shards(self._processes, self.device) if self._is_sharded else None
        self._program: Optional[Program] = None
        self._optimizer: Optional[torch.optim.Optimizer] = None
        self._half: Optional[HalfWeights] = None
        self._flat: Optional[FlatWeights] = None
        self._leaves: Optional[List[nn.Parameter]] = None  # that gradients are taken of; None is all
        self._scaler: Any = grad_scaler(self.device.type) if self.options.autocast == "float16" else None

    def compile(
        self,
        model: nn.Module,
        loss: Optional[Callable[..., Tensor]],
        optimizer: Optional[OptimizerConfig],
        batching: Batching,
        example: Any,
    ) -> None:
        """See `Backend.compile`; torch.compile itself runs at the first call of either kind."""
        assert optimizer is None or loss is not None, "an optimizer needs a loss"
        self.batching = batching.for_one_of(self.world)
        self._config = optimizer
        self._flat = self._leaves = None
        native = 0
        if self._is_half:
            weights_to_half(model)
        if not self._is_half:
            use_torch_activations(model)
        differentiates = any(isinstance(part, GraphModel) and part.differentiates for part in model.modules())
        if differentiates and self.options.compile:
            raise ValueError(
                "torch.compile=true does not go with forces: torch compiles no derivative inside a model; leave it out."
            )
        if differentiates and optimizer is not None and self.device.type == "cpu":
            keep_memory()
        whole = self._shards is None and not self.options.compile
        if self._may_use_kernels(model):
            native = use_native_kernels(model, differentiates, whole, trained=optimizer is not None)
        elif self.options.kernels and self.device.type == "cuda":
            use_fused_attention(model)
        self._first_target = first_target(example)
        if self._shards is not None:
            self._shards.shard(model)
            packs = self.batching.packs_per_evaluation
            self._example = type(example)(*(field[:packs] for field in example))
            self._program = Program(model, loss, self._first_target)
        else:
            self._program = Program(model, loss, self._first_target).to(self.device)
            self._processes.broadcast([*model.parameters(), *model.buffers()])
        # The bare model is a program of its own: without loss and gradients it is cheaper.
        self._run: Callable[[Any], Any] = self._program
        self._predict: Callable[..., Any] = model
        if self.options.compile_blocks:
            compile_blocks(model, self.options)
        elif self.options.compile:
            self._run, self._predict = compiled_programs(self._program, self.options)
        # Where forces are taken positions are leaves of the graph, too, whose gradients nobody wants.
        if differentiates and self._shards is None:
            program: nn.Module = self._program
            self._leaves = [weight for weight in program.parameters() if weight.requires_grad] or None
        if optimizer is not None:
            if self._is_half:
                self._half = HalfWeights(model, self.precision)
            self._groups = ParameterGroups(optimizer, model, self._trained())
            groups = self._groups.groups
            # Autograd leaves out weights that nothing depends on, as decay of one tensor would not.
            if differentiates and self._may_be_flat() and (native or optimizer.weight_decay == 0.0):
                self._flat = FlatWeights(groups)
                groups = self._flat.groups
                add_gradients_in_place(model)
            self._optimizer = build_optimizer(optimizer, groups)

    def train_step(self, batch: Any, learning_rate: float) -> Tensor:
        """See `Backend.train_step`; the losses are those of all processes."""
        assert self._program is not None and self._optimizer is not None, "compile() got no optimizer"
        batching = self.batching
        self._check_packs(batch, batching.packs_per_call)
        if not self._program.training:  # walks over all parts of the model
            self._program.train()
        self._groups.set_learning_rate(self._optimizer, learning_rate)
        micro_batches = self._micro_batches(batch)
        losses = []
        with denormals_flushed(self.device.type == "cpu"), self._processes.among_computing():
            for _ in range(batching.device_iterations):
                self._clear_gradients()
                total = torch.zeros((), device=self.device)
                for _ in range(batching.gradient_accumulation * batching.replication_factor):
                    total = total + self._backward(next(micro_batches))
                # Gradients of a model that is sharded have been added up on the backward pass.
                weights = self._trained() if self._shards is None and self.world.size > 1 else []
                self._processes.all_reduce([*(weight.grad for weight in weights if weight.grad is not None), total])
                self._update()
                losses.append(total)
        return torch.stack(losses).cpu()

    def evaluate(self, batch: Any) -> Any:
        assert self._program is not None, "compile() comes first"
        self._check_packs(batch, self.batching.packs_per_evaluation)
        if self._shards is not None:
            self._processes.largest(1)  # see `total`
        return self._predictions(batch)

    def _predictions(self, batch: Any) -> Any:
        """`evaluate`, in this process."""
        assert self._program is not None
        self._program.eval()
        predictions = []
        flushed = denormals_flushed(self.device.type == "cpu")
        with torch.no_grad(), self._arithmetic(), flushed, self._processes.among_computing():
            for micro_batch in self._micro_batches(batch):
                self._begin_replay()
                predicted = self._predict(*micro_batch[: self._first_target])
                several = isinstance(predicted, tuple)
                predictions.append([one.cpu() for one in (predicted if several else (predicted,))])
        joined = tuple(torch.cat(parts) for parts in zip(*predictions))
        return joined if several else joined[0]

    def state_dict(self, weights_only: bool = False) -> Dict[str, Dict[str, Any]]:
        assert self._program is not None, "compile() comes first"
        model = self._program.model.state_dict()
        copies = on_host if self._shards is None else self._shards.gather
        state = {"model": copies(model)}
        if self._optimizer is not None and not weights_only:
            moments = self._optimizer.state_dict()["state"]
            moments = moments if self._flat is None else self._flat.apart(moments)
            state["optimizer"] = copies(
                {f"{i}.{name}": value for i, values in moments.items() for name, value in values.items()}
            )
            if self._scaler is not None:
                state["optimizer"].update({_SCALER + key: value for key, value in self._scaler.state_dict().items()})
        return state

    def load_state_dict(self, state: Dict[str, Dict[str, Any]]) -> None:
        assert self._program is not None, "compile() comes first"
        if self._shards is not None:
            state = self._shards.parts(state, self._program.model, self._optimizer)
        self._program.model.load_state_dict(state["model"])
        if self._half is not None:
            self._half.read()
        if "optimizer" in state and self._optimizer is not None:
            full = self._optimizer.state_dict()
            full["state"] = {}
            scaler = {}
            for key, value in state["optimizer"].items():
                if key.startswith(_SCALER):
                    scaler[key[len(_SCALER) :]] = value
                    continue
                index, name = key.split(".", 1)
                full["state"].setdefault(int(index), {})[name] = value
            if self._flat is not None:
                full["state"] = self._flat.together(full["state"])
            self._optimizer.load_state_dict(full)
            if self._scaler is not None and scaler:
                self._scaler.load_state_dict(scaler)

    def total(self, predictions: np.ndarray) -> np.ndarray:
        # A block's weights come from all processes: those with fewer batches run along until the last has ended.
        while self._shards is not None and self._processes.largest(0):
            self._predictions(self._example)
        return self._processes.total(predictions)

    def agreed(self, number: int) -> int:
        return self._processes.largest(number)

    def close(self) -> None:
        self._program = None
        self._optimizer = None
        self._half = None
        self._flat = None
        self._leaves = None
        self._run = self._predict = _closed
        self._processes.close()

    def _backward(self, micro_batch: Any) -> Tensor:
        """Add the gradients of one micro-batch to those of the step; returns its loss."""
        self._begin_replay()
        with self._arithmetic():
            _, loss = self._run(micro_batch)
        scaled = loss
        if self._is_half:
            scaled = loss * self.precision.loss_scaling
        elif self._scaler is not None:
            scaled = self._scaler.scale(loss)
        with HalfOnCpu() if self._emulates_half else nullcontext():
            scaled.backward(inputs=self._leaves)
        if self._half is not None:
            self._half.collect()
        return loss.detach()

    def _update(self) -> None:
        """One step of the optimizer along the gradients of all replicas."""
        assert self._optimizer is not None and self._config is not None
        if self._half is not None:
            self._half.unscale()
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        if self._config.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self._trained(), self._config.max_grad_norm)
        if self._scaler is not None:
            self._scaler.step(self._optimizer)  # leaves the step out where a gradient overflowed
            self._scaler.update()
        else:
            self._optimizer.step()
        if self._half is not None:
            self._half.write_back(self._optimizer)

    def _clear_gradients(self) -> None:
        """Before a step."""
        assert self._optimizer is not None
        if self._flat is not None:
            self._flat.clear_gradients()
        elif self.options.cuda_graphs:
            # A replay writes over what the last one gave out: gradients add up in memory of their own.
            for weight in self._trained():
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.zero_()
        else:
            self._optimizer.zero_grad(set_to_none=True)

    def _begin_replay(self) -> None:
        """Tell CUDA graphs that what the last micro-batch gave out is no longer needed."""
        if self.options.cuda_graphs and hasattr(torch, "compiler"):
            torch.compiler.cudagraph_mark_step_begin()

    def _arithmetic(self) -> Any:
        """Arithmetic of a forward pass: the device's, 16-bit products, or float16 emulated."""
        if self.options.autocast != "none":
            return torch.autocast(self.device.type, getattr(torch, self.options.autocast))
        return HalfOnCpu() if self._emulates_half else nullcontext()

    @property
    def _emulates_half(self) -> bool:
        return self._is_half and self.device.type == "cpu"

    @property
    def _is_sharded(self) -> bool:
        """True if this process has but a shard of the model."""
        return self.options.fsdp and self.world.size > 1

    def _trained(self) -> List[nn.Parameter]:
        """Parameters that the optimizer moves."""
        assert self._program is not None
        if self._half is not None:
            return self._half.stand_ins
        if self._flat is not None:
            return list(self._flat.values)
        return [parameter for parameter in self._program.parameters() if parameter.requires_grad]

    def _micro_batches(self, batch: Any) -> Any:
        """The batch on the device, cut into micro-batches in order."""
        size = self.batching.micro_batch_size
        if len(batch[0]) == size:
            return iter([to_device(batch, self.device)])
        fields = [field.split(size) for field in to_device(batch, self.device)]
        return (type(batch)(*micro) for micro in zip(*fields))

    def _may_use_kernels(self, model: nn.Module) -> bool:
        """True if the formats are the kernels' own, and torch.compile would keep programs in one piece around them."""
        single = all(weight.dtype == torch.float32 for weight in model.parameters())
        whole = not self.options.compile or COMPILES_WHOLE
        plain = self.device.type == "cpu" and self.options.autocast == "none"
        return self.options.kernels and single and whole and plain

    def _may_be_flat(self) -> bool:
        """True if the weights that are trained have one format and lie here, whole."""
        whole = self.device.type == "cpu" and not self._is_half and not self._is_sharded
        return whole and len({weight.dtype for weight in self._trained()}) == 1

    def _check_options(self) -> None:
        """Refuse what does not go together or not on this device."""
        if self._is_half and self.options.compile:
            raise ValueError("precision.weights=float16 does not go with torch.compile=true; leave one of them out.")
        if self._is_half and self.options.autocast != "none":
            raise ValueError(
                f"torch.autocast={self.options.autocast} keeps weights in float32; set precision.weights=float32."
            )
        if self.options.cuda_graphs and self.device.type != "cuda":
            raise ValueError("torch.cuda_graphs=true is for CUDA devices; leave it out on a CPU.")
        if self.options.fsdp and self._is_half:
            raise ValueError("torch.fsdp=true does not go with precision.weights=float16; leave one of them out.")
        if self._is_sharded:
            check_torch()
        check_autocast(self.options.autocast, self.device.type)

    def _check_packs(self, batch: Any, expected: int) -> None:
        got = len(batch[0])
        if got != expected:
            raise ValueError(f"the batch holds {got} packs, the batching ({self.batching}) makes {expected} a call.")


def _device(name: str) -> torch.device:
    """The device of this process, made torch's default one if it is a CUDA device.

    Raises:
        ValueError: there is no such device here.
    """
    if not name.startswith("cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ValueError(
            "accelerator=cuda, but torch sees no CUDA device; install a CUDA build of torch or use accelerator=cpu."
        )
    device = torch.device(name)
    if world_of_torchrun().size > 1:
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise ValueError(
                f"torchrun started {os.environ.get('LOCAL_WORLD_SIZE', local + 1)} processes on a host with {there} "
                "CUDA devices; give --nproc-per-node no more than that."
            )
        device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _closed(*_: Any) -> Any:
    raise AssertionError("the backend is closed")
