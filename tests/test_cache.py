"""What is prepared once: damaged, it is prepared again and said."""

import numpy as np

from ipu_chem.cache import kept
from packing.store import Store


def test_what_is_made_of_positions_is_made_once_and_again_when_it_is_damaged(tmp_path, capsys):
    store = Store({"nodes": np.array([0, 2])}, {"pos": np.zeros((2, 3))}, {"pos": "nodes"})
    calls = []

    def make():
        calls.append(1)
        return Store({"nodes": np.array([0, 2])}, {"x": np.arange(2)}, {"x": "nodes"})

    for _ in range(2):
        assert kept("steps", "1", store, tmp_path, make)["x"].values.tolist() == [0, 1]
    assert len(calls) == 1
    (file,) = tmp_path.glob("steps-*/x.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert kept("steps", "1", store, tmp_path, make)["x"].values.tolist() == [0, 1]
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 1
    said = capsys.readouterr().out
    assert "steps: preparing again, because" in said and "x.npy is damaged" in said and "delete" not in said
    assert kept("steps", "1", store, tmp_path, make)["x"].values.tolist() == [0, 1] and len(calls) == 2
