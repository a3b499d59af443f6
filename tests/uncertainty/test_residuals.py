"""Residuals in a file: to the bit, with a checksum, and a damaged file says so."""

import numpy as np
import pytest

from ipu_chem.uncertainty.residuals import FILE, FORCES, LABELS, Residuals, read_residuals, write_residuals
from packing.types import Ragged


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(30, 2))
    labels[3, 1] = np.nan
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 9, 30))])
    outputs = {LABELS: Ragged(labels, np.arange(31)), FORCES: Ragged(rng.normal(size=(offsets[-1], 3)), offsets)}
    found = Residuals(outputs, [["u0", "eV"], ["gap", "eV"]], ["1f", "2e"], [120.0, 0.25])
    write_residuals(tmp_path, found)
    return found


def test_residuals_are_read_as_they_were_written(written, tmp_path):
    again = read_residuals(tmp_path)
    for name, one in written.outputs.items():
        np.testing.assert_array_equal(again.outputs[name].values, one.values)
        np.testing.assert_array_equal(again.outputs[name].offsets, one.offsets)
    assert again[1:] == written[1:] and list(again.outputs) == [LABELS, FORCES]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("where", np.linspace(0, 0.999, 12))
def test_a_byte_that_changed_is_found(written, tmp_path, where):
    content = bytearray((tmp_path / FILE).read_bytes())
    content[int(where * len(content))] ^= 0x55
    (tmp_path / FILE).write_bytes(bytes(content))
    try:
        again = read_residuals(tmp_path)
    except ValueError as error:
        assert f"{tmp_path / FILE} is damaged (" in str(error) and "\n" not in str(error)
    else:  # a byte of the archive that says nothing, such as a date
        np.testing.assert_array_equal(again.outputs[LABELS].values, written.outputs[LABELS].values)
        np.testing.assert_array_equal(again.outputs[FORCES].values, written.outputs[FORCES].values)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_archive_is_damaged(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"residuals.npz is damaged \(is no .npz archive of arrays\)\.$"):
        read_residuals(tmp_path)


def test_values_that_were_swapped_do_not_match_their_checksum(written, tmp_path):
    with np.load(tmp_path / FILE) as opened:
        arrays = dict(opened)
    arrays[LABELS] = arrays[LABELS][::-1]
    np.savez(tmp_path / FILE, **arrays)
    with pytest.raises(ValueError, match="its checksum does not match"):
        read_residuals(tmp_path)
    del arrays["blake2b"]
    np.savez(tmp_path / FILE, **arrays)
    with pytest.raises(ValueError, match="is damaged"):
        read_residuals(tmp_path)


def test_no_file_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_residuals(tmp_path)
