"""Checkpoints survive what disks and kills do, and refuse what they are not."""

import errno
import json
import os

import pytest
import torch

from ipu_chem.checkpoint import load_checkpoint, save_checkpoint

TENSORS = {"model": {"a.b": torch.arange(6).reshape(2, 3), "c": torch.tensor(1.5)}, "optimizer": {"0.step": 7}}
STATE = {"progress": {"step": 3, "best": float("inf")}, "config": {"out": "runs/x"}}


def test_round_trip(tmp_path):
    path = tmp_path / "checkpoints" / "last.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    tensors, state = load_checkpoint(path)
    assert state == STATE and tensors["optimizer"] == {"0.step": 7}
    assert all(torch.equal(tensors["model"][name], value) for name, value in TENSORS["model"].items())


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not be written .*No space left.* the previous one is kept"):
        save_checkpoint(path, {"model": {"c": torch.zeros(1)}}, STATE)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.safetensors"]


def test_missing_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "last.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, TENSORS, STATE)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        load_checkpoint(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(ValueError, match="not a checkpoint of this program"):
        load_checkpoint(path)


def test_any_flipped_byte_is_noticed_before_a_checkpoint_is_used(tmp_path):
    path = tmp_path / "checkpoints" / "last.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    content = path.read_bytes()
    for position in range(len(content)):
        broken = bytearray(content)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged or no checkpoint|not a checkpoint of this program"):
            load_checkpoint(path)


def test_the_way_on_from_a_damaged_checkpoint(tmp_path):
    run = tmp_path / "run"
    best, last = run / "checkpoints" / "best.safetensors", run / "checkpoints" / "last.safetensors"
    for path in (best, last):
        save_checkpoint(path, TENSORS, STATE)
    whole = last.read_bytes()
    last.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match="last.* damaged .*best.safetensors beside it is whole: .* start again with"):
        load_checkpoint(last)
    best.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match="last.* is damaged .*start again: delete .*run, or choose another --out"):
        load_checkpoint(last)
    last.write_bytes(whole)
    with pytest.raises(ValueError, match=f"best.* delete the damaged file, and .*`ipu-chem train --resume {run}`"):
        load_checkpoint(best)


def test_a_checkpoint_of_an_earlier_version_is_read_and_said_once(tmp_path, capsys):
    from safetensors.torch import save_file

    path = tmp_path / "last.safetensors"
    metadata = {"format": "1", "state": json.dumps(STATE), "plain": '{"optimizer/0.step": 7}'}
    save_file({"model/c": torch.tensor(1.5)}, str(path), metadata=metadata)
    for _ in range(2):
        tensors, state = load_checkpoint(path)
    assert (tensors, state) == ({"model": {"c": torch.tensor(1.5)}, "optimizer": {"0.step": 7}}, STATE)
    assert capsys.readouterr().err == f"{path} is of an earlier version and has no checksum\n"


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    from ipu_chem import checkpoint

    path = tmp_path / "last.safetensors"
    first, second = ({"model": {"w": torch.full((size,), float(size))}} for size in (3, 5))
    save_checkpoint(path, first, {"step": 1})
    read, calls = checkpoint._read, []

    def replaced(file):
        calls.append(file)
        found = read(file)
        if len(calls) == 1:
            save_checkpoint(path, second, {"step": 2})
        return found

    monkeypatch.setattr(checkpoint, "_read", replaced)
    tensors, state = load_checkpoint(path)
    assert len(calls) == 2 and state == {"step": 2} and torch.equal(tensors["model"]["w"], second["model"]["w"])
