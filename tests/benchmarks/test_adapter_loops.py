"""Other libraries' loops take a drop-in by changing three lines at most, and still run."""

import numpy as np
import pytest

from benchmarks import adapter_loops as loops
from benchmarks.adapter_loops import changed_lines

PAIRS = [
    (loops.pyg_before, loops.pyg_after),
    (loops.huggingface_before, loops.huggingface_after),
    (loops.jraph_before, loops.jraph_after),
    (loops.grain_before, loops.grain_after),
    (loops.grain_before, loops.grain_stream),
    (loops.poptorch_before, loops.poptorch_after),
]


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=lambda function: function.__name__)
def test_at_most_three_lines_change(before, after):
    count, lines = changed_lines(before, after)
    assert 1 <= count <= 3, "\n".join(lines)


def test_lines_are_counted():
    def before():
        """Some lines."""
        one = 1
        return one

    def after():
        """Other words are no change."""
        one = 1
        two = 2
        return one + two

    assert changed_lines(before, after)[0] == 2 and changed_lines(before, before) == (0, [])


@pytest.mark.parametrize("loop", [loops.grain_before, loops.grain_after, loops.grain_stream])
def test_loops_of_grain_run(loop):
    pytest.importorskip("grain", reason="grain is not installed: its adapter was NOT tested")
    examples = [{"tokens": np.full(n % 30 + 1, n)} for n in range(200)]
    packs = [pack for batch in loop(examples, 40) for pack in batch["tokens"]]
    assert len(packs) * 40 >= sum(len(one["tokens"]) for one in examples) * 0.9


def test_the_loop_of_pytorch_geometric_trains():
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("torch_geometric.data", reason="torch_geometric is not installed: its loop was NOT run")

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            return self.weight * torch.zeros(batch.num_graphs).index_add(0, batch.batch, batch.x)

    graphs = [
        data.Data(x=torch.ones(n), edge_index=torch.zeros(2, 4, dtype=torch.int64), y=torch.full((1,), 2.0 * n))
        for n in np.random.default_rng(0).integers(3, 30, 700).tolist()
    ]
    for loop in (loops.pyg_before, loops.pyg_after):
        model = Sum()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for _ in range(3):
            shapes = {batch.num_nodes for batch in loop(graphs, model, optimizer)}
        assert abs(float(model.weight.detach()) - 2.0) < 0.05
        assert (shapes == {2304}) == (loop is loops.pyg_after)
