"""What every pod benchmark runs: each kind of work trains, figures count what they say, mistakes are one sentence."""

import re

import numpy as np
import pytest
import torch

from benchmarks import throughput
from ipu_chem.backends.options import ALONE, World
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.types import CompactNodePack, CompactPack, TokenPack
from ipu_chem.losses import token_cross_entropy

SMALL = "--accelerator cpu --calls 2 --hidden_features 8 --num_filters 8 --num_interactions 1".split()
GRAPHS = [*SMALL, "--batching.micro_batch_size", "2"]
TOKENS = [*SMALL, *"--model chemgpt-4.7m --layers 2 --tokens 128".split()]
SHARED_OUT = ["--batching.replication_factor", "2", "--batching.gradient_accumulation", "2"]


def work(*words, world=ALONE):
    return throughput.make_work(throughput.read([*GRAPHS, *words]), world)


@pytest.mark.parametrize(
    "words, what",
    [
        (GRAPHS, "generated qm9, packed"),
        ([*GRAPHS, "--layout", "padded"], "generated qm9, padded"),
        ([*GRAPHS, "--edges", "device", *SHARED_OUT], "generated qm9, packed"),
        ([*GRAPHS, "--dataset", "hydronet", "--layout", "padded", "--edges", "device"], "generated hydronet, padded"),
        ([*GRAPHS, "--prefetch", "0", "--ipu.synthetic_data", "true"], "generated qm9, packed"),
        ([*GRAPHS, "--precision.weights", "float16", "--precision.loss_scaling", "64"], "generated qm9, packed"),
        (TOKENS, "generated SELFIES lengths, packed"),
        ([*TOKENS, "--layout", "padded"], "generated SELFIES lengths, padded"),
    ],
    ids="packed padded device clusters synthetic float16 tokens padded-tokens".split(),
)
def test_every_kind_of_work_prints_its_figures(words, what, capsys):
    assert throughput.main(list(words)) == 0
    lines = capsys.readouterr().out.splitlines()
    dtype = "float16" if "float16" in words else "float32"
    assert re.search(rf"cores, load .*Python \d.*, torch {re.escape(torch.__version__)} \| {dtype} \|", lines[0])
    assert lines[0].endswith(what) and "on cpu; Batching(" in lines[1] and "items in" in lines[2]
    rate = re.fullmatch(r"throughput: *(.*?) samples\/sec", lines[-1])
    assert rate and float(rate.group(1)) > 0
    loss = re.search(r"^loss: *(\d*\.\d*)$", "\n".join(lines), re.MULTILINE)
    assert loss and float(loss.group(1)) > 0
    assert any(re.fullmatch(r"calls: [\d.]+ to [\d.]+ s, waited for the host [\d.]+ %", line) for line in lines)
    tokens = [line for line in lines if line.startswith("tokens: ") and line.endswith(" tokens/sec")]
    assert len(tokens) == int(words[: len(TOKENS)] == TOKENS)
    if tokens:  # of a packed sequence and its two marks
        assert 5 < float(tokens[0].split()[1]) / float(rate.group(1)) < 92


class Clock:
    """Time that passes only when a batch is made, 3 s, or trained on, 1 s; compilation and first calls take longer."""

    def __init__(self, monkeypatch):
        self.now, self.trained = 0.0, []
        step, make = TorchBackend.train_step, throughput.make_work

        def train_step(backend, batch, rate):
            self.now += 1.0 if len(self.trained) >= 2 else 50.0
            self.trained.append(batch)
            return step(backend, batch, rate)

        def slow(epoch):
            def batches(seed, number):
                for batch in epoch(seed, number):
                    self.now += 3.0
                    yield batch

            return batches

        def make_work(settings, world):
            done = make(settings, world)
            return done._replace(epoch=slow(done.epoch))

        monkeypatch.setattr(TorchBackend, "train_step", train_step)
        monkeypatch.setattr(throughput, "make_work", make_work)
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)


def figures(*words):
    return throughput.measure(throughput.read([*GRAPHS, *words, "--warmup", "2", "--calls", "5"]))


def test_a_call_lasts_from_asking_for_its_batch_to_its_loss(monkeypatch):
    clock = Clock(monkeypatch)
    found = figures("--prefetch", "0", "--batching.device_iterations", "3")
    samples = sum(int(batch.graph_mask.sum()) for batch in clock.trained[2:])
    assert len(clock.trained) == 7 and found["throughput"] == pytest.approx(samples / (5 * 4.0))
    assert found["host"] == 0.75 and found["slowest"] == found["fastest"] == 4.0
    order = [batch.z.flatten().tolist() for batch in clock.trained]
    assert len({tuple(batch) for batch in order}) > 1  # shuffled anew, not one batch again and again


def test_data_made_on_the_device_leave_the_host_out(monkeypatch):
    clock = Clock(monkeypatch)
    found = figures("--prefetch", "0", "--ipu.synthetic_data", "true")
    assert found["host"] == 0.0 and found["slowest"] == 1.0
    assert all(batch is clock.trained[0] for batch in clock.trained)


def test_batches_made_ahead_during_compilation_do_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    figures("--prefetch", "3")
    assert len(clock.trained) == 2 + 3 + 5


@pytest.mark.parametrize("edges, kind", [("host", CompactPack), ("device", CompactNodePack)])
def test_padded_packs_hold_one_molecule_and_packed_ones_several(edges, kind):
    packs = {}
    for layout in ("packed", "padded"):
        made = work("--layout", layout, "--edges", edges, "--batching.micro_batch_size", "32")
        batch, samples = next(made.epoch(0, 0))
        assert isinstance(batch, kind) and int(batch.graph_mask.sum()) == samples
        packs[layout] = (batch.z.shape, batch.weight.shape, samples)
        assert float(batch.weight.sum()) == pytest.approx(1.0)
    assert packs["packed"][0] == (32, 36) and packs["packed"][2] > 55
    assert packs["padded"] == ((32, 32), (32, 1, 1), 32)


def test_sizes_of_packs_are_the_studys():
    for words, nodes in (("qm9", 36), ("hydronet_500k", 192), ("hydronet", 153)):
        assert throughput.read(["--dataset", words]).pack_nodes == nodes
    assert throughput.read(["--dataset", "hydronet", "--layout", "padded"]).pack_nodes == 96
    assert throughput.read(["--nodes", "40", "--layout", "padded"]).pack_nodes == 40


@pytest.mark.parametrize("words", [GRAPHS, TOKENS], ids=["schnet", "chemgpt"])
def test_the_batches_of_two_processes_are_the_batch_of_one(words):
    settings = throughput.read([*words, *SHARED_OUT, "--batching.device_iterations", "2"])
    whole, samples = next(throughput.make_work(settings, ALONE).epoch(0, 3))
    halves = [next(throughput.make_work(settings, World(rank, 2)).epoch(0, 3)) for rank in (0, 1)]
    assert [count for _, count in halves] == [samples, samples]
    micro = settings.batching.micro_batch_size
    for name in whole._fields:
        dealt = getattr(whole, name).reshape(-1, 2, micro, *getattr(whole, name).shape[1:])
        for rank, (half, _) in enumerate(halves):
            assert torch.equal(getattr(half, name), dealt[:, rank].flatten(0, 1)), name


def test_only_the_first_process_prints_and_has_figures(monkeypatch, capsys):
    class Second(TorchBackend):
        """Of two processes, without the other."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.world = World(1, 2)

        def train_step(self, *_):
            return torch.ones(1)

    monkeypatch.setattr("ipu_chem.backends.pytorch.backend.TorchBackend", Second)
    assert throughput.main([*GRAPHS, *SHARED_OUT]) == 0
    assert capsys.readouterr().out == ""


def test_a_loss_that_is_no_number_stops_it(monkeypatch, capsys):
    monkeypatch.setattr(TorchBackend, "train_step", lambda *_: torch.full((1,), float("nan")))
    assert throughput.main(GRAPHS) == 1
    captured = capsys.readouterr()
    assert "the loss of a call is nan" in captured.err and "throughput:" not in captured.out
    assert throughput.main([*GRAPHS, "--ipu.synthetic_data", "true"]) == 0  # random bits may be anything


MISTAKES = {
    "option": (["--nonsense", "1"], "nrecognized arguments: --nonsense 1; --help lists the options."),
    "abbreviated": (["--batching.micro_batch", "2"], "nrecognized arguments: --batching.micro_batch 2"),
    "number": (["--calls", "few"], "calls"),
    "no calls": (["--calls", "0"], "warmup and calls are 1 or more"),
    "layout": (["--layout", "sparse"], "layout='sparse': choose one of packed, padded."),
    "model": (["--model", "gpt"], "model='gpt': choose one of schnet, chemgpt-4.7m, chemgpt-19m, chemgpt-1.2b."),
    "batching": (["--batching.micro_batch_size", "0"], "batching.micro_batch_size=0: give an integer of 1 or more."),
    "device": (["--ipu.io_tiles", "31"], "ipu.io_tiles=31: give 0 or an even number from 32 to 192."),
    "precision": (["--precision.partials", "float16"], "float16 only with precision.weights=float16."),
    "small pack": (["--nodes", "20"], "qm9 has molecules of 29 atoms, a pack 20 slots; set nodes higher."),
    "short pack": ([*TOKENS, "--tokens", "64"], "sequences have up to 91 tokens, a pack 64; set tokens higher."),
    "no path": (["--data", "real", "--dataset", "hydronet"], "needs path, a file of molecules with energies."),
    "no file": (["--data", "real", "--dataset", "hydronet", "--path", "no.xyz", "--target", "e"], "no file no.xyz"),
    "real tokens": ([*TOKENS, "--data", "real"], "measured on generated sequences; leave data=real out."),
    "no neighbors": (["--edges", "device", "--neighbors", "0"], "give 1 or more neighbors"),
}


@pytest.mark.parametrize("words, complaint", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(words, complaint, capsys):
    assert throughput.main([*SMALL, *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("throughput: ") and complaint in line


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    """A file of molecules with up to 40 atoms, all within the cutoff of each other."""
    ase = pytest.importorskip("ase")
    from ase.io import write

    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    random, path = np.random.default_rng(0), tmp_path / "clusters.extxyz"
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    for atoms in random.integers(3, 41, 16):
        place = grid[random.choice(len(grid), atoms, replace=False)]
        frame = ase.Atoms(random.choice([1, 8], atoms), place, info={"binding": float(random.normal())})
        write(path, frame, format="extxyz", append=True)
    return path


def test_real_molecules_packed_and_padded(clusters, capsys):
    real = ["--data", "real", "--dataset", "hydronet", "--path", str(clusters), "--target", "binding"]
    assert throughput.main([*GRAPHS, *real, "--edges", "device"]) == 0
    assert "real hydronet, packed" in capsys.readouterr().out
    for layout, edges, slots in (("packed", "device", 153), ("padded", "host", 96)):
        made = work(*real, "--layout", layout, "--edges", edges)
        batches = list(made.epoch(0, 0))
        assert sum(samples for _, samples in batches) == 16 and batches[0][0].z.shape == (2, slots)
        largest = max(int(batch.graph_mask.sum(1).max()) for batch, _ in batches)
        assert largest == 1 if layout == "padded" else largest > 2
    model = work(*real, "--edges", "device").model
    assert model.model.max_neighbors == 28  # as in the study, not the 39 that the largest cluster has
    assert work(*real, "--edges", "device", "--neighbors", "50").model.model.max_neighbors < 41


def test_processes_share_the_plan_of_real_molecules(clusters, tmp_path):
    real = ["--data", "real", "--dataset", "hydronet", "--path", str(clusters), "--target", "binding"]
    real += ["--edges", "device", *SHARED_OUT]
    whole, _ = next(work(*real, world=World(0, 1)).epoch(0, 0))
    halves = [next(work(*real, world=World(rank, 2)).epoch(0, 0))[0] for rank in (0, 1)]
    assert len(list((tmp_path / "cache").glob("benchmark_*/plans/complete.json"))) == 1
    together = torch.stack([half.z.reshape(-1, 2, 153) for half in halves], 1).reshape(-1, 153)
    assert torch.equal(together, whole.z)


def test_weights_of_tokens_are_those_of_their_loss():
    settings = throughput.read([*TOKENS, "--batching.micro_batch_size", "3"])
    made = throughput.make_work(settings, ALONE)
    batch, samples = next(made.epoch(0, 0))
    assert isinstance(batch, TokenPack) and made.loss is token_cross_entropy
    starts = (batch.position_ids == 0) & (batch.weight > 0)
    assert int(starts.sum()) == samples and float(batch.weight.sum()) == pytest.approx(1.0)
    assert made.tokens == pytest.approx(int((batch.weight > 0).sum()) / samples + 1)
