"""Runs that learn forces: they learn them, resume, agree between devices, and refuse data that have none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from poptorch_helpers import installed_double
from support import model_values, pairs_once, random_store, with_random_forces

from ipu_chem.backends.options import ALONE, Batching
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.loader import PackLoader
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import from_dict
from ipu_chem.doctor.check import check_config
from ipu_chem.losses import mse, with_forces
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.spookynet import SpookyNet
from ipu_chem.optim import OptimizerConfig
from ipu_chem.prediction.predict import predict_file
from ipu_chem.reports.report import write_report
from ipu_chem.train import evaluate, train
from packing import Budget, make_plan

# Ethanol, Å.
Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
POS = np.array(
    [[0, 0, 0], [1.52, 0, 0], [2.05, 1.33, 0], [-0.39, 1.03, 0], [-0.39, -0.51, 0.89], [-0.39, -0.51, -0.89]]
    + [[1.89, -0.53, 0.89], [1.89, -0.53, -0.89], [3.02, 1.3, 0]]
)

SIZES = {"hidden_features": 32, "num_filters": 32, "num_interactions": 2, "num_gaussians": 20, "num_radial": 12}


def springs(pos):
    """Energies [I] and forces [I, 9, 3] of springs between all atoms, in kcal/mol."""
    offset = pos[:, :, None] - pos[:, None]
    length = np.linalg.norm(offset, axis=-1) + np.eye(9)
    rest = np.linalg.norm(POS[:, None] - POS[None], axis=-1) + np.eye(9)
    stretch = (length - rest) * 60.0 / rest**2
    return 0.25 * (stretch * (length - rest)).sum((1, 2)), -(stretch[..., None] * offset / length[..., None]).sum(2)


@pytest.fixture
def options(tmp_path):
    """A run on 200 frames of an ethanol of springs, in the layout of rmd17."""
    rng = np.random.default_rng(0)
    pos = POS + rng.normal(0, 0.08, (200, 9, 3))
    energies, forces = springs(pos)
    np.savez(tmp_path / "rmd17_ethanol.npz", nuclear_charges=Z, coords=pos, energies=energies - 97000, forces=forces)
    return {
        "data": {
            "name": "rmd17",
            "path": str(tmp_path),
            "cache": str(tmp_path / "cache"),
            "validation": 40,
            "test": 40,
        },
        "force_share": 0.95,
        "model": model_values("schnet", **SIZES),
        "pack": {"nodes": 45},
        "optimizer": {"learning_rate": 0.005, "max_grad_norm": 10.0},
        "batching": {"micro_batch_size": 2},
        "training": {"epochs": 3, "progress": False, "report": False},
        "accelerator": "cpu",
        "torch": {"threads": 1},
        "out": str(tmp_path / "run"),
    }


@pytest.mark.parametrize("name", ["schnet", "painn"])
def test_a_run_learns_forces_and_leaves_everything_behind(options, name, tmp_path):
    options["model"] = model_values(name, **SIZES)
    options["training"].update(epochs=20)
    result = train(from_dict(options))
    metrics, run = result["results"]["test"], json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(metrics) == {f"{kind}_{of}" for kind in ("mae", "rmse") for of in ("energy_meV", "forces_meV_per_A")}
    assert metrics["mae_forces_meV_per_A"] < 0.25 * run["baseline"]["test"]["mae_forces_meV_per_A"]
    assert metrics["mae_energy_meV"] < 0.5 * run["baseline"]["test"]["mae_energy_meV"]
    assert evaluate(tmp_path / "run", "test") == pytest.approx(metrics, rel=1e-6)
    with np.load(tmp_path / "run" / "forces_test.npz") as arrays:
        error = np.abs(arrays["prediction"].astype(float) - arrays["label"]).mean() * 1000
        assert arrays["offsets"][-1] == len(arrays["label"]) == 40 * 9
    assert error == pytest.approx(metrics["mae_forces_meV_per_A"], rel=1e-4)
    assert write_report(tmp_path / "run").read_text().count("<img") >= 3
    assert run["packs"]["positions"] == "float32" and [one["name"] for one in run["targets"]] == ["energy", "forces"]


def test_a_run_of_forces_cut_in_two_equals_one_piece(options, tmp_path):
    options["schedule"] = {"name": "constant"}
    options["training"]["epochs"] = 4
    train(from_dict(options))
    whole = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")[0]["model"]
    options["out"] = str(tmp_path / "cut")
    options["training"]["epochs"] = 2
    train(from_dict(options))
    options["training"]["epochs"] = 4
    train(from_dict(options), resume=True)
    for name, value in load_checkpoint(tmp_path / "cut" / "checkpoints" / "last.safetensors")[0]["model"].items():
        assert torch.equal(value, whole[name]), name


def test_a_run_of_forces_predicts_energies_of_new_frames(options, tmp_path):
    train(from_dict(options))
    lines = ["9\npbc='F F F'\n" + "".join(f"{s} {x} {y} {z}\n" for s, (x, y, z) in zip("CCOHHHHHH", POS))]
    (tmp_path / "one.extxyz").write_text("".join(lines))
    done, refused = predict_file(tmp_path / "run", tmp_path / "one.extxyz", tmp_path / "out.csv")
    assert done == 1 and not refused
    header, row = (line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines())
    assert len(header) == len(row) == 5 and header[3].startswith("energy (") and header[4] == "reason"
    assert abs(float(row[3]) + 97000 * 0.0433641) < 5


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"data": {"name": "nci3d", "limit": 60}}, "no.* forces|have none"),
        ({"force_share": 1.5}, "force_share"),
        ({"torch": {"compile": True}}, "does not go with forces"),
    ],
)
def test_what_cannot_work_is_refused(options, cache, change, sentence):
    if "data" in change:
        change = {"data": {**change["data"], "cache": str(cache)}}
    with pytest.raises(ValueError, match=sentence):
        train(from_dict({**options, **change}))


def loader_of(store, batching, budget, charges=False):
    plan = make_plan({axis: store.sizes()[axis] for axis in ("nodes", "edges")}, budget)
    targets, forces = store.fields["y"], store.fields["forces"]
    return PackLoader(store, np.arange(len(store)), plan, targets, budget, batching, ALONE, charges, forces)


def test_weights_of_forces_sum_to_a_third_over_every_step_and_missing_ones_weigh_nothing():
    store, batching = with_random_forces(random_store(np.random.default_rng(0), 200)), Batching(1, 2, 2, 3)
    for batch, _ in loader_of(store, batching, Budget(nodes=24, edges=160, graphs=6)).epoch(0, 0):
        weight = batch.force_weight.reshape(3, -1)
        torch.testing.assert_close(3 * weight.double().sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
        assert torch.isfinite(batch.forces).all() and not batch.forces[batch.force_weight[..., 0] == 0].any()
        assert (batch.force_weight > 0).sum() < batch.graph_ends[:, -1].sum()


@pytest.mark.parametrize("kind", [SchNet, PaiNN, SpookyNet])
def test_ipus_train_on_the_same_forces(kind):
    store = pairs_once(with_random_forces(random_store(np.random.default_rng(0), 120)))
    batching, budget = Batching(1, 2, 2, 2), Budget(nodes=24, edges=80, graphs=6)
    loss = with_forces(mse, 0.8)

    def model():
        torch.manual_seed(0)
        inner = kind(hidden_features=8, num_interactions=2, cutoff=4.0, undirected=True)
        last = inner.head.output if kind is SpookyNet else inner.head[2]
        torch.nn.init.normal_(last.weight, std=0.1)
        return CompactInputs(EnergyForces(inner))

    losses, predictions = [], []
    with installed_double():
        for backend in (TorchBackend(), PopTorchBackend(IpuOptions(ipus_per_replica=1))):
            loader = loader_of(store, batching, budget, charges=kind is SpookyNet)
            backend.compile(model(), loss, OptimizerConfig("adam", 1e-3), batching, loader.example(training=True))
            losses.append(torch.cat([backend.train_step(batch, 1e-3) for batch, _ in loader.epoch(0, 0)]))
            predictions.append(backend.evaluate(next(loader.evaluation())[0]))
            backend.close()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for one, other in zip(*predictions):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["schnet", "painn", "spookynet"])
@pytest.mark.parametrize("neighbors", [0, 6])
def test_every_operator_of_the_derivative_is_one_that_ipus_have(options, name, neighbors):
    config = from_dict({**options, "model": model_values(name, **SIZES)})
    config = replace(config, pack=replace(config.pack, edges=0, device_neighbors=neighbors))
    report = check_config(config)
    assert report.findings == (), report.text()
    plain = check_config(replace(config, force_share=0.0))
    # The derivative scatters what the model gathered, and is there in the trace.
    assert report.operators["scatter_add"] > plain.operators["scatter_add"]


def test_a_derivative_is_one_block():
    model = CompactInputs(EnergyForces(SchNet(8, 8, 3, 8, 4.0)))
    assert model.blocks() == ["model.model"]
