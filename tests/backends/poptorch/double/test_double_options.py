"""PopTorch's double: sections of the options, and what they are checked against when a program is compiled."""

from typing import Any

import pytest
import torch
from poptorch_helpers import Plain


def refusal_of(poptorch: Any, options: Any) -> str:
    """What compiling a small program with these options says."""
    with pytest.raises(poptorch.Error) as caught:
        poptorch.inferenceModel(Plain(), options)(torch.ones(4))
    assert poptorch.Machine.holder is None
    return str(caught.value)


def test_setters_return_the_options_and_keep_values(poptorch: Any) -> None:
    options = poptorch.Options().deviceIterations(3).replicationFactor(2)
    assert (options.device_iterations, options.replication_factor) == (3, 2)
    assert options.Training.gradientAccumulation(4) is options.Training
    assert options.outputMode(poptorch.OutputMode.All).output_mode == 2
    options.setAvailableMemoryProportion({"IPU0": 0.3, "IPU12": 0.4})
    assert options.available_memory_proportion == {0: 0.3, 12: 0.4}
    options.useOfflineIpuTarget(21)
    assert (options.connection_type, options.ipu_version) == (poptorch.ConnectionType.Never, 21)


@pytest.mark.parametrize(
    ("set_wrongly", "kind"),
    [
        (lambda o, p: o.TensorLocations.numIOTiles(30), AssertionError),
        (lambda o, p: o.TensorLocations.numIOTiles(33), AssertionError),
        (lambda o, p: o.TensorLocations.numIOTiles(194), AssertionError),
        (lambda o, p: o.TensorLocations.setOptimizerLocation({"onChip": 0}), AssertionError),
        (lambda o, p: p.TensorLocationSettings().useOnChipStorage(1), AssertionError),
        (lambda o, p: p.TensorLocationSettings().useReplicatedTensorSharding(None), AssertionError),
        (lambda o, p: o.setAvailableMemoryProportion([0.3]), AttributeError),
        (lambda o, p: o.setAvailableMemoryProportion({"IPUx": 0.3}), ValueError),
        (lambda o, p: o.setExecutionStrategy("pipelined"), AssertionError),
        (lambda o, p: o.Precision.setPartialsType(torch.bfloat16), ValueError),
        (lambda o, p: o.Precision.enableFloatingPointExceptions(1), AssertionError),
        (lambda o, p: o.Precision.autocastEnabled(True), AttributeError),
        (lambda o, p: setattr(o, "device_iterations", "2"), AssertionError),
        (lambda o, p: setattr(o, "no_such_option", 2), AssertionError),
    ],
)
def test_sections_refuse(poptorch: Any, set_wrongly: Any, kind: type) -> None:
    with pytest.raises(kind):
        set_wrongly(poptorch.Options(), poptorch)


def test_everything_is_frozen_with_the_options(poptorch: Any) -> None:
    options = poptorch.Options()
    program = poptorch.inferenceModel(Plain(), options)
    for held in (options, program.options):
        for change in (
            lambda held=held: held.TensorLocations.numIOTiles(32),
            lambda held=held: held.Distributed.configureProcessId(0, 2),
            lambda held=held: held.setExecutionStrategy(poptorch.ShardedExecution()),
            lambda held=held: held.enableProfiling("report"),
        ):
            with pytest.raises(AttributeError, match="frozen"):
                change()


def test_clones_share_nothing(poptorch: Any) -> None:
    options = poptorch.Options()
    options.TensorLocations.numIOTiles(32)
    clone = options.clone()
    clone.Precision.enableStochasticRounding(True)  # goes through to the clone's own _Popart
    clone.TensorLocations.numIOTiles(64)
    clone.Training.gradientAccumulation(8)
    assert clone._Popart.options["enableStochasticRounding"] is True
    assert "enableStochasticRounding" not in options._Popart.options
    assert options.TensorLocations.toDict() == {"numIOTiles": 32}
    assert clone.TensorLocations.toDict() == {"numIOTiles": 64}
    assert options.Training.gradient_accumulation == 1


def test_all_options_are_handed_over_once(poptorch: Any) -> None:
    options = poptorch.Options()
    with pytest.raises(AssertionError, match="output mode"):
        options.toDict()
    options.outputMode(poptorch.OutputMode.All).setExecutionStrategy(poptorch.ShardedExecution())
    options.TensorLocations.setOptimizerLocation(poptorch.TensorLocationSettings().useOnChipStorage(False))
    options.Precision.setPartialsType(torch.half)
    handed = options.toDict()
    assert handed["execution_mode"] == 1 and handed["gradient_accumulation"] == 1
    assert handed["location_optimizer"] == {"onChip": 0}
    assert (handed["partialsTypeMatMuls"], handed["convolutionOptions"]) == ("half", {"partialsType": "half"})
    options._Popart.set("numIOTiles", 32)
    options.TensorLocations.numIOTiles(32)
    with pytest.raises(AssertionError, match="numIOTiles.*twice"):
        options.toDict()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("autoRecomputation", 0, None),
        ("autoRecomputation", True, "no bool option autoRecomputation"),
        ("autoRecomputation", 5, "out of range"),
        ("defaultBufferingDepth", -1, "out of range"),
        ("defaultBufferingDepth", 2.0, "no floating point option"),
        ("enableStochasticRounding", 1, "no uint64 option enableStochasticRounding"),
        ("accumulateOuterFragmentSettings.schedule", 3, None),
        ("accumulateOuterFragmentSettings.schedule", 4, "out of range"),
        ("engineOptions", {"a": "b"}, None),
        ("engineOptions", "a", "no string option engineOptions"),
        ("cachePath", None, "unknown type"),
        ("mergeAllReduceCollectives", True, "no bool option"),
        ("replicatedCollectivesSettings.mergeAllReduceCollectives", True, None),
        ("location_everything", {"onChip": 1}, "no tensor location"),
    ],
)
def test_names_types_and_ranges_of_popart(poptorch: Any, name: str, value: Any, message: Any) -> None:
    options = poptorch.Options()
    options._Popart.set(name, value)
    if message is None:
        assert poptorch.inferenceModel(Plain(), options)(torch.ones(1)).item() == 2
    else:
        assert message in refusal_of(poptorch, options)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, float("nan"), "0.3"])
def test_shares_of_memory(poptorch: Any, share: Any) -> None:
    assert "not in (0, 1]" in refusal_of(poptorch, poptorch.Options().setAvailableMemoryProportion({"IPU0": share}))


def test_shares_of_ipus_that_the_program_has_not(poptorch: Any) -> None:
    options = poptorch.Options().setAvailableMemoryProportion({"IPU0": 0.3, "IPU1": 0.3})
    assert "IPU1" in refusal_of(poptorch, options)


def test_offline_targets(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in [
        (poptorch.Options().useOfflineIpuTarget().useIpuModel(True), "IPU model"),
        (poptorch.Options().useOfflineIpuTarget().useIpuId(0), "number"),
        (poptorch.Options().useOfflineIpuTarget().replicationFactor(128), "too many IPUs"),
    ]:
        with pytest.raises(poptorch.Error, match=message):
            poptorch.inferenceModel(Plain(), options).compile(torch.ones(128))
    poptorch.inferenceModel(Plain(), poptorch.Options().useOfflineIpuTarget().replicationFactor(3)).compile(
        torch.ones(3)
    )  # nothing is reserved
    monkeypatch.setenv("POPTORCH_IPU_MODEL", "1")
    with pytest.raises(poptorch.Error, match="IPU model"):
        poptorch.inferenceModel(Plain(), poptorch.Options().useOfflineIpuTarget()).compile(torch.ones(1))
    poptorch.inferenceModel(Plain())(torch.ones(1))
    assert poptorch.Machine.holder is None  # simulated


def test_devices_by_number(poptorch: Any) -> None:
    devices = poptorch.Machine.devices()
    assert [devices[number] for number in (0, 15, 16, 23, 24, 28, 30)] == [1, 1, 2, 2, 4, 8, 16] and len(devices) == 31
    for number, replicas, message in [(0, 2, "device 0 has 1"), (31, 1, "there is none"), (16, 4, "device 16 has 2")]:
        options = poptorch.Options().replicationFactor(replicas).useIpuId(number)
        assert message in refusal_of(poptorch, options)
    program = poptorch.inferenceModel(Plain(), poptorch.Options().replicationFactor(2).useIpuId(16))
    assert program(torch.ones(2)).tolist() == [2.0, 2.0]


def test_environment(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPTORCH_CACHE_DIR", "cache")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    options = poptorch.Options()
    assert options._Popart.options["cachePath"] == "cache" and options._Popart.options["enableEngineCaching"] is True
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (3, 4)
    options.Distributed.disable()
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (0, 1)
