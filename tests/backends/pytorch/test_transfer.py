"""One buffer holds a batch to the bit, whatever its dtypes and shapes."""

import pytest
import torch
from poptorch_helpers import random_packs

from ipu_chem.backends.pytorch import transfer as torch_transfer
from ipu_chem.backends.pytorch.transfer import apart, to_device, together
from ipu_chem.batches.types import CompactPack


@pytest.mark.parametrize("packs", [1, 3, 16])
def test_fields_come_out_as_they_went_in(packs: int) -> None:
    batch = random_packs(packs)
    assert {field.dtype for field in batch} >= {torch.uint8, torch.int16, torch.float32}
    batch = batch._replace(weight=batch.weight > 0)  # masks travel, too
    strided = batch._replace(y=torch.stack([batch.y] * 2, -1)[..., 0])  # as views of larger arrays may be
    for given in (batch, strided):
        buffer = together(given, pinned=False)
        assert buffer.dim() == 1 and buffer.dtype == torch.uint8
        views = apart(buffer.clone(), given)
        assert type(views) is CompactPack
        for name, one, other in zip(batch._fields, views, given):
            assert one.dtype == other.dtype and torch.equal(one, other), name
            assert one.data_ptr() % one.element_size() == 0, name
        assert len({view.untyped_storage().data_ptr() for view in views}) == 1


def test_on_the_host_nothing_is_copied() -> None:
    batch = random_packs(2)
    assert to_device(batch, torch.device("cpu")) is batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_one_copy_reaches_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, copies = random_packs(5), []
    original = torch_transfer.together
    monkeypatch.setattr(torch_transfer, "together", lambda *a, **k: copies.append(1) or original(*a, **k))
    there = to_device(batch, torch.device("cuda"))
    assert copies == [1] and all(field.is_cuda for field in there)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(there, batch))
