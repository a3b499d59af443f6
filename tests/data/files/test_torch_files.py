"""Files of torch.save: what may run code is refused in a sentence, in every torch."""

import warnings
import zipfile

import pytest
import torch
from torch import nn

from ipu_chem.data.files.torch_files import load_torch


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_tensors_and_plain_values_are_read(tmp_path):
    torch.save({"a": torch.arange(3), "b": [1, 2.5, "x"]}, tmp_path / "a.pt")
    found = load_torch(tmp_path / "a.pt", "fetch it again.")
    assert found["a"].tolist() == [0, 1, 2] and found["b"] == [1, 2.5, "x"]


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_torchscript_archives_are_refused(tmp_path, name, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Doubled()), str(tmp_path / name))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is not even opened"))
    with pytest.raises(ValueError, match=f"{name} is a TorchScript archive, which holds code that loading would run"):
        load_torch(tmp_path / name, "fetch it again.")


def test_damaged_files_end_in_a_sentence(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({"a": torch.arange(300)}, file)
    whole = file.read_bytes()
    for damaged in (whole[:-100], whole[:40], b"PK\x03\x04", b"", b"\x80\x02garbage", whole[100:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a.pt is no file of tensors \(.*\); fetch it again.$"):
            load_torch(file, "fetch it again.")


def test_an_archive_that_claims_more_than_it_has_is_refused(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data if "/data/" not in name else bytes(10**7))
    with pytest.raises(ValueError, match=r"bomb.pt claims a content of 10,\d\d\d,\d\d\d bytes, more than it has"):
        load_torch(tmp_path / "bomb.pt", "fetch it again.")
