"""What the torch backend computes in: denormals, 16-bit products, optimizers in one kernel."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import random_store

from ipu_chem.backends.options import Batching, Precision, TorchOptions
from ipu_chem.backends.pytorch import numerics as torch_numerics
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.numerics import build_optimizer, cpu_flags, flushes_denormals
from ipu_chem.batches.loader import PackLoader
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.layers import at_least_float32
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, make_plan

BATCHING = Batching(2, 2)


def loader():
    store = random_store(np.random.default_rng(0), 40)
    budget = Budget(nodes=24, edges=220, graphs=7)
    plan = make_plan(store.sizes(), budget)
    return PackLoader(store, np.arange(40), plan, store.fields["y"], budget, BATCHING)


def schnet():
    return CompactInputs(SchNet(16, 16, 2, 10, 4.0))


def backend_of(model, options=None, optimizer=None):
    torch.manual_seed(0)
    backend = TorchBackend("cpu", options)
    backend.compile(model(), mse, optimizer or OptimizerConfig(), BATCHING, None)
    return backend


def losses_of(backend, epochs=3):
    source = loader()
    return np.array([backend.train_step(b, 3e-3).item() for e in range(epochs) for b, _ in source.epoch(0, e)])


class Denormal(torch.nn.Module):
    """Predicts 1 where denormals are numbers and 0 where they are flushed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("tiny", torch.tensor(2e-38))

    def forward(self, z, pos, graph_ends, *edges):
        flag = (self.tiny * 0.1 != 0).float()
        return (flag + self.weight).expand(*graph_ends.shape, 1)


def test_denormals_are_flushed_inside_and_restored_outside():
    assert not flushes_denormals()
    backend = backend_of(Denormal, optimizer=OptimizerConfig("sgd"))
    batch = loader().example(training=True)
    loss = backend.train_step(batch, 0.0)
    assert not flushes_denormals()
    torch.testing.assert_close(loss[0], (batch.weight * batch.y**2).sum())
    assert float(backend.evaluate(type(batch)(*(field[:2] for field in batch))).abs().max()) == 0.0
    assert not flushes_denormals()
    torch.set_flush_denormal(True)
    try:  # who has set it keeps it
        backend.train_step(batch, 0.0)
        assert flushes_denormals()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_fused_where_torch_has_it_and_checkpoints_fit_both(name, monkeypatch):
    """A run goes on from the checkpoint of a torch with the other kind of optimizer."""
    fused = {}
    real = build_optimizer

    def plain(config, parameters):
        optimizer = real(config, parameters)
        fused[name] = bool(optimizer.param_groups[0].get("fused"))
        optimizer.param_groups[0]["fused"] = False
        return optimizer

    ours = backend_of(schnet, optimizer=OptimizerConfig(name))
    monkeypatch.setattr("ipu_chem.backends.pytorch.backend.build_optimizer", plain)
    other = backend_of(schnet, optimizer=OptimizerConfig(name))
    try:
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], fused=True)
        assert fused[name]
    except RuntimeError:
        assert not fused[name]
    np.testing.assert_allclose(losses_of(ours), losses_of(other), rtol=1e-4)
    for source, target in ((ours, other), (other, ours)):
        target.load_state_dict(source.state_dict())
        np.testing.assert_allclose(losses_of(target, 1), losses_of(source, 1), rtol=1e-4)


def test_slow_or_missing_16_bit_formats_are_refused(monkeypatch):
    monkeypatch.setattr(torch_numerics, "cpu_flags", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(ValueError, match="several times slower than float32 on this CPU"):
        TorchBackend("cpu", TorchOptions(autocast="bfloat16"))
    with pytest.raises(ValueError, match="autocast=float16 is for CUDA devices; use bfloat16 or none"):
        TorchBackend("cpu", TorchOptions(autocast="float16"))
    monkeypatch.setattr(torch_numerics, "cpu_flags", lambda: frozenset({"avx2", "amx_bf16"}))
    TorchBackend("cpu", TorchOptions(autocast="bfloat16"))
    with pytest.raises(ValueError, match="keeps weights in float32; set precision.weights=float32"):
        TorchBackend("cpu", TorchOptions(autocast="bfloat16"), Precision(weights="float16"))


@pytest.mark.parametrize(
    "line", ["flags\t\t: fpu sse avx512_bf16\n", "Features\t: asimd bf16\n", "model name : x\n", None]
)
def test_flags_are_read_from_the_system(line, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if line is not None:
        path.write_text(f"processor\t: 0\n{line}")
    monkeypatch.setattr(torch_numerics, "_CPUINFO", path)
    cpu_flags.cache_clear()
    try:
        found = cpu_flags()
    finally:
        cpu_flags.cache_clear()
    assert bool(found & torch_numerics._FAST_BFLOAT16) == (line is not None and "bf16" in line)


@pytest.mark.parametrize("model", [schnet, lambda: CompactInputs(PaiNN(16, 2, 10, 4.0))], ids=["schnet", "painn"])
def test_autocast_learns_what_float32_learns_with_energies_in_float32(model, monkeypatch):
    monkeypatch.setattr(torch_numerics, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    half = backend_of(model, TorchOptions(autocast="bfloat16"))
    got, expected = losses_of(half, 5), losses_of(backend_of(model), 5)
    assert not np.array_equal(got, expected)  # something was computed in 16 bits
    np.testing.assert_allclose(got, expected, rtol=0.05, atol=0.02)
    batch, _ = next(loader().evaluation())
    assert half.evaluate(batch).dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in half.state_dict()["model"].values())


def test_energies_are_added_up_in_float32():
    for dtype in (torch.float16, torch.bfloat16):
        assert at_least_float32(torch.ones(1, dtype=dtype)).dtype == torch.float32
    assert at_least_float32(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch scales gradients on CUDA alone")
def test_gradients_in_float16_are_scaled_and_the_factor_is_kept(monkeypatch):
    monkeypatch.setattr("ipu_chem.backends.pytorch.backend.check_autocast", lambda autocast, device: None)
    options = TorchOptions(autocast="float16")
    scaled = backend_of(schnet, options, OptimizerConfig(max_grad_norm=1.0))
    plain = backend_of(schnet, optimizer=OptimizerConfig(max_grad_norm=1.0))
    np.testing.assert_allclose(losses_of(scaled), losses_of(plain), rtol=0.1)
    state = scaled.state_dict()
    assert state["optimizer"]["scaler.scale"] > 1
    state["optimizer"]["scaler.scale"] = 1024.0
    scaled.load_state_dict(state)
    assert scaled._scaler.get_scale() == 1024.0
    backend_of(schnet).load_state_dict(state)  # a run without it goes on too


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_and_used_again():
    code = """
import resource, torch
from ipu_chem.backends.pytorch.numerics import keep_memory
assert keep_memory()
found = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12_500_000)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found))
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) < 1000  # of the 12,000 pages of a block that is asked for anew
