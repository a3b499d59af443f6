"""Pipelines, transfers beside computation, float16 and where state is kept: the same training as on one device."""

from typing import Any, Dict, Iterator, Tuple

import pytest
import torch
from poptorch_helpers import (
    ADAMW,
    POSITION_STEP,
    assert_equal_models,
    batches,
    installed_double,
    make,
    random_packs,
    small_schnet,
    that_runs,
    train,
)

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.painn import PaiNN
from ipu_chem.optim import OptimizerConfig

PIPELINE = that_runs(Batching(micro_batch_size=1, gradient_accumulation=7, replication_factor=2, device_iterations=2))
TILES = pytest.mark.not_on_sdk("its small IPU Model has 4 tiles, I/O takes 32")
SHARDING = pytest.mark.not_on_sdk("its IPU Model has no replicas to share with")


@pytest.fixture(autouse=True)
def poptorch() -> Iterator[Any]:
    with installed_double() as module:
        yield module


@pytest.mark.parametrize(
    "options",
    [
        {"ipus_per_replica": 2},
        {"ipus_per_replica": 4},
        {"ipus_per_replica": 2, "layers_per_ipu": (0, -1)},
        {"ipus_per_replica": 2, "recompute": False},
        {"ipus_per_replica": 2, "checkpoint_blocks": True},
        {"ipus_per_replica": 2, "execution": "sharded"},
        pytest.param(
            {"ipus_per_replica": 2, "optimizer_state_offchip": True, "replicated_tensor_sharding": True}, marks=SHARDING
        ),
        {"ipus_per_replica": 2, "available_memory_proportion": (0.3, 0.4)},
        pytest.param({"io_tiles": 32}, marks=TILES),
        pytest.param({"io_tiles": 64, "merge_all_reduce": True, "prefetch_depth": 3}, marks=TILES),
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_every_layout_trains_and_evaluates_alike(options: Dict[str, Any]) -> None:
    expected, backend = make("torch", batching=PIPELINE), make("ipu", batching=PIPELINE, **options)
    packs = random_packs(PIPELINE.packs_per_evaluation, seed=5)
    for first, last in ((0, 2), (2, 4)):
        losses, wanted = train(backend, last, first), train(expected, last, first)
        torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(backend.evaluate(packs), expected.evaluate(packs), rtol=1e-6, atol=5e-6)
    assert_equal_models(backend.state_dict(), expected.state_dict())
    backend.close()


def placed(backend: PopTorchBackend) -> Dict[int, Tuple[str, ...]]:
    """Blocks of every IPU."""
    result: Dict[int, Tuple[str, ...]] = {}
    for stage in backend._stages:
        blocks = tuple(name[len("model.") :] for name in stage.blocks)  # of what `CompactInputs` wraps
        result[stage.ipu] = result.get(stage.ipu, ()) + blocks
    return result


def test_a_pipeline_runs_on_the_ipu_model_and_replicas_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options say so, or the environment that PopTorch reads."""
    batching = Batching(1, 4, 1, 2)
    backend = make("ipu", batching=batching, ipus_per_replica=2, ipu_model=True)
    torch.testing.assert_close(train(backend, 2), train(make("torch", batching=batching), 2), rtol=1e-6, atol=1e-6)
    backend.close()
    monkeypatch.setenv("POPTORCH_IPU_MODEL", "0")
    monkeypatch.setenv("POPTORCH_SMALL_IPU_MODEL", "1")
    make("ipu", batching=batching, ipus_per_replica=2).close()
    with pytest.raises(ValueError, match="replication_factor=2: the SDK's IPU Model runs one replica; .*=8 for"):
        make("ipu", batching=Batching(1, 4, 2, 2), ipus_per_replica=2)


def test_layers_go_where_they_are_told() -> None:
    backend = make("ipu", batching=PIPELINE, ipus_per_replica=2, layers_per_ipu=(2, -1))
    assert placed(backend) == {0: ("embedding", "interactions.0", "interactions.1"), 1: ("head",)}
    backend.close()
    backend = make("ipu", batching=PIPELINE, ipus_per_replica=4)
    assert placed(backend) == {0: ("embedding",), 1: ("interactions.0",), 2: ("interactions.1",), 3: ("head",)}
    assert backend._training.options._execution_strategy.stage("stage3")._ipu == 3


@SHARDING
def test_options_of_memory_reach_poptorch() -> None:
    backend = make(
        "ipu",
        batching=PIPELINE,
        ipus_per_replica=2,
        recompute=False,
        optimizer_state_offchip=True,
        replicated_tensor_sharding=True,
        available_memory_proportion=(0.3, 0.4),
    )
    options = backend._training.options
    where = options.TensorLocations.location_optimizer
    assert where == {"onChip": 0, "useReplicatedTensorSharding": 1}
    assert options.available_memory_proportion == {0: 0.3, 1: 0.4}
    assert options._Popart.options["autoRecomputation"] == 0


def test_what_starts_a_block_is_kept_only_when_asked_for(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = poptorch.recomputationCheckpoint
    monkeypatch.setattr(poptorch, "recomputationCheckpoint", lambda *tensors: kept.append(1) or original(*tensors))
    make("ipu", batching=PIPELINE, ipus_per_replica=2).close()
    assert not kept
    backend = make("ipu", batching=PIPELINE, ipus_per_replica=2, layers_per_ipu=(2, 0), checkpoint_blocks=True)
    assert len(kept) == 2  # behind the embedding and the first layer; the second ends the stage
    model = backend._model
    backend.close()
    model(*random_packs(1).inputs)
    assert len(kept) == 2, "the model is as it was"
    with pytest.raises(ValueError, match="checkpoint_blocks says where recomputation starts: it needs a pipeline"):
        IpuOptions(checkpoint_blocks=True)


@TILES
def test_io_tiles_carry_every_input_and_output(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: Dict[str, int] = {"input": 0, "output": 0}
    for kind in marked:
        original = getattr(poptorch, f"set_overlap_for_{kind}")

        def mark(tensors: Any, mode: Any, kind: str = kind, original: Any = original) -> Any:
            assert mode == poptorch.OverlapMode.OverlapDeviceIterationLoop
            marked[kind] += 1
            return original(tensors, mode)

        monkeypatch.setattr(poptorch, f"set_overlap_for_{kind}", mark)
    backend = make("ipu", batching=PIPELINE, io_tiles=32)
    batch = batches(1, PIPELINE)[0]
    assert marked == {"input": len(batch), "output": 1}  # the loss
    backend.evaluate(random_packs(PIPELINE.packs_per_evaluation))
    runs = PIPELINE.device_iterations * PIPELINE.replication_factor + 1
    assert marked == {"input": len(batch) + runs * len(batch.inputs), "output": 1 + runs}  # predictions


def test_painn_is_pipelined_with_all_that_its_blocks_hand_on() -> None:
    def model() -> CompactInputs:
        torch.manual_seed(0)
        painn = PaiNN(hidden_features=8, num_interactions=2, num_radial=4)
        torch.nn.init.normal_(painn.head[2].weight, std=0.1)
        return CompactInputs(painn, POSITION_STEP)

    backends = [TorchBackend("cpu"), PopTorchBackend(IpuOptions(ipus_per_replica=4, checkpoint_blocks=True))]
    for backend in backends:
        backend.compile(model(), mse, ADAMW, PIPELINE, batches(1, PIPELINE)[0])
    torch.testing.assert_close(train(backends[1], 3), train(backends[0], 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "ipus, optimizer, accumulation",
    [(2, ADAMW, "float16"), (1, ADAMW, "float32"), (2, OptimizerConfig("sgd", 1e-2, momentum=0.9), "float16")],
    ids=["adamw-float16", "adamw-float32", "sgd-float16"],
)
def test_float16_weights_learn_what_they_learn_on_the_cpu(ipus: int, optimizer: Any, accumulation: str) -> None:
    precision = Precision("float16", loss_scaling=128.0, accumulation=accumulation, partials="float16")
    backends = [
        TorchBackend("cpu", precision=precision),
        PopTorchBackend(IpuOptions(ipus_per_replica=ipus), precision),
    ]
    for backend in backends:
        backend.compile(small_schnet(), mse, optimizer, PIPELINE, batches(1, PIPELINE)[0])
    losses, wanted = train(backends[1], 3), train(backends[0], 3)
    # Both round to 16 bits at the same places; the order of the sums between them differs.
    torch.testing.assert_close(losses, wanted, rtol=2e-3, atol=2e-3)
    state = backends[1].state_dict()
    assert state["model"]["embedding.weight"].dtype == torch.float16
    first = [value for name, value in state["optimizer"].items() if name.startswith("Accl1___")]
    assert first and {value.dtype for value in first} == {getattr(torch, accumulation)}


def test_loss_scaling_saves_small_gradients() -> None:
    """Errors of a millionth make gradients that float16 cannot hold unless they are scaled."""
    tiny = batches(1, PIPELINE)[0]
    tiny = tiny._replace(weight=tiny.weight * 1e-6)
    moved = {}
    for scaling in (1.0, 2.0**16):
        backend = PopTorchBackend(precision=Precision("float16", loss_scaling=scaling))
        backend.compile(small_schnet(), mse, OptimizerConfig("sgd", 1e4), PIPELINE, tiny)
        before = backend.state_dict()["model"]
        backend.train_step(tiny, 1e4)
        after = backend.state_dict()["model"]
        moved[scaling] = sum(int((after[name] != value).sum()) for name, value in before.items())
        backend.close()
    assert moved[2.0**16] > 2 * moved[1.0]
