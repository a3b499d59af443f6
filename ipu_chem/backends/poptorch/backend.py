"""IPUs: training and evaluation are two static PopTorch programs that take turns on the device.

The only module that imports poptorch and popdist, and only once a backend is made.

The leading axis of every input, and of every output under OutputMode.All, runs over [device iteration, accumulation,
replica, micro-batch], the last one fastest: PopART hands out consecutive pieces and deals each round of them to the
replicas in turn.
"""

import importlib.util
from itertools import chain
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Backend, Program
from ipu_chem.backends.half import weights_to_half
from ipu_chem.backends.options import Batching, Precision, World
from ipu_chem.backends.poptorch.blocks import choose_stages, keep_between_blocks, place_stages
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.program_options import build_optimizer, host_overlap, program_options
from ipu_chem.backends.poptorch.programs import EvaluationProgram, TrainingProgram
from ipu_chem.backends.poptorch.refusals import check_operators, compile_error
from ipu_chem.batches.types import first_target, inputs_of, targets_of
from ipu_chem.optim import OptimizerConfig, ParameterGroups

# What has no place on an IPU and is halved before it is transferred.
_NARROWED = {torch.int64: torch.int32, torch.float64: torch.float32}
_MAX_IPUS = 64  # of one process


def ipus_available() -> bool:
    """True if PopTorch can be imported here and sees an IPU."""
    if importlib.util.find_spec("poptorch") is None:
        return False
    try:
        return bool(_poptorch().ipuHardwareIsAvailable())
    except ValueError:
        return False


class PopTorchBackend(Backend):
    """Trains and evaluates on IPUs: replicas of one IPU or of a pipeline, in one process or several."""

    name = "ipu"

    def __init__(self, options: Optional[IpuOptions] = None, precision: Optional[Precision] = None) -> None:
        """Load PopTorch and find the other processes that poprun started; devices are taken by `compile`.

        Args:
            options: of compilation and device.
            precision: number formats.

        Raises:
            ValueError: PopTorch cannot be imported here.
        """
        self.options = options or IpuOptions()
        self.precision = precision or Precision()
        self.compiles_only = self.options.offline is not None
        self._poptorch = _poptorch()
        self._popdist = _popdist()
        if self._popdist is not None:
            self.world = World(self._popdist.getInstanceIndex(), self._popdist.getNumInstances())
        self._overlap = host_overlap(self._poptorch) if self.options.io_tiles else None
        self._stages: List[Any] = []
        self._hooks: List[Any] = []
        self._model: Optional[nn.Module] = None
        self._training: Optional[Any] = None
        self._inference: Optional[Any] = None
        self._optimizer: Optional[Any] = None
        self._compiled_for: Dict[str, Dict[str, Tuple[torch.dtype, List[int]]]] = {}

    def compile(
        self,
        model: nn.Module,
        loss: Optional[Callable[..., Tensor]],
        optimizer: Optional[OptimizerConfig],
        batching: Batching,
        example: Any,
    ) -> None:
        """See `Backend.compile`; compiles at once, the evaluation program of a training run at its first use."""
        assert optimizer is None or loss is not None, "an optimizer needs a loss"
        self.close()  # an earlier model makes room
        self._check(model, batching)
        self.batching = batching = batching.for_one_of(self.world)
        packs = batching.packs_per_call if optimizer is not None else batching.packs_per_evaluation
        example = self._register(example, "evaluation" if optimizer is None else "training", packs)
        if self.precision.weights == "float16":
            weights_to_half(model)
        program = Program(model, loss, first_target(example))
        micro_batch = type(example)(*(field[: batching.micro_batch_size] for field in example))
        self._check_operators(program, micro_batch, optimizer is not None)
        self._model = model
        if self.options.ipus_per_replica > 1:
            accumulation = None if optimizer is None else batching.gradient_accumulation
            self._stages = choose_stages(program, micro_batch, self.options, accumulation)
            place_stages(self._poptorch, model, self._stages)
            if self.options.checkpoint_blocks:
                self._hooks = keep_between_blocks(self._poptorch, model, self._stages)
        if optimizer is None:
            self._compile_inference(example)
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._groups = ParameterGroups(optimizer, model, trained)
        self._optimizer = build_optimizer(self._poptorch, optimizer, self._groups, self.precision)
        self._learning_rate = optimizer.learning_rate
        poptorch = self._poptorch
        on_device = TrainingProgram(program, poptorch.identity_loss, self._overlap).train()
        options = self._program_options(True)
        self._training = self._compile(
            "training", lambda: poptorch.trainingModel(on_device, options, self._optimizer), example
        )
        if self.compiles_only:  # no later call would compile it
            part = type(example)(*(field[: batching.packs_per_evaluation] for field in example))
            self._compile_inference(self._register(part, "evaluation", batching.packs_per_evaluation))

    def train_step(self, batch: Any, learning_rate: float) -> Tensor:
        assert self._training is not None and self._optimizer is not None, "compile() got no optimizer"
        batch = self._ready(batch, "training")
        self._make_way(self._inference)
        if learning_rate != self._learning_rate:
            self._groups.set_learning_rate(self._optimizer, learning_rate)
            self._training.setOptimizer(self._optimizer)  # until then the device keeps the old rate
            self._learning_rate = learning_rate
        # One number per micro-batch of every replica; those of a step are adjacent and add up to its loss.
        losses = self._training(batch).reshape(self.batching.device_iterations, -1).sum(1)
        if self.world.size > 1:  # the others' losses stay on their hosts: the mean over what is here stands for all
            weight = targets_of(batch)[1]
            losses = losses / weight.reshape(len(losses), -1).sum(1).clamp(min=1e-12)
        return losses

    def evaluate(self, batch: Any) -> Any:
        assert self._model is not None, "compile() comes first"
        if self._inference is None:
            batch = self._register(batch, "evaluation", self.batching.packs_per_evaluation)
            self._make_way(self._training)
            self._compile_inference(batch)
        else:
            batch = self._ready(batch, "evaluation")
            self._make_way(self._training)
        assert self._inference is not None
        return self._inference(*inputs_of(batch))  # labels and weights stay behind

    def state_dict(self, weights_only: bool = False) -> Dict[str, Dict[str, Any]]:
        assert self._model is not None, "compile() comes first"
        if self._training is not None:
            self._training.copyWeightsToHostIfNeeded()
        state = {"model": {name: _plain_copy(value) for name, value in self._model.state_dict().items()}}
        if self._optimizer is not None and not weights_only:
            # What PopTorch adds to it, "ipu_param", are settings such as the learning rate, not state.
            tensors = self._optimizer.state_dict()["ipu_state"] or {}
            state["optimizer"] = {name: _plain_copy(value) for name, value in tensors.items()}
        return state

    def load_state_dict(self, state: Dict[str, Dict[str, Any]]) -> None:
        """See `Backend.load_state_dict`.

        Raises:
            ValueError: the optimizer state was not saved by this program on IPUs.
        """
        assert self._model is not None, "compile() comes first"
        if self._training is not None and "optimizer" in state:
            self._load_optimizer(state["optimizer"])
        self._model.load_state_dict(state["model"])
        for program in (self._training, self._inference):
            if program is not None and program.isAttachedToDevice():
                program.copyWeightsToDevice()

    def close(self) -> None:
        for program in (self._inference, self._training):
            if program is not None:
                program.destroy()
        if self._model is not None and self._stages:
            self._poptorch.removeBlocks(self._model)
        for hook in self._hooks:
            hook.remove()
        self._training = self._inference = self._optimizer = self._model = None
        self._stages, self._hooks, self._compiled_for = [], [], {}

    def _check(self, model: nn.Module, batching: Batching) -> None:
        """Refuse what PopTorch would refuse later, or quietly do otherwise."""
        local = batching.for_one_of(self.world).replication_factor
        ipus = local * self.options.ipus_per_replica
        if ipus > _MAX_IPUS or ipus & (ipus - 1):
            raise ValueError(
                f"batching.replication_factor={local} x ipu.ipus_per_replica={self.options.ipus_per_replica}: IPUs are "
                f"lent in powers of two, up to {_MAX_IPUS} to a process; use 1, 2, 4, ..."
            )
        if local > 1 and self.options.on_ipu_model:
            raise ValueError(
                f"batching.replication_factor={local}: the SDK's IPU Model runs one replica; set it to 1, and "
                f"batching.gradient_accumulation={batching.gradient_accumulation * local} for the same steps."
            )
        if self._popdist is not None and self._popdist.getNumTotalReplicas() != batching.replication_factor:
            raise ValueError(
                f"poprun started {self._popdist.getNumTotalReplicas()} replicas, batching.replication_factor="
                f"{batching.replication_factor}: give poprun --num-replicas {batching.replication_factor}."
            )
        if self.options.replicated_tensor_sharding and local == 1:  # PopART shares within a process
            raise ValueError(
                "ipu.replicated_tensor_sharding needs replicas to share with in every process; raise "
                "batching.replication_factor, or start fewer instances."
            )
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if tensor.dtype in (torch.float64, torch.bfloat16):
                raise ValueError(f"{name} is {_short(tensor.dtype)}, which IPUs do not have; call model.float() first.")

    def _check_operators(self, program: Program, micro_batch: Any, trains: bool) -> None:
        """Refuse what PopTorch would refuse of either program or, worse, do wrong; before blocks are marked in it.

        The evaluation program of a training run is checked, too: it should not fail after hours.
        """
        kinds: Any = [("evaluation", program.model, inputs_of(micro_batch), False)]
        if trains:
            kinds.insert(0, ("training", program, micro_batch, True))
        for kind, module, example, training in kinds:
            try:
                check_operators(module, example, training)
            except ValueError as error:
                raise ValueError(f"PopTorch cannot compile the {kind} program: {error}") from error

    def _compile_inference(self, batch: Any) -> None:
        """The evaluation program: the model in eval mode, without loss and gradients."""
        assert self._model is not None
        was_training = self._model.training
        program = EvaluationProgram(self._model, self._overlap).eval()
        options = self._program_options(False)
        self._inference = self._compile(
            "evaluation", lambda: self._poptorch.inferenceModel(program, options), *inputs_of(batch)
        )
        self._model.train(was_training)

    def _program_options(self, training: bool) -> Any:
        """Options of one program; under poprun, popdist says which replicas and IPUs are this process's."""
        base = None
        if self._popdist is not None:
            base = self._popdist.poptorch.Options(ipus_per_replica=self.options.ipus_per_replica)
        ipus = [stage.ipu for stage in self._stages] or [0]
        return program_options(self._poptorch, self.options, self.precision, self.batching, ipus, training, base)

    def _compile(self, kind: str, executor: Callable[[], Any], *example: Any) -> Any:
        try:
            program = executor()
            program.compile(*example)
        except Exception as error:  # PopTorch raises whatever its own code, torch or the model does
            raise ValueError(compile_error(kind, error, self._poptorch)) from error
        return program

    def _make_way(self, other: Optional[Any]) -> None:
        """Take the IPUs from the other program, which brings weights and optimizer state back to the host.

        PopTorch attaches a program when it is called, and gives it then what is on the host.
        """
        if self.compiles_only:
            raise ValueError("ipu.offline only compiles; leave it out to run, the programs are found in the cache.")
        if other is not None and other.isAttachedToDevice():
            other.detachFromDevice()

    def _register(self, example: Any, kind: str, packs: int) -> Any:
        """Check the size of the batch that a program is compiled for, and remember its shapes and dtypes."""
        if len(example[0]) != packs:
            raise ValueError(
                f"the batch holds {len(example[0])} packs, the batching ({self.batching}) makes {packs} a call."
            )
        example = to_ipu_types(example)
        named = zip(example._fields, example)
        self._compiled_for[kind] = {name: (field.dtype, list(field.shape)) for name, field in named}
        return example

    def _ready(self, batch: Any, kind: str) -> Any:
        """The batch in the device's dtypes, exactly as the program was compiled for."""
        batch = to_ipu_types(batch)
        for name, field in zip(batch._fields, batch):
            dtype, shape = self._compiled_for[kind][name]
            if field.dtype != dtype or list(field.shape) != shape:
                raise ValueError(
                    f"{name} of this {kind} batch is {_short(field.dtype)} {list(field.shape)}, the program was "
                    f"compiled for {_short(dtype)} {shape}; all batches of a run have one budget and one batching."
                )
        return batch

    def _load_optimizer(self, saved: Dict[str, Any]) -> None:
        """Replace the state tensors and keep PopTorch's own settings; the next call writes them to the device."""
        assert self._optimizer is not None
        state = self._optimizer.state_dict()
        current = state["ipu_state"] or {}
        if set(saved) != set(current):
            name = min(set(saved) ^ set(current))
            raise ValueError(
                f"the optimizer state in the checkpoint does not fit this program ({name} is only in one of them); "
                "resume on IPUs with the same model, optimizer and batching, or load the weights alone."
            )
        for name, value in saved.items():
            now = current[name]
            if value.shape != now.shape or value.dtype != now.dtype:
                raise ValueError(
                    f"optimizer state {name} is {_short(value.dtype)} {list(value.shape)} in the checkpoint and "
                    f"{_short(now.dtype)} {list(now.shape)} in this program; resume with the same model and precision."
                )
        state["ipu_state"] = {name: _plain_copy(value) for name, value in saved.items()}
        self._optimizer.load_state_dict(state)


def to_ipu_types(batch: Any) -> Any:
    """The same NamedTuple in dtypes that IPUs have: int64 as int32, float64 as float32.

    Raises:
        ValueError: a field is bfloat16, which has no place there.
    """
    for name, field in zip(batch._fields, batch):
        if field.dtype == torch.bfloat16:
            raise ValueError(f"{name} is bfloat16, which IPUs do not have; use float32 or float16.")
    return type(batch)(*(field.to(_NARROWED.get(field.dtype, field.dtype)).contiguous() for field in batch))


def _plain_copy(value: Tensor) -> Tensor:
    """A copy that is a torch.Tensor, not one of PopTorch's parameter classes, which ask the device."""
    copy = torch.empty(value.shape, dtype=value.dtype)
    copy.copy_(value.detach())
    return copy


def _short(dtype: torch.dtype) -> str:
    return str(dtype).replace("torch.", "")


def _poptorch() -> Any:
    """The poptorch module.

    Raises:
        ValueError: it cannot be imported; says why.
    """
    try:
        import poptorch  # noqa: TID251 (the one place)
    except (ImportError, AssertionError, OSError) as error:
        raise ValueError(
            f"PopTorch cannot be imported here ({error}); source the Poplar SDK's enable script and use Python 3.8 "
            "with the torch version that its PopTorch was built for."
        ) from error
    return poptorch


def import_before_backward() -> None:
    """Load PopTorch if that can be done, for backends that differentiate on other devices.

    Torch's autograd asks once, at the first derivative of a process, which kinds of devices there are; a program that
    differentiates inside forward cannot be compiled for IPUs if PopTorch came later.
    """
    try:
        _poptorch()
    except Exception:  # a broken SDK, in whatever way, is no reason why a CPU should not run
        return


def _popdist() -> Optional[Any]:
    """The popdist module when poprun started this process, else None."""
    if importlib.util.find_spec("popdist") is None:
        return None
    import popdist
    import popdist.poptorch

    if not popdist.isPopdistEnvSet():
        return None
    popdist.init()
    return popdist
