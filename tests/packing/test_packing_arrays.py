"""Archives of arrays: read as numpy reads them, and refused before memory is taken for what is not there."""

import io
import zipfile

import numpy as np
import pytest

from packing import PackingPlan
from packing.arrays import open_arrays


def header(shape, dtype="<f8"):
    """The header of a .npy file, without the array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_arrays_are_read(tmp_path):
    kept = {"a": np.arange(5), "b": np.zeros((0, 3)), "c": np.array("text"), "d": np.zeros(300_000)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **kept)
        with open_arrays(tmp_path / "a.npz") as arrays:
            assert all(np.array_equal(arrays[name], value) for name, value in kept.items())


def test_a_header_that_claims_terabytes_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("z.npy", header((4,)) + bytes(32))
        archive.writestr("pos.npy", header((10**12, 3)) + bytes(64))
    message = r"a.npz: pos.npy claims an array of 24,000,000,000,000 bytes and has \d+; it is damaged"
    with pytest.raises(ValueError, match=message), open_arrays(file):
        pass
    with pytest.raises(ValueError, match=f"not a packing plan .*{message}"):
        PackingPlan.load(file)


def test_content_that_unpacks_to_terabytes_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z.npy", header((10**9,)) + bytes(10**6))
        archive.infolist()[0].file_size = 8 * 10**9
    with pytest.raises(ValueError, match="a.npz claims a content of 8,000,000,000 bytes in its"), open_arrays(file):
        pass


def test_damaged_files_raise_a_sentence(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=np.arange(1000))
    whole = file.read_bytes()
    for damaged in (whole[:-30], b"", b"no archive", whole[:60] + b"\xff" * 40 + whole[100:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="a.npz"), open_arrays(file) as arrays:
            arrays["a"]
    central = whole.index(b"PK\x01\x02")
    file.write_bytes(whole[: central + 8] + b"\x01" + whole[central + 9 :])  # a flipped bit: "is encrypted"
    with pytest.raises(ValueError, match="a.npz is damaged .*encrypted"), open_arrays(file) as arrays:
        arrays["a"]
    np.save(tmp_path / "b.npy", np.arange(3))
    (tmp_path / "b.npy").rename(file)
    with pytest.raises(ValueError, match="a.npz is no .npz archive"), open_arrays(file):
        pass
