"""Published figures of the study of SchNet on Bow IPUs, and a model of its loader; ipu_time.py predicts them.

Source: graphcore-research/hydronet-gnn (arXiv:2211.13853) @ a89c2e4: experiments/strong_scaling.ipynb,
perf_ablation.ipynb, model_architechture.ipynb, configs/ and sweeps/. Graphs a second, means of 25 epochs.
"""

from typing import Dict, NamedTuple, Optional, Tuple

import torch

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.planner import Workload
from ipu_chem.backends.poptorch.stages import plan_stages
from ipu_chem.backends.poptorch.timing.blocks import block_times
from ipu_chem.backends.poptorch.timing.calls import CallTime, call_time
from ipu_chem.config import ModelConfig, PackConfig, RunConfig
from ipu_chem.losses import mse
from ipu_chem.models.layers import ShiftedSoftplus
from ipu_chem.tasks.registry import task_of

IPUS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 64  # replicas x device iterations in every run


class Case(NamedTuple):
    """One data set as it was packed or padded.

    Attributes:
        atoms: slots of a micro-batch, over all of which the model looks for neighbors.
        accumulation: micro-batches of a step.
        molecules: of an epoch.
        calls: of an epoch.
        workers: processes that make batches.
        size: bytes of a molecule on its way to the device.
    """

    atoms: int
    accumulation: int
    molecules: int
    calls: int
    workers: int
    size: int


PACKED = {
    "QM9": Case(576, 2, 102_400, 25, 32, 369),
    "500k": Case(1_344, 32, 384_381, 9, 29, 1_295),
    "2.7M": Case(1_344, 32, 2_142_948, 50, 50, 1_295),
    "4.46M": Case(1_078, 32, 3_383_900, 116, 50, 1_451),
}
PADDED = {
    "QM9": Case(512, 2, 104_448, 51, 32, 648),
    "500k": Case(672, 32, 387_072, 27, 33, 1_928),
    "2.7M": Case(672, 32, 2_179_072, 152, 50, 1_928),
    "4.46M": Case(672, 32, 3_569_664, 249, 50, 1_928),
}

# Data made on the device, no host.
DEVICE_ONLY: Dict[str, Dict[int, int]] = {
    "QM9": dict(zip(IPUS, (28_880, 57_107, 111_900, 219_431, 419_116, 753_118, 1_135_519))),
    "500k": dict(zip(IPUS[3:], (78_362, 156_302, 310_626, 612_979))),
}
CALIBRATING = (("QM9", 1), ("QM9", 64))

# Packed, with the host: rows with an asynchronous loader and with a synchronous one.
WITH_HOST: Dict[Tuple[str, str], Dict[int, int]] = {
    ("QM9", "async"): dict(zip(IPUS, (25_727, 45_344, 74_985, 113_631, 141_606, 149_206, 113_161))),
    ("QM9", "sync"): dict(zip(IPUS, (24_505, 41_588, 69_228, 86_166, 101_698, 100_743, 87_254))),
    ("500k", "async"): dict(zip(IPUS[3:], (44_618, 66_447, 81_734, 90_143))),
    ("500k", "sync"): dict(zip(IPUS[3:], (45_551, 62_208, 72_845, 82_813))),
    ("2.7M", "async"): dict(zip(IPUS[3:], (61_093, 100_279, 144_692, 182_478))),
    ("2.7M", "sync"): dict(zip(IPUS[3:], (60_149, 98_489, 137_764, 171_574))),
    ("4.46M", "sync"): dict(zip(IPUS[3:], (53_617, 88_087, 129_675, 154_714))),
}

# 16 IPUs; every column adds to the one before.
COLUMNS = ("padded", "packed", "async", "softplus, merged", "buffer 4")
ABLATION: Dict[str, Tuple[int, ...]] = {
    "QM9": (68_905, 83_879, 97_915, 131_556, 123_879),
    "500k": (52_188, 56_980, 57_654, 65_612, 62_217),
    "2.7M": (71_408, 84_509, 82_803, 96_739, 98_091),
    "4.46M": (67_046, 78_189, 80_950, 91_428, 93_878),
}

# Seconds of one block in training, forward and backward, by its features: differences of first epochs of 2.7 M clusters
# over the number of blocks, micro-batches of 384 atoms.
BLOCK_ATOMS, BLOCK_NEIGHBORS = 384, 28
BLOCK_SECONDS = {64: 114e-6, 128: 179e-6, 256: 363e-6}


class Loader(NamedTuple):
    """The study's loader: each process makes the whole batch of a call alone, and all begin at the same time.

    Attributes:
        molecule: seconds of a molecule.
        crowd: seconds more of a molecule for each process at work.
        copied: bytes a second that are copied and sent, of one call at a time.
        synchronous: seconds more of an epoch where the loader is no process of its own.
    """

    molecule: float
    crowd: float
    copied: float
    synchronous: float = 0.3


LOADER = Loader(59.45e-6, 1.796e-6, 1.795e9)


def epoch_seconds(case: Case, call: float, loader: Loader, asynchronous: bool = True) -> float:
    """An epoch with the host; ``call``: seconds of one on the device."""
    active = min(case.workers, case.calls)
    molecules = case.molecules / case.calls
    batch = molecules * (loader.molecule + loader.crowd * active)
    copied = molecules * case.size / loader.copied
    free = 0.0
    for number in range(case.calls):
        free = max((number // active + 1) * batch, free) + copied + call
    return free + (0.0 if asynchronous else loader.synchronous)


def study_workload(atoms: int, fast_softplus: bool = True) -> Workload:
    """The study's model on a micro-batch of so many atoms, whose neighbors it looks for among all of them."""
    model = ModelConfig(
        "schnet", hidden_features=100, num_filters=100, num_interactions=4, num_gaussians=25, cutoff=6.0, filter="exact"
    )
    config = RunConfig(pack=PackConfig(nodes=atoms, graphs=64, device_neighbors=28), model=model)
    planned = task_of(config).planned(config)
    with torch.device("meta"):
        network = planned.model()
    for module in network.modules():
        if isinstance(module, ShiftedSoftplus):
            module.elementary = fast_softplus
    return Workload(network, mse, planned.random_packs(1), config.optimizer)


_WORKLOADS: Dict[Tuple[int, bool], Workload] = {}  # profiles are measured once


def predicted_call(case: Case, ipus: int, fast_softplus: bool = True, merged: bool = True) -> CallTime:
    """A call of the study's program on so many IPUs."""
    key = (case.atoms, fast_softplus)
    if key not in _WORKLOADS:
        _WORKLOADS[key] = study_workload(*key)
    workload = _WORKLOADS[key]
    profiles = workload.profiles("float32", 1)
    times = block_times(profiles, recomputed=False)
    names = [profile.name for profile in profiles]
    batching = Batching(1, case.accumulation, ipus, STEPS // ipus)
    options = IpuOptions(merge_all_reduce=merged)
    stages = plan_stages(names, [1.0] * len(names), 1)
    return call_time(profiles, times, stages, batching, options, Precision(), workload.optimizer)


def device_rate(name: str, ipus: int) -> float:
    """Predicted graphs a second, data made on the device."""
    case = PACKED[name]
    return case.molecules / case.calls / predicted_call(case, ipus).seconds.likely


def host_rate(name: str, ipus: int, asynchronous: bool, loader: Optional[Loader] = None) -> float:
    """Predicted graphs a second, packed, with the host."""
    case = PACKED[name]
    call = predicted_call(case, ipus).seconds.likely
    return case.molecules / epoch_seconds(case, call, loader or LOADER, asynchronous)


def ablation_rates(name: str, loader: Optional[Loader] = None) -> Tuple[float, ...]:
    """Predicted graphs a second of the ablation's columns on 16 IPUs; a deeper buffer changes nothing."""
    result = []
    for column in range(len(COLUMNS)):
        case = (PADDED if column == 0 else PACKED)[name]
        tuned = column >= 3
        call = predicted_call(case, 16, fast_softplus=tuned, merged=tuned).seconds.likely
        result.append(case.molecules / epoch_seconds(case, call, loader or LOADER, asynchronous=column >= 2))
    return tuple(result)
