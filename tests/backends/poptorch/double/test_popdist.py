"""PopDist's double: what poprun tells its processes, and that they train as one."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from poptorch_helpers import DOUBLE, Plain, installed_double, poprun_variables, started_by_poprun

CHILD = """
import sys
import torch
import popdist, popdist.poptorch, poptorch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.unused = nn.Linear(3, 2), nn.Parameter(torch.ones(1))
    def forward(self, x):
        return poptorch.identity_loss(self.layer(x).tanh().square().sum(), "sum")

results = []
for reduction in (poptorch.ReductionType.Sum, poptorch.ReductionType.Mean):
    if popdist.isPopdistEnvSet():
        popdist.init()
        options = popdist.poptorch.Options(ipus_per_replica=1)
        rank, size = popdist.getInstanceIndex(), popdist.getNumInstances()
    else:
        options, rank, size = poptorch.Options().replicationFactor(4), 0, 1
    options.deviceIterations(2).outputMode(poptorch.OutputMode.All)
    options.Training.gradientAccumulation(3).accumulationAndReplicationReductionType(reduction)
    model = Model()
    program = poptorch.trainingModel(model, options, poptorch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    losses = []
    for call in range(2):
        torch.manual_seed(call)
        x = torch.randn(2, 3, 4, 5, 3)  # [iteration, accumulation, replica of all, micro-batch, features]
        losses.append(program(x[:, :, rank * 4 // size : (rank + 1) * 4 // size].reshape(-1, 3)))
    program.destroy()
    losses = torch.stack(losses).reshape(2, 2, 3, -1)  # [call, iteration, accumulation, replica]
    results.append([losses, *model.state_dict().values()])
torch.save(results, f"{sys.argv[1]}/{rank} of {size}.pt")
"""


def launched(monkeypatch: pytest.MonkeyPatch, index: int = 0, local: int = 2, ipus: int = 1) -> Any:
    """popdist, in the process of one of two instances."""
    import popdist
    import popdist.poptorch

    for name, value in poprun_variables(index, 2, local, ipus).items():
        monkeypatch.setenv(name, value)
    popdist.init()
    return popdist


def test_without_poprun(poptorch: Any) -> None:
    import popdist
    import popdist.poptorch

    assert not popdist.isPopdistEnvSet()
    for call in (popdist.init, popdist.getInstanceIndex, popdist.getNumTotalReplicas, popdist.getDeviceId):
        with pytest.raises(RuntimeError, match="poprun"):
            call()
    with pytest.raises(RuntimeError, match="init"):
        popdist.poptorch.Options(ipus_per_replica=1)


def test_is_gone_with_the_double() -> None:
    with installed_double():
        import popdist

        assert "poptorch_double" in str(popdist.__file__)
    assert "popdist" not in sys.modules and str(DOUBLE) not in sys.path


def test_what_poprun_decided(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    popdist = launched(monkeypatch, index=1, local=4, ipus=2)
    assert popdist.isPopdistEnvSet()
    assert (popdist.getInstanceIndex(), popdist.getNumInstances()) == (1, 2)
    assert (popdist.getNumTotalReplicas(), popdist.getNumLocalReplicas()) == (8, 4)
    assert (popdist.getNumIpusPerReplica(), popdist.getReplicaIndexOffset(), popdist.getLocalInstanceIndex()) == (
        2,
        4,
        1,
    )
    assert poptorch.Machine.devices()[popdist.getDeviceId()] == 8
    options = popdist.poptorch.Options(ipus_per_replica=2)
    assert isinstance(options, poptorch.Options) and options.replication_factor == 4
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (1, 2)
    for name, call in {
        "useIpuId": lambda: options.useIpuId(1),
        "replicationFactor": lambda: options.replicationFactor(4),
        "Distributed.disable": lambda: options.Distributed.disable(),
        "Distributed.setEnvVarNames": lambda: options.Distributed.setEnvVarNames("A", "B"),
        "Distributed.configureProcessId": lambda: options.Distributed.configureProcessId(0, 2),
    }.items():
        with pytest.raises(RuntimeError, match=f"Cannot call `{name}`"):
            call()
    with pytest.raises(RuntimeError, match="4 IPUs per replica, but poprun was told 2"):
        popdist.poptorch.Options(ipus_per_replica=4)
    clone = options.clone()
    assert type(clone) is type(options) and clone.Distributed.processId == 1


def test_options_are_completed_when_handed_over(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    popdist = launched(monkeypatch)
    options = popdist.poptorch.Options().outputMode(poptorch.OutputMode.All)
    options._freeze()
    handed = options.toDict()
    assert poptorch.Machine.devices()[handed["ipu_id"]] == 2 and handed["replication_factor"] == 2
    with pytest.raises(AttributeError, match="frozen"):
        options.checkIsFrozen()
    offline = popdist.poptorch.Options().outputMode(poptorch.OutputMode.All).useOfflineIpuTarget()
    assert "ipu_id" not in offline.toDict()
    poptorch.inferenceModel(Plain(), popdist.poptorch.Options())(torch.ones(2))
    assert poptorch.Machine.holder is not None


def test_a_model_that_outgrows_the_device(poptorch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    popdist = launched(monkeypatch, local=1, ipus=1)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), poptorch.BeginBlock(torch.nn.Linear(1, 1), ipu_id=1))
    options = popdist.poptorch.Options().setExecutionStrategy(poptorch.ShardedExecution())
    with pytest.raises(poptorch.Error, match="the model uses 2 IPUs, device 0 has 1"):
        poptorch.inferenceModel(model, options)(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"POPDIST_NUM_LOCAL_REPLICAS": "8"}, "8 of 4 replicas"),
        ({"POPDIST_REPLICA_INDEX_OFFSET": "3"}, "from number 3 on"),
        ({"POPDIST_UNIFORM_REPLICAS_PER_INSTANCE": "0"}, "different numbers of replicas"),
        ({"POPDIST_LOCAL_INSTANCE_INDEX": "9"}, "no device with 2 IPUs"),
    ],
)
def test_variables_that_contradict(poptorch: Any, monkeypatch: pytest.MonkeyPatch, change: Any, message: str) -> None:
    popdist = launched(monkeypatch)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=message):
        popdist.getInstanceIndex(), popdist.getDeviceId()


def test_alone_among_several_does_not_pretend(poptorch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Training needs the others' gradients; evaluation does not."""
    import poptorch.collectives as collectives  # noqa: TID251 (the double)

    popdist = launched(monkeypatch, local=1)
    model = torch.nn.Linear(1, 1)
    model.forward = lambda x: poptorch.identity_loss(torch.nn.Linear.forward(model, x), "sum")  # type: ignore
    program = poptorch.trainingModel(model, popdist.poptorch.Options())
    with pytest.raises(NotImplementedError, match="process 0 of 2 meets no other"):
        program(torch.ones(1, 1))
    monkeypatch.setenv(collectives.MEETING, str(tmp_path / "meeting"))
    monkeypatch.setattr(collectives, "TIMEOUT", 0.01)
    with pytest.raises(RuntimeError, match="1-1.pt did not come"):
        program(torch.ones(1, 1))
    program.detachFromDevice()
    assert poptorch.inferenceModel(torch.nn.Linear(1, 1), popdist.poptorch.Options())(torch.ones(1, 1)).dim() == 2


def test_instances_train_as_one(poptorch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 replicas, of one process and of two: equal to the last bit, each with the losses of its own."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    running = started_by_poprun([str(script), str(tmp_path)], 2, 2, tmp_path / "meeting")
    monkeypatch.setattr(sys, "argv", ["child.py", str(tmp_path)])
    runpy.run_path(str(script))
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    one, two, whole = (torch.load(tmp_path / f"{name}.pt") for name in ("0 of 2", "1 of 2", "0 of 1"))
    assert not whole[0][2].equal(whole[1][2])  # sum and mean are not the same
    for first, second, (losses, *weights) in zip(one, two, whole):
        torch.testing.assert_close(torch.cat([first[0], second[0]], 3), losses, rtol=0, atol=0)
        for a, b, expected in zip(first[1:], second[1:], weights):
            assert a.equal(expected) and b.equal(expected)
