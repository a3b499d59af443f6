"""Diagnosis: packages and devices that are there or missing, with remedies, and the fit of a run on IPUs."""

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from typing import Any, List, NamedTuple, Optional, Tuple

import ipu_chem
from ipu_chem.config import RunConfig

# Package, what it is for, how to get it.
_PACKAGES: Tuple[Tuple[str, str, str], ...] = (
    ("numpy", "packing", "pip install numpy"),
    ("torch", "models and training", "pip install 'ipu-chem[cpu]'"),
    ("safetensors", "checkpoints", "pip install 'ipu-chem[cpu]'"),
    ("scipy", "the best packing, edges of large molecules", "pip install 'ipu-chem[cpu]'"),
    ("rdkit", "SMILES and SDF, the nci3d data set", "pip install 'ipu-chem[cpu]'"),
    ("ase", "xyz and extxyz files, simulations", "pip install 'ipu-chem[cpu]'"),
    ("selfies", "molecules as text", "pip install 'ipu-chem[cpu]'"),
    ("sklearn", "metrics of classes", "pip install 'ipu-chem[cpu]'"),
    ("matplotlib", "figures", "pip install 'ipu-chem[plot]'"),
    ("jinja2", "reports", "pip install 'ipu-chem[plot]'"),
    ("fcd", "distances of generated molecules", "pip install 'ipu-chem[metrics]'"),
    ("torch_geometric", "PyG Data objects", "pip install 'ipu-chem[chem]'"),
    ("tensorboard", "training.loggers=[tensorboard]", "pip install 'ipu-chem[log]'"),
    ("wandb", "training.loggers=[wandb]", "pip install 'ipu-chem[log]'"),
    ("poptorch", "accelerator=ipu", "install the wheel of the Poplar SDK, on Python 3.8 with torch 2.0.1"),
)


class Finding(NamedTuple):
    """One line of the diagnosis: "ok", "missing" or "problem"."""

    status: str
    subject: str
    text: str


def diagnose() -> List[Finding]:
    """Check the interpreter, the packages and the devices."""
    findings = [
        Finding("ok", "ipu-chem", ipu_chem.__version__),
        Finding("ok", "python", f"{platform.python_version()} ({sys.executable})"),
        Finding("ok", "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"),
    ]
    findings += [_package(*entry) for entry in _PACKAGES]
    if importlib.util.find_spec("torch") is not None:
        findings += [_kernels(), *_devices()]
    return findings


def print_diagnosis() -> int:
    """Print every finding; returns 1 when there is a problem, else 0 (missing extras are no problem)."""
    findings = diagnose()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.status:8}{finding.subject:{width + 2}}{finding.text}")
    return int(any(finding.status == "problem" for finding in findings))


def print_plan(
    config: RunConfig,
    ipus: Optional[int] = None,
    loader_seconds: float = 1.0,
    atoms: Optional[float] = None,
    link: Optional[float] = None,
) -> int:
    """Print whether IPUs have a run's operators, how it fits on so many and how fast it is; needs no IPU, no data.

    A configuration for just as many IPUs is judged as it is; else a layout is chosen.

    Args:
        config: of the run.
        ipus: how many there are; None takes as many as the configuration uses.
        loader_seconds: for which this host's loader is measured; 0 leaves it out.
        atoms: of a molecule on average; None takes QM9's.
        link: GB/s from the host to all IPUs; None where nobody knows.

    Returns:
        0 for a layout that fits, 1 when there is none or an operator is missing.

    Raises:
        ValueError: the configuration contradicts itself.
    """
    from ipu_chem.backends.poptorch.layout import Layout, Refusal
    from ipu_chem.backends.poptorch.planner import check_layout, plan
    from ipu_chem.backends.poptorch.table import memory_table, summary, to_yaml
    from ipu_chem.doctor.check import check_task
    from ipu_chem.doctor.host_rate import host_rate
    from ipu_chem.doctor.speed import check_link, predict_speed, speed_text
    from ipu_chem.tasks.registry import task_of

    def show(layout: Layout) -> None:
        print(f"\n{summary(layout)}\n\n{memory_table(layout)}\n(estimates in MiB)")

    check_link(link)
    planned = task_of(config).planned(config)
    workload = _workload(planned, config)
    host = host_rate(planned, loader_seconds, atoms)
    report = check_task(planned, config.precision)
    print("\n".join([*planned.assumed, report.text()]))
    if report.needs_values:
        print("\nNo layout can be chosen for a program that does not run without values, see above.")
        return 1
    configured = config.batching.replication_factor * config.ipu.ipus_per_replica
    ipus = configured if ipus is None else ipus
    meant_for_them = ipus == configured and (config.accelerator == "ipu" or configured > 1)
    try:
        if meant_for_them:
            layout = check_layout(workload, config.batching, config.ipu, config.precision)
        else:
            layout = plan(workload, ipus, config.precision, config.ipu)
    except Refusal as refusal:
        show(refusal.layout)
        print(f"\nrefused: {refusal}")
        if refusal.alternative is not None:
            print(f"\n{to_yaml(refusal.alternative)}")
        return 1
    show(layout)
    print(f"\n{speed_text(predict_speed(workload, layout, host, link), layout, planned.unit)}")
    if layout.batching.packs_per_step != config.batching.packs_per_step:
        print(f"\nThe configuration has {config.batching.packs_per_step:,} packs in an optimizer step.")
    if meant_for_them:
        print("\nfits as it is configured")
    else:
        print(f"\nfits with these options:\n\n{to_yaml(layout)}")
    if report.findings:
        print("\nbut PopTorch would not compile it, see above")
    return int(bool(report.findings))


def _workload(planned: Any, config: RunConfig) -> Any:
    """The training of a planned task, for the planner: the model without values, and one pack of its shape."""
    import torch

    from ipu_chem.backends.poptorch.planner import Workload

    with torch.device("meta"):
        model = planned.model()
    packs, iterations = config.batching.packs_per_step, config.batching.device_iterations
    return Workload(model, planned.loss(), planned.random_packs(1), config.optimizer, packs, iterations)


def _package(name: str, purpose: str, remedy: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding("missing", name, f"for {purpose}: {remedy}")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken install may raise anything; saying so is this command's purpose
        return Finding("problem", name, f"is installed but cannot be imported: {error}")
    return Finding("ok", name, f"{getattr(module, '__version__', '?')} ({purpose})")


def _kernels() -> Finding:
    """Native kernels for CPUs."""
    from ipu_chem.backends.pytorch.kernels.native import NativeError, library

    try:
        library()
    except NativeError as error:
        return Finding("missing", "C compiler", f"several times faster training on CPUs; {error}; install gcc or clang")
    return Finding("ok", "C compiler", "the kernels for CPUs are compiled")


def _devices() -> List[Finding]:
    """CPU threads, CUDA devices and IPUs, and versions that do not go together."""
    import numpy
    import torch

    from ipu_chem.backends import first_available

    findings = [Finding("ok", "cpu", f"{torch.get_num_threads()} torch threads")]
    if int(numpy.__version__.split(".")[0]) >= 2 and _version(torch.__version__) < (2, 3):
        text = f"torch {torch.__version__} needs numpy below 2, found {numpy.__version__}: pip install 'numpy<2'"
        findings.append(Finding("problem", "torch", text))
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        findings.append(Finding("ok", "cuda", names))
    else:
        findings.append(Finding("missing", "cuda", "torch sees no CUDA device; accelerator=cuda will not work"))
    monitor = shutil.which("gc-info")
    if monitor is not None:
        listed = subprocess.run([monitor, "-l"], capture_output=True, text=True, check=False).stdout.strip()
        findings.append(Finding("ok", "ipu", listed or "gc-info lists no IPU"))
    else:
        findings.append(Finding("missing", "ipu", "no Poplar SDK here (gc-info is not on the PATH)"))
    findings.append(Finding("ok", "auto", f"accelerator=auto takes {first_available()}"))
    return findings


def _version(text: str) -> Tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
