"""PopTorch's double: blocks, stages and IPUs; a pipeline computes what one IPU computes."""

from typing import Any, Dict, List

import pytest
import torch
from torch import Tensor, nn


class Layers(nn.Module):
    """Layers one after the other, marked as blocks on the given IPUs; None leaves a layer in the block before."""

    def __init__(self, poptorch: Any, ipus: List[Any], tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in ipus])
        if tied:
            self.layers[-1].weight = self.layers[0].weight
        for index, ipu in enumerate(ipus):
            if ipu is not None:
                poptorch.BeginBlock(self.layers[index], user_id=f"b{index}", ipu_id=ipu)
        self.mark = poptorch.identity_loss

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.mark(x.square().sum(), "sum") if self.training else x


def program_of(poptorch: Any, model: nn.Module, strategy: Any = None, **sizes: int) -> Any:
    options = poptorch.Options().deviceIterations(sizes.get("iterations", 1))
    options.replicationFactor(sizes.get("replicas", 1)).outputMode(poptorch.OutputMode.All)
    if strategy is not None:
        options.setExecutionStrategy(strategy)
    if not model.training:
        return poptorch.inferenceModel(model, options)
    options.Training.gradientAccumulation(sizes.get("accumulation", 1))
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.01)
    return poptorch.trainingModel(model, options, optimizer)


def in_order(poptorch: Any, ipus: List[int]) -> Any:
    """A pipeline in which every block is a stage of its own."""
    return poptorch.PipelinedExecution(*(poptorch.Stage(f"b{n}").ipu(ipu) for n, ipu in enumerate(ipus)))


def refusal_of(poptorch: Any, program: Any, rows: int = 16, kind: Any = None) -> str:
    with pytest.raises(kind or poptorch.Error) as caught:
        program(torch.ones(rows, 4))
    assert not program.isCompiled() and poptorch.Machine.holder is None
    return str(caught.value)


@pytest.mark.parametrize("how", ["PipelinedExecution", "ShardedExecution"])
def test_trains_as_on_one_ipu(poptorch: Any, how: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(2 * 8 * 2 * 3, 4)
    results: Dict[str, Any] = {}
    for name, ipus in (("one", [None] * 4), ("four", [0, 1, 2, 3]), ("two", [0, None, 1, None])):
        model = Layers(poptorch, ipus)
        strategy = getattr(poptorch, how)() if name != "one" else None
        program = program_of(poptorch, model, strategy, iterations=2, accumulation=8, replicas=2)
        losses = [program(x) for _ in range(3)]
        assert program._executable.num_ipus == 2 * {"one": 1, "four": 4, "two": 2}[name]
        program.destroy()
        results[name] = (torch.stack(losses), [p.detach().clone() for p in model.parameters()])
    for name in ("four", "two"):
        assert results[name][0].equal(results["one"][0])
        assert all(p.equal(q) for p, q in zip(results[name][1], results["one"][1]))


def test_evaluates_as_on_one_ipu(poptorch: Any) -> None:
    x = torch.randn(8, 4)
    model = Layers(poptorch, [0, 1, 2, 3]).eval()
    torch.testing.assert_close(program_of(poptorch, model, iterations=4)(x), model(x).detach())


@pytest.mark.parametrize(("ipus", "stages"), [([0, 1], 3), ([0, 1, 2], 5), ([0, 0, 1, 1], 3), ([0, 1, 0, 1], 7)])
def test_accumulation_fills_the_pipeline(poptorch: Any, ipus: List[int], stages: int) -> None:
    """An IPU that is visited again counts again; neighbors on one IPU are one."""
    program = program_of(poptorch, Layers(poptorch, ipus), in_order(poptorch, ipus), accumulation=stages - 1)
    message = refusal_of(poptorch, program, stages - 1)
    assert f"at least the number of pipeline stages ({stages})" in message
    enough = Layers(poptorch, ipus)
    if max(ipus) == 1:  # three IPUs are not lent
        program_of(poptorch, enough, in_order(poptorch, ipus), accumulation=stages)(torch.ones(stages, 4))


def test_iterations_fill_the_pipeline_in_evaluation(poptorch: Any) -> None:
    for iterations in (1, 3):
        program = program_of(poptorch, Layers(poptorch, [0, 1, 2, 3]).eval(), iterations=iterations)
        assert "deviceIterations must be at least" in refusal_of(poptorch, program, iterations)
    sharded = program_of(poptorch, Layers(poptorch, [0, 1, 2, 3]).eval(), poptorch.ShardedExecution())
    assert sharded(torch.ones(1, 4)).shape == (1, 4)


def test_ipus_come_in_powers_of_two(poptorch: Any) -> None:
    strategy = poptorch.ShardedExecution
    assert "powers of two: 4" in refusal_of(
        poptorch, program_of(poptorch, Layers(poptorch, [0, 1, 2]).eval(), strategy())
    )
    # The highest counts, not how many are used.
    assert "powers of two: 4" in refusal_of(poptorch, program_of(poptorch, Layers(poptorch, [0, 2]).eval(), strategy()))
    many = program_of(poptorch, Layers(poptorch, [0, 1, 2, 3]).eval(), strategy(), replicas=32)
    assert "too many IPUs (128)" in refusal_of(poptorch, many, 32)
    there = program_of(poptorch, Layers(poptorch, [0, 1, 2, 3]).eval(), strategy(), replicas=8)
    assert "failed to acquire 32" in refusal_of(poptorch, there, 32)


def test_a_weight_is_on_one_ipu(poptorch: Any) -> None:
    for strategy in (poptorch.PipelinedExecution, poptorch.ShardedExecution):
        program = program_of(poptorch, Layers(poptorch, [0, 1], tied=True), strategy(), accumulation=4)
        assert "layers.0.weight between IPUs [0, 1]" in refusal_of(poptorch, program)
    together = program_of(poptorch, Layers(poptorch, [0, None], tied=True), accumulation=4)
    assert together(torch.ones(4, 4)).shape == (4,)


def test_stages_by_name(poptorch: Any) -> None:
    stages = [poptorch.Stage("b0").ipu(0), poptorch.Stage("b1").ipu(1)]
    model = Layers(poptorch, [5, 5])  # the stage's IPU goes before the block's
    program = program_of(poptorch, model, poptorch.PipelinedExecution(*stages), accumulation=4)
    assert program(torch.ones(4, 4)).shape == (4,) and program._executable.num_ipus == 2
    program.destroy()
    unknown = program_of(poptorch, Layers(poptorch, [0, 1]), poptorch.PipelinedExecution("b0", "b2"), accumulation=4)
    assert "no block 'b1', only ['b0', 'b2']" in refusal_of(poptorch, unknown, kind=AssertionError)
    with pytest.raises(AssertionError, match="more than one stage"):
        poptorch.PipelinedExecution("b0", ["b1", "b0"])
    with pytest.raises(AssertionError, match="strings"):
        poptorch.Stage("b0", 1)
    with pytest.raises(AssertionError):
        poptorch.Stage("b0").ipu("0")
    without_ipu = poptorch.PipelinedExecution("b0", "b1")  # the stage's number is its IPU
    model = Layers(poptorch, [None, None])
    for index in (0, 1):
        poptorch.BeginBlock(model.layers[index], user_id=f"b{index}")
    program = program_of(poptorch, model, without_ipu, accumulation=4)
    program(torch.ones(4, 4))
    assert program._executable.num_ipus == 2


def test_stages_in_disorder(poptorch: Any) -> None:
    both = poptorch.PipelinedExecution(["b0", "b1"], ["b2"])
    program = program_of(poptorch, Layers(poptorch, [0, 1, 1]), both, accumulation=8)
    assert "stage 0 has operators on IPUs [0, 1]" in refusal_of(poptorch, program)
    backwards = poptorch.PipelinedExecution(poptorch.Stage("b1").ipu(0), poptorch.Stage("b0").ipu(1))
    program = program_of(poptorch, Layers(poptorch, [0, 1]), backwards, accumulation=8)
    assert "nothing flows back" in refusal_of(poptorch, program)
    gap = poptorch.PipelinedExecution("b0", "unused", "b1")
    program = program_of(poptorch, Layers(poptorch, [0, 1]), gap, accumulation=8)
    assert "stage 1 is missing" in refusal_of(poptorch, program)
    no_ipu = Layers(poptorch, [None, None])
    poptorch.BeginBlock(no_ipu.layers[1])
    assert "has no ipu_id" in refusal_of(poptorch, program_of(poptorch, no_ipu), kind=AssertionError)


def test_marks_on_modules(poptorch: Any) -> None:
    layer = nn.Linear(4, 4)
    assert poptorch.BeginBlock(layer, "a", 1) is layer and "BeginBlock(user_id=a, ipu_id=1)" in repr(
        list(layer._forward_pre_hooks.values())
    )
    with pytest.raises(poptorch.Error, match="already"):
        poptorch.BeginBlock(layer, "b", 2)
    with pytest.raises(poptorch.Error, match="Module"):
        poptorch.BeginBlock(3)
    model = nn.Sequential(layer)
    poptorch.removeBlocks(model)
    poptorch.BeginBlock(layer, "b", 2)
    assert "BeginBlock(user_id=b, ipu_id=2)" in repr(list(layer._forward_pre_hooks.values()))


def test_checkpoints_for_recomputation(poptorch: Any) -> None:
    class Checkpointed(Layers):
        def forward(self, x: Tensor) -> Any:
            a, b = poptorch.recomputationCheckpoint(x * 1, x * 2)
            (c,) = poptorch.recomputationCheckpoint([poptorch.recomputationCheckpoint(a + b)])
            return super().forward(c / 3)

    results = []
    for kind in (Layers, Checkpointed):
        model = kind(poptorch, [0, 1])
        program = program_of(poptorch, model, accumulation=4)
        program(torch.ones(4, 4))
        program.destroy()
        results.append([p.detach() for p in model.parameters()])
    for plain, checkpointed in zip(*results):
        torch.testing.assert_close(checkpointed, plain)
    assert poptorch.recomputationCheckpoint(torch.ones(1)).item() == 1
    with pytest.raises(ValueError, match="tensors"):
        poptorch.recomputationCheckpoint(torch.ones(1), 2)
