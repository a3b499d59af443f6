"""What the IPU backend refuses, in one clear sentence, before PopTorch would."""

import sys
from typing import Any, Dict

import pytest
import torch
from poptorch_helpers import (
    ADAMW,
    BATCHING,
    assert_equal_models,
    batches,
    make,
    random_packs,
    small_schnet,
    train,
)

from ipu_chem.backends import get_backend
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.backend import PopTorchBackend, ipus_available
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.batches.types import CompactPack
from ipu_chem.losses import mse
from ipu_chem.optim import OptimizerConfig


@pytest.mark.not_on_sdk("wants no PopTorch")
def test_without_poptorch() -> None:
    assert "poptorch" not in sys.modules
    assert not ipus_available()
    with pytest.raises(ValueError, match="cannot be imported here"):
        PopTorchBackend()
    with pytest.raises(ValueError, match="needs PopTorch"):
        get_backend("ipu")


@pytest.mark.not_on_sdk("wants no PopTorch")
def test_broken_sdk_is_no_ipu(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poptorch.py").write_text("raise ImportError('libpoplar.so is missing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not ipus_available()
    with pytest.raises(ValueError, match="libpoplar.so is missing.*enable script"):
        PopTorchBackend()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"available_memory_proportion": (1.5,)}, "available_memory_proportion=.*above 0, up to 1"),
        ({"available_memory_proportion": (0.0,)}, "available_memory_proportion=.*above 0, up to 1"),
        ({"available_memory_proportion": 0.5}, "give a list"),
        ({"prefetch_depth": 0}, "prefetch_depth=0: give an integer of 1 or more"),
        ({"prefetch_depth": 2.0}, "prefetch_depth=2.0: give an integer"),
        ({"seed": -1}, "seed=-1"),
        ({"merge_all_reduce": 1}, "merge_all_reduce=1: give true or false"),
        ({"ipu_model": "yes"}, "ipu_model='yes': give true or false"),
        ({"offline": 3, "executable_cache": "c"}, "offline=3: give the IPU version"),
        ({"offline": 2}, "set ipu.executable_cache too"),
        ({"offline": 2, "executable_cache": "c", "ipu_model": True}, "choose one of the two"),
        ({"ipus_per_replica": 3}, "ipus_per_replica=3: IPUs are lent in powers of two"),
        ({"ipus_per_replica": 2, "layers_per_ipu": (1, -2)}, "layers_per_ipu=.*whole numbers"),
        ({"ipus_per_replica": 2, "layers_per_ipu": (3,)}, "one number for each of the 2 IPUs"),
        ({"execution": "phased"}, "execution='phased': choose one of pipelined, sharded"),
        ({"io_tiles": 33}, "io_tiles=33: give 0 or an even number from 32 to 192"),
        ({"io_tiles": 194}, "io_tiles=194"),
        ({"io_tiles": 32, "ipus_per_replica": 2}, "a pipeline cannot overlap I/O"),
        ({"available_memory_proportion": (0.5, 0.5)}, "one number for each of the 1 IPUs"),
    ],
)
def test_options_are_refused_in_one_sentence(options: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        IpuOptions(**options)
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_scaling": 0.0}, "loss_scaling=0.0: give a number above 0"),
        ({"loss_scaling": float("nan")}, "loss_scaling=nan"),
        ({"weights": "bfloat16"}, "weights='bfloat16': choose one of float32, float16"),
        ({"stochastic_rounding": 1}, "stochastic_rounding=1: give true or false"),
        ({"partials": "float16"}, "only with precision.weights=float16"),
    ],
)
def test_precisions_are_refused_in_one_sentence(options: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Precision(**options)
    assert one_sentence(str(caught.value))


def one_sentence(message: str) -> bool:
    return message.endswith((".", "...")) and "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (OptimizerConfig("sgd", max_grad_norm=1.0, momentum=0.9), "max_grad_norm with sgd.*adamw"),
        (OptimizerConfig("sgd", max_grad_norm=1.0, weight_decay=0.1), "max_grad_norm with sgd"),
        (OptimizerConfig("adam", max_grad_norm=1.0, weight_decay=0.1), "max_grad_norm with adam:.*adamw"),
    ],
)
def test_clipping_that_would_mean_something_else_is_refused(poptorch: Any, optimizer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make("ipu", optimizer)
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("batching", "options", "message"),
    [
        (Batching(replication_factor=3), {}, "powers of two"),
        (Batching(replication_factor=128), {}, "up to 64"),
        (
            Batching(2, 3, 2),
            {"ipu_model": True},
            "IPU Model runs one replica; set it to 1.*=6 for the same",
        ),
        (Batching(replication_factor=16), {"ipus_per_replica": 8}, "up to 64"),
        (Batching(), {"replicated_tensor_sharding": True}, "needs replicas to share with"),
    ],
)
def test_batchings_are_refused(poptorch: Any, batching: Batching, options: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make("ipu", batching=batching, **options)
    assert one_sentence(str(caught.value))


def test_batches_are_refused(poptorch: Any) -> None:
    backend = make("ipu")
    good = batches(1)[0]
    for bad, message in [
        (good._replace(pos=good.pos[:, :-1]), "pos of this training batch is int16 .* one budget"),
        (good._replace(z=good.z.to(torch.int16)), "z of this training batch is int16 .*compiled for uint8"),
        (CompactPack(*(field[:8] for field in good)), "compiled for uint8 .16, 14"),
        (good._replace(y=good.y.bfloat16()), "y is bfloat16"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            backend.train_step(bad, 1e-3)
        assert one_sentence(str(caught.value))
    fewer = BATCHING.packs_per_evaluation
    with pytest.raises(ValueError, match=f"holds 16 packs.* makes {fewer}"):
        backend.evaluate(good)
    backend.evaluate(random_packs(fewer))
    with pytest.raises(
        ValueError,
        match=f"z of this evaluation batch is uint8 .16, 14., the program was compiled for uint8 .{fewer}, 14.",
    ):
        backend.evaluate(good)
    backend.train_step(good, 1e-3)  # none of it did any harm


def test_examples_and_models_are_refused(poptorch: Any) -> None:
    backend = PopTorchBackend()
    with pytest.raises(ValueError, match="holds 8 packs.* makes 16"):
        backend.compile(small_schnet(), mse, ADAMW, BATCHING, random_packs(8))
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(ValueError, match=r"embedding.weight is .*call model.float\(\) first"):
            backend.compile(small_schnet().to(dtype), mse, ADAMW, BATCHING, batches(1)[0])


def test_a_model_that_ipus_cannot_run_is_refused_when_compiled(poptorch: Any) -> None:
    model = small_schnet()
    model.model.embedding.register_forward_hook(lambda module, inputs, output: output * output.mean().item())
    with pytest.raises(ValueError, match="PopTorch cannot compile the training program: .*value on the host"):
        PopTorchBackend().compile(model, mse, ADAMW, BATCHING, batches(1)[0])


def test_a_model_that_reads_values_is_named_with_its_line_when_cut(poptorch: Any) -> None:
    model = small_schnet()
    model.model.head[0].register_forward_hook(lambda module, inputs, output: output * output.mean().item())
    backend = PopTorchBackend(IpuOptions(ipus_per_replica=2))
    with pytest.raises(ValueError, match=r"refusals.py:\d+: IPUs cannot run aten::_local_scalar_dense: .*torch.where"):
        backend.compile(model, mse, ADAMW, Batching(1, 4), random_packs(4))


def test_moments_of_another_precision_are_refused(poptorch: Any) -> None:
    backend = PopTorchBackend(precision=Precision("float16", 128.0, accumulation="float16"))
    backend.compile(small_schnet(), mse, ADAMW, BATCHING, batches(1)[0])
    train(backend, 1)
    saved = backend.state_dict()
    saved["optimizer"] = {name: value.float() for name, value in saved["optimizer"].items()}
    with pytest.raises(ValueError, match="is float32 .* in the checkpoint and float16 .* the same model and precision"):
        backend.load_state_dict(saved)


def test_checkpoints_that_do_not_fit_are_refused(poptorch: Any) -> None:
    expected, backend = make("torch"), make("ipu")
    train(expected, 1)
    before = backend.state_dict()
    with pytest.raises(ValueError, match="does not fit this program.*load the weights alone"):
        backend.load_state_dict(expected.state_dict())
    wrong = backend.state_dict()
    name = next(name for name in wrong["optimizer"] if name.startswith("Accl1___"))
    wrong["optimizer"][name] = torch.zeros(3)
    with pytest.raises(ValueError, match="is float32 .3. in the checkpoint"):
        backend.load_state_dict(wrong)
    assert_equal_models(backend.state_dict(), before, 0)
    backend.load_state_dict({"model": expected.state_dict()["model"]})
    assert_equal_models(backend.state_dict(), expected.state_dict(), 0)
