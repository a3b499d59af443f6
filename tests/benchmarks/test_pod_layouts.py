"""Every benchmark of the pod fits on its IPUs: batching, pipeline and memory, as far as they are known without one."""

from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from benchmarks import pod, poprun, throughput
from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.planner import Workload, check_layout

COMMANDS = {variant.name: poprun.parse(pod.check(variant, {}), variant.ipus) for variant in pod.load() if variant.ipus}


@lru_cache(maxsize=None)
def task_of(settings):
    """The model without memory for its weights, and one pack of what it trains on."""
    with torch.device("meta"):
        work = throughput.make_work(settings, ALONE)
    batch, _ = next(work.epoch(0, 0))
    return Workload(work.model, work.loss, batch, settings.optimizer)


def checked(settings):
    """The layout that the planner makes of settings; raises what the backend or the memory would refuse."""
    # Sizes of packs are all that counts here, and they are the same for real and made-up molecules.
    shape = replace(settings, batching=Batching(), ipu=IpuOptions(), data="generated", path="", calls=1, prefetch=0)
    if not settings.is_graph_model:
        shape = replace(shape, layout="packed")
    return check_layout(task_of(shape), settings.batching, settings.ipu, settings.precision)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_fits(name):
    command = COMMANDS[name]
    settings = throughput.read(command.program[3:])
    share = settings.batching.for_one_of(World(0, command.count("num-instances"))).replication_factor
    ipus_of_a_process = share * settings.ipu.ipus_per_replica
    assert ipus_of_a_process in (1, 2, 4, 8, 16, 32, 64)
    assert settings.batching.replication_factor > 1 or not settings.ipu.replicated_tensor_sharding
    layout = checked(settings)
    assert layout.fits and layout.ipus == command.ipus
    assert all(ipu.parameters for ipu in layout.memory)


def test_the_largest_model_is_cut_as_published_layouts_are():
    settings = throughput.read(COMMANDS["chemgpt_1_2b_train_gen_pod64_layout_packed"].program[3:])
    layout = checked(settings)
    assert len(layout.stages) == 17 and layout.stages[-1].blocks == ("head",) and layout.stages[-1].ipu == 0
    assert sum(ipu.parameters for ipu in layout.memory) > 1.2e9
    # Up to about 100 million parameters to an IPU have been trained with the optimizer's state elsewhere.
    assert max(ipu.parameters for ipu in layout.memory) < 1.02e8
    with pytest.raises(ValueError, match="needs 33 or more micro-batches"):
        checked(replace(settings, batching=replace(settings.batching, gradient_accumulation=32)))
    kept = replace(settings.ipu, optimizer_state_offchip=False, replicated_tensor_sharding=False)
    with pytest.raises(ValueError, match="this layout does not fit"):
        checked(replace(settings, ipu=kept))
    fewer = replace(settings.ipu, layers_per_ipu=(1,) * 15 + (2,))
    with pytest.raises(ValueError, match="places 17 layers, the model has 24"):
        checked(replace(settings, ipu=fewer))


def test_too_large_a_micro_batch_is_noticed():
    settings = throughput.read(COMMANDS["schnet_hydronet_train_gen_pod4_layout_packed_micro_batch_7"].program[3:])
    assert checked(settings).fullest.fraction < 1
    with pytest.raises(ValueError, match="this layout does not fit.*micro-batches of 28"):
        checked(replace(settings, batching=replace(settings.batching, micro_batch_size=28)))
