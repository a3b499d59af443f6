"""JSON files with a checksum: what was written is read, and nothing else."""

import json
import math

import pytest

from ipu_chem.json_file import read_json, write_json

VALUES = {"loss": 0.125, "none": None, "bad": math.inf, "inner": {"steps": [1, 2]}, "name": "é"}


def test_values_come_back(tmp_path):
    write_json(tmp_path / "a.json", VALUES)
    assert read_json(tmp_path / "a.json", "do it again") == VALUES
    write_json(tmp_path / "b.json", {"of": {3: 1}})  # whose key becomes a text
    assert read_json(tmp_path / "b.json", "do it again") == {"of": {"3": 1}}


def test_a_changed_digit_is_noticed_and_a_file_without_checksum_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, VALUES)
    text = path.read_text()
    for changed in (text.replace("0.125", "0.135"), text[:-3], "", "[1]", "null"):
        path.write_text(changed)
        with pytest.raises(ValueError, match=r"a\.json is damaged \(.*\); do it again\."):
            read_json(path, "do it again")
    path.write_text(json.dumps({"loss": 1}))
    assert read_json(path, "do it again") == {"loss": 1}
