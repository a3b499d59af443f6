"""Files of a candidate: a changed byte of what a search decides by is noticed."""

from dataclasses import asdict

import pytest

from ipu_chem.config import from_dict, to_dict
from ipu_chem.json_file import write_json
from ipu_chem.scaling.candidates import Progress, _log, make_candidates, read_progress

REACHED = Progress("stopped", 5, 10, 1.5, {"mae": 0.25})


@pytest.fixture
def candidate(tmp_path):
    options = {"model": {"hidden_features": 8, "num_filters": 8, "num_interactions": 1}, "accelerator": "cpu"}
    made = make_candidates(to_dict(from_dict(options)), {"optimizer.learning_rate": [1e-3]}, tmp_path)[0]
    made.folder.mkdir()
    (made.folder / "metrics.jsonl").write_text('{"kind": "train", "step": 5, "epoch": 1, "loss": 0.5}\n')
    values = {**asdict(REACHED), "log": _log(made.folder), "config": made.config}
    write_json(made.folder / "candidate.json", values)
    return made


def test_progress_is_read_also_where_training_has_gone_on(candidate):
    with open(candidate.folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 6, "epoch": 1, "loss": 0.25}\n')
    assert read_progress(candidate) == REACHED


@pytest.mark.parametrize(
    ("name", "before", "after"), [("candidate.json", "0.25", "0.35"), ("metrics.jsonl", "5}", "6}")]
)
def test_a_changed_digit_is_noticed(candidate, name, before, after):
    path = candidate.folder / name
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ValueError, match=rf"{name} is damaged \(its checksum does not match\); delete the folder"):
        read_progress(candidate)


def test_a_search_of_before_had_no_checksums(candidate):
    import json

    (candidate.folder / "candidate.json").write_text(json.dumps({**asdict(REACHED), "config": candidate.config}))
    assert read_progress(candidate) == REACHED


def test_every_batch_of_a_grid_is_checked(tmp_path):
    grid = {"batching.device_iterations": [1, 10**10]}
    with pytest.raises(ValueError, match=r"candidate device_iterations=10000000000: batching.device_iterations="):
        make_candidates(to_dict(from_dict({"accelerator": "cpu"})), grid, tmp_path)
