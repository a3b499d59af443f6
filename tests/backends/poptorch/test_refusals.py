"""What users' models do that IPUs cannot, or do wrong: refused with the line before anything is compiled."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from poptorch_helpers import ADAMW, DOUBLE, POSITION_STEP, batches, random_packs, small_schnet
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.refusals import check_operators, compile_error
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.losses import mse, with_forces
from ipu_chem.models.base import Graph, GraphModel
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.schnet import SchNet

ONE = Batching(micro_batch_size=2)


def item(x: Tensor) -> Tensor:
    return x * x.mean().item()


def branch(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def mask(x: Tensor) -> Tensor:
    return x + x[x > 0].sum()


def numpy(x: Tensor) -> Tensor:
    return x + torch.from_numpy(x.detach().numpy()).sum()


def double(x: Tensor) -> Tensor:
    return (x.double() * 2.0).float()


def brain(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def repeat(x: Tensor) -> Tensor:
    return x + x.repeat_interleave(torch.ones(len(x), dtype=torch.int64), 0)


def add(x: Tensor) -> Tensor:
    return x.index_add(0, torch.zeros(1, dtype=torch.int64, device=x.device), x[:1])


def selected(pos: Tensor) -> Tensor:
    return pos.index_select(0, torch.arange(2, dtype=torch.int32, device=pos.device))


def sliced(pos: Tensor) -> Tensor:
    return pos[:, :1]


def first(pos: Tensor) -> Tensor:
    return pos.select(1, 0)


def differences(pos: Tensor) -> Tensor:
    return pos.diff(dim=0)


def with_values(x: Tensor) -> Tensor:
    if x.is_meta:
        raise KeyError("shapes are not enough")
    return x


def small(function: Callable[[Tensor], Tensor]) -> CompactInputs:
    """A model with a user's function of its atoms' features."""
    model = small_schnet()
    model.model.embedding.register_forward_hook(lambda module, inputs, output: function(output))
    return model


def place(function: Callable[[Tensor], Tensor]) -> str:
    """file:line of a function's only statement."""
    return rf"{os.path.basename(__file__)}:{function.__code__.co_firstlineno + 1}: "


CASES = [
    (item, "IPUs cannot run aten::_local_scalar_dense: .*torch.where"),
    (branch, "IPUs cannot run aten::.*: .*torch.where"),
    (mask, r"IPUs cannot run aten::index: .*torch.where\(mask"),
    (numpy, "IPUs cannot run aten::Tensor.numpy|Tensor.numpy: .*host"),
    (double, "IPUs cannot run aten::_to_copy: 64-bit floats"),
    (brain, "IPUs cannot run aten::_to_copy: IPUs have no bfloat16"),
    (repeat, "IPUs cannot run aten::repeat_interleave: .*expand"),
    (add, "IPUs cannot run aten::index_add: .*scatter_add"),
]


@pytest.mark.parametrize("trains", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("function", "message"), CASES, ids=[function.__name__ for function, _ in CASES])
def test_a_users_model_is_refused_with_its_line(poptorch: Any, trains: bool, function: Any, message: str) -> None:
    kind = "training" if trains else "evaluation"
    packs = batches(1, ONE)[0] if trains else random_packs(ONE.packs_per_evaluation)
    backend = PopTorchBackend()
    with pytest.raises(ValueError, match=f"cannot compile the {kind} program: .*{place(function)}{message}") as caught:
        backend.compile(small(function), mse, ADAMW if trains else None, ONE, packs)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 450
    assert backend._training is None and backend._inference is None, "nothing was compiled"


@pytest.mark.parametrize("ipus", [1, 2])
def test_what_evaluation_alone_does_is_refused_before_training(poptorch: Any, ipus: int) -> None:
    model = small_schnet()
    model.model.head.register_forward_hook(lambda module, inputs, output: output if module.training else item(output))
    with pytest.raises(ValueError, match=f"cannot compile the evaluation program: .*{place(item)}"):
        PopTorchBackend(IpuOptions(ipus_per_replica=ipus)).compile(model, mse, ADAMW, Batching(1, 4), random_packs(4))


@pytest.mark.parametrize("precision", [Precision(), Precision("float16", loss_scaling=128.0)], ids=["32", "16"])
def test_derivatives_inside_forward_are_looked_at(poptorch: Any, precision: Precision) -> None:
    packs = force_packs()
    model = CompactInputs(EnergyForces(OfPositions(selected)), POSITION_STEP)
    with pytest.raises(ValueError, match=r"py:\d+: IPUs cannot run aten::index_add.*scatter_add"):
        PopTorchBackend(precision=precision).compile(model, with_forces(mse, 0.9), ADAMW, ONE, packs)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("function", [sliced, first, differences], ids=["slice", "select", "diff"])
def test_derivatives_of_slices_which_would_be_zeros_are_refused(poptorch: Any, function: Any, training: bool) -> None:
    packs = force_packs()
    model = CompactInputs(EnergyForces(OfPositions(function)), POSITION_STEP)
    with pytest.raises(ValueError, match=rf"{place(function)}IPUs cannot run aten::(slice|select)_backward.*split"):
        PopTorchBackend().compile(model, with_forces(mse, 0.9), ADAMW if training else None, ONE, packs)


class OfPositions(GraphModel):
    """An energy made of a function of all positions."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, graph: Graph) -> Tensor:
        x = self.function(graph.pos.reshape(-1, 3)) * self.weight.float()
        return (x * x).sum().reshape(1, 1, 1).expand(*graph.graph_mask.shape, 1)


def force_packs() -> Any:
    from ipu_chem.batches.types import compact_kind

    packs = random_packs(ONE.packs_per_call)
    forces = torch.randn(*packs.z.shape, 3)
    return compact_kind(forces=True)(*packs, forces, torch.ones(*packs.z.shape, 1))


def test_models_with_forces_pass_in_both_formats(poptorch: Any) -> None:
    for precision in (Precision(), Precision("float16", loss_scaling=128.0)):
        model = EnergyForces(SchNet(8, 8, 1, 6, 5.0))
        backend = PopTorchBackend(precision=precision)
        backend.compile(CompactInputs(model, POSITION_STEP), with_forces(mse, 0.9), ADAMW, ONE, force_packs())
        assert torch.isfinite(backend.train_step(force_packs(), 1e-3)).all()
        backend.close()


def test_a_check_copies_no_weights_and_leaves_everything_as_it_is() -> None:
    model = small_schnet()
    model.model.head[0] = nn.Sequential(model.model.head[0], nn.BatchNorm1d(4), nn.Dropout(0.5))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    model.model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(output.device.type))
    program = Program(model, mse).eval()
    before = torch.get_rng_state()
    check_operators(program, random_packs(2), training=True)
    assert seen == ["meta"], "shapes are enough"
    model.model.embedding.register_forward_hook(lambda module, inputs, output: add(with_values(output)))
    with pytest.raises(ValueError, match="index_add"):
        check_operators(program, random_packs(2), training=True)
    assert seen == ["meta", "meta", "cpu"], "values only where shapes are not"
    assert torch.get_rng_state().equal(before) and not any(part.training for part in program.modules())
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_a_model_that_cannot_be_copied_is_looked_at_itself() -> None:
    model = small_schnet()
    model.file = open(os.devnull)
    check_operators(Program(model, mse), random_packs(2), training=True)
    model.file.close()


def fails(error: Callable[[], BaseException]) -> Callable[[Tensor], Tensor]:
    """A function that fails where the program is compiled, not where it is looked at."""

    def function(x: Tensor) -> Tensor:
        if as_index_of(x) == torch.int32:
            raise error()
        return x

    return function


def as_index_of(x: Tensor) -> torch.dtype:
    from ipu_chem.models.layers import as_index

    return as_index(torch.zeros((), dtype=torch.int32, device=x.device)).dtype


@pytest.mark.parametrize(
    "kind", [NotImplementedError, TypeError, AssertionError, RuntimeError, IndexError, UnboundLocalError, "poptorch"]
)
def test_whatever_poptorch_raises_is_one_sentence(poptorch: Any, kind: Any) -> None:
    error = poptorch.Error if kind == "poptorch" else kind
    backend = PopTorchBackend()
    with pytest.raises(ValueError) as caught:
        backend.compile(small(fails(lambda: error("no\nsuch thing"))), mse, ADAMW, ONE, batches(1, ONE)[0])
    name = "" if kind == "poptorch" else f"{error.__name__}: "
    where = f"{os.path.basename(__file__)}:{fails.__code__.co_firstlineno + 5}"
    assert str(caught.value).startswith("PopTorch cannot compile the training program: ")
    assert str(caught.value).endswith(f"{where}: {name}no such thing.")
    assert type(caught.value.__cause__) is error, "the original is chained"


def test_interrupts_are_none_of_ours(poptorch: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        PopTorchBackend().compile(small(fails(KeyboardInterrupt)), mse, ADAMW, ONE, batches(1, ONE)[0])


def test_the_error_behind_poptorchs_own_is_told(poptorch: Any) -> None:
    try:
        try:
            raise AttributeError("`Embedding` has no attribute `head`")
        finally:
            print(old_addresses)
    except NameError as error:
        assert isinstance(error.__context__, AttributeError)
        unbound = UnboundLocalError(*error.args).with_traceback(error.__traceback__)
        unbound.__context__ = error.__context__
    line = compile_error("training", unbound, poptorch)
    assert "AttributeError: `Embedding` has no attribute `head`." in line and "old_addresses" not in line


def test_long_messages_are_shortened(poptorch: Any) -> None:
    line = compile_error("training", poptorch.Error("x " * 500), poptorch)
    assert line.endswith("...") and len(line) < 260


# As torch has it, shortened.
_QUEUES = (
    "0 <= device.index() && device.index() < static_cast<c10::DeviceIndex>(device_ready_queues_.size()) INTERNAL "
    "ASSERT FAILED"
)


def test_poptorch_imported_too_late_is_told_with_what_to_do(poptorch: Any) -> None:
    with pytest.raises(ValueError, match="new Python and `import poptorch` before any backward.*IPU first.$") as caught:
        model = small(fails(lambda: RuntimeError(_QUEUES)))
        PopTorchBackend().compile(model, mse, ADAMW, ONE, batches(1, ONE)[0])
    assert "INTERNAL" not in str(caught.value) and "device_ready_queues_" in str(caught.value.__cause__)


def loaded(path: str) -> str:
    """What a fresh Python says of PopTorch once a CPU backend is made; ``path`` comes first among its modules."""
    code = (
        "import sys; from ipu_chem.backends.pytorch.backend import TorchBackend; TorchBackend('cpu'); "
        "print(getattr(sys.modules.get('poptorch'), '__file__', 'nothing'))"
    )
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([path, root])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cpu_backend_loads_poptorch_first_where_it_is_installed(tmp_path: Path) -> None:
    assert loaded(str(DOUBLE)).startswith(str(DOUBLE))
    (tmp_path / "poptorch.py").write_text("raise RuntimeError('no driver')\n")
    assert loaded(str(tmp_path)) == "nothing"
    assert TorchBackend("cpu").name == "cpu" and "poptorch" not in sys.modules
