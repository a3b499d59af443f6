"""Property head and its batches: packed equals one by one, labels where they belong, training by every backend."""

from typing import Any, List

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poptorch_helpers import installed_double
from support import as_dtype, gradients
from text_cases import BUDGET, SLOTS, VOCAB, alone, make_loader, one_pack, sequences, small_chemgpt, with_garbage

from ipu_chem.backends.base import Program
from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.backends.options import Batching, World
from ipu_chem.backends.poptorch.operators.check import check_program
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.data.standardize import Standardizer
from ipu_chem.losses import mae, mse
from ipu_chem.metrics import Target
from ipu_chem.models.pooling import POOLINGS
from ipu_chem.models.property_head import ChemGPTProperty
from ipu_chem.optim import OptimizerConfig
from ipu_chem.tasks.evaluation import Evaluator, predict_split
from ipu_chem.tasks.labels import KnownLabels, Labels
from packing import Budget, Ragged, make_plan
from packing.store import Store


def small_property(dtype: torch.dtype = torch.float64, targets: int = 2, **options: Any) -> ChemGPTProperty:
    model = ChemGPTProperty(small_chemgpt(dtype), targets, **options).to(dtype)
    torch.manual_seed(1)
    for parameter in model.head.parameters():  # fresh heads predict 0
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def random_targets(count: int, seed: int = 0) -> np.ndarray:
    """[count, 2], some missing."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((count, 2)) < 0.2, np.nan, rng.normal(size=(count, 2)))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=9),
    kind=st.sampled_from(POOLINGS),
)
def test_pack_equals_its_molecules_one_by_one(seed, lengths, kind):
    ids, targets = sequences(lengths, seed), random_targets(len(lengths), seed)
    pack, order = one_pack(ids, targets)
    pack = as_dtype(with_garbage(pack, np.random.default_rng(seed)), torch.float64)
    model = small_property(pooling=kind)
    prediction = model(*pack.inputs)
    loss = mse(prediction, *pack.targets)
    loss.backward()
    together = gradients(model)
    assert torch.all(prediction[~pack.graph_mask] == 0)

    model.zero_grad()
    outputs, total = [], torch.zeros((), dtype=torch.float64)
    weights = pack.weight[pack.graph_mask]
    for place, item in enumerate(order.tolist()):
        single = as_dtype(alone(ids, targets, item, weights[place]), torch.float64)
        output = model(*single.inputs)
        part = mse(output, *single.targets)
        part.backward()
        outputs.append(output.detach()[0, 0])
        total += part.detach()
    close = dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prediction[pack.graph_mask].detach(), torch.stack(outputs), **close)
    torch.testing.assert_close(loss.detach(), total, **close)
    torch.testing.assert_close(together, gradients(model), **close)


def test_a_sum_grows_with_the_molecule_and_a_mean_does_not():
    ids = Ragged(np.array([0, 3, 4, 1, 0, 3, 4, 3, 4, 1]), np.array([0, 4, 10]))
    for kind, factor in (("sum", 2), ("mean", 1)):
        model = small_property(pooling=kind)
        for layer in model.layers:  # then a symbol's features are its own and nothing else's
            for parameter in layer.parameters():
                parameter.data.zero_()
        model.embedding.wpe.weight.data.zero_()
        pack, order = one_pack(ids, np.zeros((2, 2)))
        once, double = model(*pack.inputs)[pack.graph_mask][np.argsort(order)]
        torch.testing.assert_close(double, factor * once)


def test_a_fresh_head_predicts_the_mean_and_takes_the_model_s_weights():
    chemgpt = small_chemgpt(torch.float32)
    model = ChemGPTProperty(chemgpt, 3, extensive=True)
    assert model.head.kind == "sum" and ChemGPTProperty(chemgpt).head.kind == "mean"
    pack, _ = one_pack(sequences([5, 4]), np.zeros((2, 3)))
    assert torch.all(model(*pack.inputs) == 0)
    own = {name: value for name, value in model.state_dict().items() if ".lin_" not in name}
    assert own.keys() == chemgpt.state_dict().keys() - {"head.weight"}
    assert all(torch.equal(value, chemgpt.state_dict()[name]) for name, value in own.items())
    assert {name for name in model.learning_rate_multipliers()} == dict(model.named_parameters()).keys()


def test_a_frozen_chemgpt_keeps_its_weights():
    ids, targets = sequences([5, 9, 4, 12, 7]), random_targets(5)
    model = ChemGPTProperty(small_chemgpt(torch.float32), 2, freeze=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == 12 * 12 + 12 + 12 * 2 + 2
    batching = Batching(2)
    loader = make_loader(ids, targets, batching)
    backend = TorchBackend()
    backend.compile(model, mse, OptimizerConfig("adamw", 1e-2), batching, loader.example(training=True))
    for batch, _ in loader.epoch(0, 0):
        backend.train_step(batch, 1e-2)
    for name, value in backend.state_dict(weights_only=True)["model"].items():
        moved = name in ("head.lin_out.weight", "head.lin_out.bias")  # the hidden layer has no slope at first
        assert torch.equal(value, before[name]) != moved, name


def test_training_lowers_the_loss_as_one_molecule_at_a_time_does():
    rng = np.random.default_rng(0)
    ids = sequences(rng.integers(3, 13, 24).tolist(), 1)
    share = [np.mean(ids[item][1:-1] < 5) for item in range(len(ids))]  # something about the symbols
    targets = np.array(share)[:, None] - np.mean(share)
    losses = {}
    # All packs are one step, so that both follow the same means.
    for name, budget in (("packed", BUDGET), ("alone", Budget(tokens=SLOTS, segments=1))):
        plan = make_plan(ids.lengths, budget)
        batching = Batching(micro_batch_size=plan.num_packs)
        loader = TextPropertyLoader(ids, plan, targets, budget, batching, VOCAB)
        model = ChemGPTProperty(small_chemgpt(), 1).double()
        backend = TorchBackend()
        backend.compile(model, mse, OptimizerConfig("adamw", 3e-3), batching, loader.example(training=True))
        losses[name] = [
            float(backend.train_step(batch, 3e-3)) for epoch in range(25) for batch, _ in loader.epoch(0, epoch)
        ]
    assert losses["packed"][-1] < 0.3 * losses["packed"][0]
    np.testing.assert_allclose(losses["packed"], losses["alone"], rtol=1e-5)


def test_an_evaluator_takes_these_packs():
    ids, targets = sequences([5, 9, 4, 12, 7, 3, 8, 8]), random_targets(8)
    items = np.array([6, 1, 2, 7, 3])
    loader = make_loader(ids, targets, Batching(2), items=items)
    model = small_property(torch.float32)
    backend = TorchBackend()
    backend.compile(model, None, None, Batching(2), loader.example(training=False))
    predictions = predict_split(backend, loader)
    singles = [model(*alone(ids, targets, item, torch.ones(2)).inputs)[0, 0] for item in items]
    np.testing.assert_allclose(predictions, torch.stack(singles).detach().numpy(), rtol=1e-4, atol=1e-5)
    kinds = [Target("a", "eV", False), Target("b", "", False)]
    named, zeros = [vars(kind) for kind in kinds], np.zeros(2)
    as_they_are = Standardizer(named, ["none"] * 2, [1], np.zeros((100, 2)), zeros, zeros, np.ones(2))
    labels = Labels(kinds, "mse", as_they_are)
    one_atom = Ragged(np.ones(len(ids), np.uint8), np.arange(len(ids) + 1))
    labels.known = KnownLabels(Store({}, {"y": targets}, {}), one_atom, "name", "", lambda _: {}, "random")
    metrics, _ = Evaluator(loader, [labels.on("test", np.array(items))]).metrics(backend)
    assert metrics["mae_b"] == pytest.approx(np.nanmean(np.abs(predictions - targets[items])[:, 1]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 40), steps=st.integers(1, 2), accumulation=st.integers(1, 2))
def test_every_molecule_stands_beside_its_labels(seed, count, steps, accumulation):
    rng = np.random.default_rng(seed)
    ids, targets = sequences(rng.integers(1, 17, count).tolist(), seed), random_targets(count, seed)
    loader = make_loader(ids, targets, Batching(1, accumulation, 1, steps))
    found: List[Any] = []
    for batch, _ in loader.epoch(seed, 0):
        assert batch.ids.dtype == batch.position_ids.dtype == batch.ends.dtype == torch.uint8
        totals = batch.weight.reshape(steps, -1).double().sum(1)
        filled = (batch.weight.reshape(steps, -1) > 0).any(1)
        torch.testing.assert_close(totals, filled.double(), rtol=1e-6, atol=0)
        for row in range(len(batch.ids)):
            ends = batch.ends[row].tolist()
            for place, (first, last) in enumerate(zip([0, *ends], ends)):
                assert bool(batch.graph_mask[row, place]) == (last > first)
                if last > first:
                    assert batch.position_ids[row, first:last].tolist() == list(range(last - first))
                    known = (batch.weight[row, place] > 0).tolist()
                    labels = [round(v, 5) if k else None for v, k in zip(batch.y[row, place].tolist(), known)]
                    found.append((batch.ids[row, first:last].tolist(), labels))
    expected = [
        (ids[item].tolist(), [None if np.isnan(v) else round(float(np.float32(v)), 5) for v in targets[item]])
        for item in range(count)
    ]
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_processes_share_the_packs_of_a_call():
    ids, targets, batching = sequences([5, 9, 4, 12, 7, 3, 8, 8] * 5), random_targets(40), Batching(1, 2, 4)
    whole = [batch for batch, _ in make_loader(ids, targets, batching).epoch(3, 1)]
    parts = [
        [batch for batch, _ in make_loader(ids, targets, batching, world=World(rank, 2)).epoch(3, 1)] for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *parts):
        for name, field in zip(batch._fields, batch):
            grid = field.reshape(2, 4, *field.shape[1:])  # accumulation, replica
            assert torch.equal(getattr(first, name), grid[:, :2].flatten(0, 1))
            assert torch.equal(getattr(second, name), grid[:, 2:].flatten(0, 1))


@pytest.mark.parametrize("loss", [mse, mae])
@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_ipus_take_every_operator(weights, training, kind, loss):
    model = small_property(torch.float32, pooling=kind).train(training)
    packs = [one_pack(sequences([5, 9, 8, 12], seed), random_targets(4, seed))[0] for seed in (0, 1)]
    if weights == "float16":
        weights_to_half(model)
        with HalfOnCpu():
            report = check_program(Program(model, loss), *packs)
    else:
        report = check_program(Program(model, loss), *packs)
    assert report.findings == (), report.text()
    assert report.operators["bmm"] == 5 and "scatter_add" not in report.operators


def test_every_weight_and_operator_is_inside_a_block():
    model = small_property(torch.float32)
    modules = dict(model.named_modules())
    inside = [parameter for name in model.blocks() for parameter in modules[name].parameters()]
    assert {id(parameter) for parameter in inside} == {id(parameter) for parameter in model.parameters()}
    assert len(inside) == len(list(model.parameters()))  # none is shared, so stages need no way back
    x = torch.zeros(1)
    for name in model.blocks():
        modules[name].forward = (lambda *_: (x, x)) if name == "embedding" else (lambda *_: x)  # type: ignore
    ids = torch.zeros((1, 8), dtype=torch.int32)
    with installed_double():
        from poptorch.tracing import operators  # noqa: TID251 (the double)

        assert operators(model, ids, ids, ids[:, :2]) == set()


def test_the_double_of_poptorch_trains_as_torch_does():
    from ipu_chem.backends.poptorch.backend import PopTorchBackend
    from ipu_chem.backends.poptorch.options import IpuOptions

    ids, targets = sequences([5, 9, 4, 12, 7, 3, 8, 8] * 3), random_targets(24)
    batching = Batching(1, 4, 1, 2)
    loader = make_loader(ids, targets, batching)
    losses, predictions = [], []
    with installed_double():
        for make in (TorchBackend, lambda: PopTorchBackend(IpuOptions(ipus_per_replica=2))):
            backend = make()
            example = loader.example(training=True)
            model = ChemGPTProperty(small_chemgpt(torch.float32), 2, freeze=False)
            backend.compile(model, mse, OptimizerConfig("adamw", 1e-2), batching, example)
            losses.append(torch.cat([backend.train_step(batch, 1e-2) for batch, _ in loader.epoch(0, 0)]))
            predictions.append(predict_split(backend, loader))
            backend.close()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predictions[0], predictions[1], rtol=1e-3, atol=1e-4)


def test_what_does_not_belong_together_is_refused():
    ids = sequences([5, 4])
    with pytest.raises(ValueError, match="2 sequences and targets for 3"):
        make_loader(ids, np.zeros((3, 1)), Batching())
    with pytest.raises(ValueError, match="must say how many molecules a pack has slots for"):
        make_loader(ids, np.zeros((2, 1)), Batching(), Budget(tokens=SLOTS))
    with pytest.raises(ValueError, match="the vocabulary has 3: tokenizer and model"):
        make_loader(ids, np.zeros((2, 1)), Batching(), vocab_size=3)
    with pytest.raises(ValueError, match="num_targets=0"):
        ChemGPTProperty(small_chemgpt(), 0)
    with pytest.raises(ValueError, match="pooling='mean' does not grow with the molecule"):
        ChemGPTProperty(small_chemgpt(), 1, "mean", extensive=True)
