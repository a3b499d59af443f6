"""The benchmark's own parts: peers that pack rightly, time taken in turns, goals that decide the exit status."""

import numpy as np
import pytest

from benchmarks import collation, histograms, packing_league, packing_peers
from benchmarks.common import Goals, arguments, in_child, interleaved, machine_line, median_ratio, throughput_line
from packing import Budget, make_plan


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(
        histograms, "SMALL", {size: count // 500 + 1 for size, count in histograms.QM9.items()}, raising=False
    )
    return {"dataset": "SMALL", "capacity": 36, "depth": 5}


def test_peers_pack_every_graph_and_best_fit_agrees_with_ours(small):
    sizes = packing_peers.load_sizes("SMALL")
    budget = Budget(nodes=36, graphs=5)
    found = {}
    for name in ("ours", "epoch_only", "lpfhp_lists", "best_fit_one_by_one", "next_fit"):
        result = getattr(packing_peers, name)(**small)()
        assert result["items"] == len(sizes), name
        found[name] = result["packs"]
    assert found["lpfhp_lists"] == make_plan(sizes, budget, "lpfhp").num_packs
    assert found["best_fit_one_by_one"] == make_plan(sizes, budget, "best_fit").num_packs
    assert found["ours"] == found["epoch_only"] <= found["best_fit_one_by_one"] < found["next_fit"]
    assert np.array_equal(np.sort(sizes), histograms.sizes_of(histograms.SMALL)) and (np.diff(sizes) < 0).any()


def test_next_fit_keeps_to_every_limit():
    packs = packing_peers.next_fit_packs([np.array([3, 3, 3, 5, 1]), np.array([1, 1, 9, 1, 1])], [8, 9], 2)
    assert packs == [[0, 1], [2], [3, 4]]


def test_a_child_measures_itself_alone():
    figures = in_child("benchmarks.packing_peers:next_fit", dataset="QM9", capacity=36, depth=99)
    assert figures["result"]["items"] == 130831 and figures["cpu"] > 0 and figures["wall"] > 0
    assert 10 < figures["loaded_mb"] <= figures["peak_mb"] < 2000
    with pytest.raises(RuntimeError, match="no_such_function"):
        in_child("benchmarks.packing_peers:no_such_function")


def test_contestants_take_turns():
    turns = []
    timings = interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b") or 7}, 3, 1)
    assert turns == list("ab" * 4) and timings["b"].result == 7
    assert len(timings["a"].seconds) == 3 and timings["a"].median >= 0
    short = interleaved({"c": lambda: turns.append("c")}, 1, 0, least_seconds=0.01)["c"]
    assert turns.count("c") > 10 and short.median < 0.001
    timings["a"].seconds, timings["b"].seconds = [4.0, 2.0, 9.0], [2.0, 2.0, 3.0]
    assert median_ratio(timings["a"], timings["b"]) == 2.0


def test_goals_decide_the_exit_status_only_when_enforced(capsys):
    goals = Goals()
    goals.at_most("seconds", 1.0, 1.5)
    assert goals.finish(enforce=True) == 0
    goals.at_least("ratio", 49.0, 50.0)
    assert goals.finish(enforce=True) == 1 and goals.finish(enforce=False) == 0
    assert "MISSED  ratio: 49 >= 50" in capsys.readouterr().out


def test_lines_and_options(tmp_path):
    assert throughput_line(1000, 4.0) == "throughput: 250.00 samples/sec"
    line = machine_line("float32", "numpy", "no_such_library")
    assert f"numpy {np.__version__}" in line and "no_such_library missing" in line and line.endswith("float32")
    options = arguments("text", ["--quick", "--shared", str(tmp_path), "--no-goals"])
    assert options.quick and options.no_goals and options.shared == tmp_path


@pytest.mark.parametrize("budget", [collation.NO_EDGES, collation.ALL_PAIRS])
def test_both_collations_give_the_same_batches(tmp_path, budget):
    pytest.importorskip("torch_geometric")
    molecules = collation.load_molecules(tmp_path, 40, budget)
    timings = collation.race(molecules, 3, 1)  # compares before it takes time
    assert set(timings) == {"pad", "filler", "ours"} and "SYNTHETIC" in molecules.origin


@pytest.mark.parametrize("name", list(packing_league.PEERS))
def test_peers_of_the_league_say_who_shares_a_pack(name):
    peer = packing_league.PEERS[name]
    if peer.library:
        pytest.importorskip(peer.library, reason=f"{peer.library} is not installed: the league's peer was NOT tested")
    sizes = packing_league.sizes_in("tokens", 60)
    found = packing_league.figures(peer, sizes, 256, packing_league.NO_LIMIT)
    assert found["lost"] == 0 and found["packs"] >= -(-sizes.sum() // 256)
    assert (found["repeated"] > 0) == (name == "TRL wrapped")
    broken = packing_league.broken_rules(name, 2)
    assert set(broken) <= set(peer.rules) and not (name.startswith("ours") and broken)
    assert "exact_length" in broken or peer.has_length
