"""Break the IPU backend in every way that has a name, one at a time, and see that the tests notice.

    python tests/mutations.py            # all, a few minutes
    python tests/mutations.py stale      # those whose name contains a word

Every mutation is made in a copy of the checkout. A mutation that survives is a hole in the tests: exit status 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
BACKEND = "ipu_chem/backends/poptorch/backend.py"
OPTIONS = "ipu_chem/backends/poptorch/program_options.py"
BLOCKS = "ipu_chem/backends/poptorch/blocks.py"
OPTIM = "ipu_chem/backends/poptorch/optim.py"
LOADER = "ipu_chem/batches/loader.py"
COMPACT = "ipu_chem/models/compact.py"
# The tests that a backend has to pass; what catches most comes first and is run by itself.
TESTS = (
    ("tests/backends/test_poptorch_backend.py",),
    ("tests/test_loader.py", "tests/packing/test_packing_collate.py", "tests/ipu/test_ipu_stages.py"),
    ("tests/models/test_compact.py", "tests/models/test_device_edges.py", "tests/models/test_mup.py"),
    ("tests/backends/test_poptorch_backend_refusals.py",),
    ("tests/backends/test_poptorch_backend_pipeline.py", "tests/training/test_ipu_processes.py"),
    ("tests/backends", "tests/training"),
)


class Mutation(NamedTuple):
    """One mistake.

    Attributes:
        name: what it is.
        path: of the module.
        right: text that stands there exactly once.
        wrong: what is put in its place.
    """

    name: str
    path: str
    right: str
    wrong: str


MUTATIONS: List[Mutation] = [
    Mutation(
        "a new learning rate is never told to the device",
        BACKEND,
        "self._training.setOptimizer(self._optimizer)  # until told",
        "pass  # until told",
    ),
    Mutation("gradients are averaged, not added", OPTIONS, "poptorch.ReductionType.Sum", "poptorch.ReductionType.Mean"),
    Mutation(
        "an option is changed after a program has it",
        BACKEND,
        "        executor = self._poptorch.trainingModel(program, self._program_options(True), self._optimizer)\n",
        "        frozen = self._program_options(True)\n"
        "        executor = self._poptorch.trainingModel(program, frozen, self._optimizer)\n"
        "        frozen.deviceIterations(batching.device_iterations)\n",
    ),
    Mutation(
        "offsets in a dtype that is too small",
        "packing/collate.py",
        "    dtype = index_dtype(num_nodes)\n",
        "    dtype = np.dtype(np.uint8)\n",
    ),
    Mutation(
        "ends of molecules in a dtype that is too small",
        "packing/collate.py",
        "atoms.ends.astype(index_dtype(num_nodes + 1))",
        "atoms.ends.astype(np.uint8)",
    ),
    Mutation(
        "the last molecule's atoms are padding",
        COMPACT,
        "slot < ends.narrow(1, num_graphs - 1, 1)",
        "slot < ends.narrow(1, max(num_graphs - 2, 0), 1)",
    ),
    Mutation(
        "an atom belongs to the molecule before",
        COMPACT,
        "(ends.unsqueeze(1) <= slot.unsqueeze(2))",
        "(ends.unsqueeze(1) < slot.unsqueeze(2))",
    ),
    Mutation(
        "padding edges are real",
        COMPACT,
        "slot.unsqueeze(0) < num_edges.to(torch.int32)",
        "slot.unsqueeze(0) <= num_edges.to(torch.int32)",
    ),
    Mutation(
        "16-bit positions stay steps",
        COMPACT,
        "pos = pos.to(torch.float32) * self.position_step",
        "pos = pos.to(torch.float32)",
    ),
    Mutation(
        "padding weighs as much as a label",
        LOADER,
        "    weight = counts.reshape(",
        "    weight = np.ones_like(counts).reshape(",
    ),
    Mutation(
        "stages in the wrong order",
        OPTIONS,
        "for stage, ipu in enumerate(ipus_of_stages)]",
        "for stage, ipu in reversed(list(enumerate(ipus_of_stages)))]",
    ),
    Mutation(
        "a block's mark is left out",
        BLOCKS,
        "    for index, stage in enumerate(stages):\n        poptorch",
        "    for index, stage in list(enumerate(stages))[:-1]:\n        poptorch",
    ),
    Mutation(
        "only the last micro-batch's loss comes back",
        OPTIONS,
        "    options.outputMode(poptorch.OutputMode.All)",
        "    options.outputMode(poptorch.OutputMode.Final)",
    ),
    Mutation(
        "the loss is not marked",
        BACKEND,
        'loss = _poptorch().identity_loss(loss, reduction="sum")',
        "loss = loss.sum()",
    ),
    Mutation(
        "a checkpoint holds stale weights",
        BACKEND,
        "            self._training.copyWeightsToHostIfNeeded()\n        state =",
        "            pass\n        state =",
    ),
    Mutation(
        "loaded weights stay on the host",
        BACKEND,
        "                program.copyWeightsToDevice()\n",
        "                pass\n",
    ),
    Mutation(
        "a resumed optimizer starts from nothing",
        BACKEND,
        '            self._load_optimizer(state["optimizer"])\n',
        "            pass\n",
    ),
    Mutation(
        "gradients are not accumulated",
        OPTIONS,
        "    options.Training.gradientAccumulation(batching.gradient_accumulation)\n",
        "",
    ),
    Mutation("no replicas", OPTIONS, "        options.replicationFactor(batching.replication_factor)\n", ""),
    Mutation("no device iterations", OPTIONS, "    options.deviceIterations(batching.device_iterations)\n", ""),
    Mutation(
        "both programs want the IPUs",
        BACKEND,
        "            other.detachFromDevice()\n",
        "            pass\n",
    ),
    Mutation(
        "losses of different steps are mixed",
        BACKEND,
        "reshape(self.batching.device_iterations, -1).sum(1)",
        "reshape(-1, self.batching.device_iterations).sum(0)",
    ),
    Mutation("evaluation in training mode", BACKEND, "        self._model.eval()\n", ""),
    Mutation(
        "64-bit integers travel as they are",
        BACKEND,
        "{torch.int64: torch.int32, torch.float64: torch.float32}",
        "{torch.float64: torch.float32}",
    ),
    Mutation(
        "loss scaling is forgotten",
        OPTIM,
        '"loss_scaling": scaling}',
        '"loss_scaling": 1.0}',
    ),
    Mutation(
        "gradients are not clipped",
        OPTIM,
        '        shared["max_grad_norm"] = config.max_grad_norm\n',
        "        pass\n",
    ),
    Mutation(
        "every process takes all replicas",
        BACKEND,
        "        self.batching = batching = batching.for_one_of(self.world)\n",
        "        self.batching = batching\n",
    ),
    Mutation(
        "too few micro-batches fill a pipeline",
        "ipu_chem/backends/poptorch/stages.py",
        "return 2 * len(stages) - 1 if",
        "return 2 * len(stages) - 2 if",
    ),
    Mutation(
        "a tied head is left alone on the last IPU",
        "ipu_chem/backends/poptorch/stages.py",
        "            stages.append(Stage(home, (blocks[last],)))\n",
        "            stages[-1] = Stage(ipus - 1, stages[-1].blocks + (blocks[last],))\n",
    ),
    Mutation(
        "outputs are not marked for overlapped transfers",
        BACKEND,
        "        return loss if self.overlap is None else self.overlap[1](loss)\n",
        "        return loss\n",
    ),
    Mutation(
        "atoms of other molecules are neighbours",
        "ipu_chem/models/device_edges.py",
        "    near = together & others",
        "    near = node_mask.unsqueeze(2) & others",
    ),
    Mutation(
        "all groups of parameters learn equally fast",
        "ipu_chem/optim.py",
        '            group["lr"] = learning_rate * multiplier\n',
        '            group["lr"] = learning_rate\n',
    ),
    Mutation(
        "decay grows with the learning rate of a group",
        "ipu_chem/optim.py",
        'group["weight_decay"] = config.weight_decay / multiplier',
        'group["weight_decay"] = config.weight_decay',
    ),
]


def apply(mutation: Mutation, root: Path) -> None:
    """Make the mistake.

    Raises:
        ValueError: the text that it replaces does not stand there exactly once.
    """
    path = root / mutation.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.right) != 1:
        raise ValueError(
            f"{mutation.name}: {mutation.path} has {mutation.right!r} {text.count(mutation.right)} times; "
            "bring the mutation up to date."
        )
    path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")


def caught_by(mutation: Mutation) -> Optional[str]:
    """The first test that fails, or None."""
    ignored = shutil.ignore_patterns(".git", ".venv*", "demo*", "runs", ".pytest_cache", ".hypothesis", "__pycache__")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(str(ROOT), str(copy), ignore=ignored)
        apply(mutation, copy)
        # The copy, not an installed checkout, is what the tests import.
        environment = {**os.environ, "PYTHONPATH": str(copy), "IPU_CHEM_SHARED": str(ROOT.parent / "shared")}
        for tests in TESTS:
            result = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
                cwd=str(copy),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
            if failed:
                return failed[0].split(" ", 1)[1].split(" - ")[0]
            if result.returncode:
                raise RuntimeError(f"{mutation.name}: the tests did not run:\n{result.stdout[-3000:]}")
    return None


def main(words: List[str]) -> int:
    """Try the mutations whose names contain one of the words; all without words."""
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    survivors = []
    for mutation in chosen:
        started = time.monotonic()
        test = caught_by(mutation)
        verdict = f"caught by {test}" if test else "SURVIVED"
        print(f"{mutation.name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
        if test is None:
            survivors.append(mutation.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations caught")
    return int(bool(survivors) or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
