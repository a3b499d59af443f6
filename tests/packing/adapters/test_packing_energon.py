"""Groups of samples in Megatron-Energon's own loader: every sample once, and the same after a saved position."""

import json

import numpy as np
import pytest

from packing import Budget
from packing.adapters.energon import SampleSelector

energon = pytest.importorskip(
    "megatron.energon", reason="megatron-energon is not installed: its adapter was NOT tested"
)

LENGTHS = np.random.default_rng(0).integers(1, 65, 500)


@energon.stateless
def cook(sample):
    return sample


class Encoder(energon.DefaultTaskEncoder):
    """Sequences of letters, packed to 64."""

    cookers = [energon.Cooker(cook)]

    def __init__(self):
        super().__init__()
        self.select = SampleSelector(Budget(tokens=64), lambda sample: len(sample["json"]["text"]))

    def select_samples_to_pack(self, samples):
        return self.select(samples)

    @energon.stateless
    def pack_selected_samples(self, samples):
        return {"numbers": [sample["json"]["number"] for sample in samples],
                "length": sum(len(sample["json"]["text"]) for sample in samples)}  # fmt: skip

    def batch(self, samples):
        return samples[0]


def loader_of(path, **options):
    from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset

    dataset = get_train_dataset(
        path, worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), batch_size=1, packing_buffer_size=120,
        shuffle_buffer_size=None, max_samples_per_sequence=None, task_encoder=Encoder(), repeat=False, **options,
    )  # fmt: skip
    return get_savable_loader(dataset)


@pytest.fixture
def path(tmp_path):
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.jsonl.jsonl_prepare import JsonlPreparator

    file = tmp_path / "samples.jsonl"
    lines = [json.dumps({"number": number, "text": "x" * int(n)}) for number, n in enumerate(LENGTHS)]
    file.write_text("\n".join(lines) + "\n")
    JsonlPreparator.prepare_dataset(EPath(str(file)))
    return file


def test_every_sample_in_one_pack(path):
    packs = list(loader_of(path))
    assert sorted(number for pack in packs for number in pack["numbers"]) == list(range(500))
    assert all(pack["length"] <= 64 for pack in packs)
    least = -(-int(LENGTHS.sum()) // 64)
    assert len(packs) <= 1.08 * least + 5


@pytest.mark.parametrize("cut", [1, 70, 150])
def test_a_saved_position_goes_on_with_the_same_packs(path, cut):
    loader = loader_of(path)
    batches = iter(loader)
    for _ in range(cut):
        next(batches)
    state = loader.save_state_rank()
    rest = [pack["numbers"] for pack in batches]
    again = loader_of(path)
    again.restore_state_rank(state)
    assert [pack["numbers"] for pack in again] == rest
