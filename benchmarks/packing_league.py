"""Packers of other libraries beside ours: packs against the bound, items lost or cut, balance, seconds, memory, rules.

    python benchmarks/packing_league.py [--quick] [--no-goals]
    pip install '.[adapters]' binpacking torch-sim-atomistic     # its peers; missing ones are named and left out

Every peer packs the same sizes in the same order and says which items share a pack, in a process of its own. CPU
seconds are those from sizes to index lists; where a peer builds batches to do so, that is in its seconds. Ours gives 16
ranks as many packs each, for which it splits a few: the table has both numbers, and the ratio is that of the plan.
Imbalance of the others leaves out what 16 ranks cannot share.
"""

import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

if __package__ in (None, ""):  # run as a file: its folder would hide the package of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks.common import Goals, arguments, in_child, machine_line, print_table, throughput_line, version_of
from benchmarks.histograms import HYDRONET_500K, QM9, sizes_of
from benchmarks.packing_peers import next_fit_packs
from packing import Budget, Cost, make_plan
from packing.adapters.torch import PackBatchSampler
from packing.testing import failures, random_cases

Packs = List[List[int]]
RANKS = 16
FEW = 64  # steps of an epoch; of fewer, each takes in packs of many costs
COST = Cost(quadratic=1.0)
NO_LIMIT = 2**31 - 1
# Set -> capacity and items of a pack.
SETS = {"qm9": (128, NO_LIMIT), "hydronet": (192, 5), "tokens": (256, NO_LIMIT), "documents": (32_768, NO_LIMIT)}
TITLES = {
    "qm9": "QM9, 128 atoms",
    "hydronet": "HydroNet 500k, 192 atoms, 5 clusters",
    "tokens": "tokens of drug-like molecules (12 to 80, mean 41), 256",
    "documents": "documents (log-normal, median 400 tokens, to 8,192), 32,768",
}


def sizes_in(name: str, count: int) -> np.ndarray:
    """Sizes of a set, [I], in random order."""
    random = np.random.default_rng(0)
    if name in ("qm9", "hydronet"):
        return random.choice(sizes_of(QM9 if name == "qm9" else HYDRONET_500K), count, replace=False)
    drawn = random.normal(41, 9.4, count) if name == "tokens" else random.lognormal(6.0, 1.2, count)
    return np.clip(np.round(drawn), *((12, 80) if name == "tokens" else (8, 8192))).astype(np.int64)


def ours(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """This package, with packs of like cost side by side."""
    return list(PackBatchSampler(sizes, budget_of(capacity, depth), seed=seed, multiple=RANKS, balance=COST))


def alike(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """This package, with packs that cost alike: for epochs of few steps, whose packs differ."""
    plan = make_plan(sizes, budget_of(capacity, depth), spread_cost=COST)
    return list(PackBatchSampler(None, None, plan=plan, seed=seed, multiple=RANKS, balance=COST))


def lpfhp(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """Longest-pack-first histogram packing, in this package."""
    epoch = make_plan(sizes, budget_of(capacity, depth), "lpfhp").epoch(seed, 0)
    return [epoch[pack].tolist() for pack in range(len(epoch))]


def max_atoms(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """Next fit in a shuffled order, the rule of fairchem's max-atom sampler, written anew."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    return [order[pack].tolist() for pack in next_fit_packs([sizes[order]], [capacity], depth)]


def pyg(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """PyTorch Geometric's `DynamicBatchSampler`, which limits nodes alone."""
    from torch_geometric.data import Data
    from torch_geometric.loader import DynamicBatchSampler

    graphs = [Data(num_nodes=int(size)) for size in sizes]
    # list() would ask for its length, which raises.
    return [pack for pack in DynamicBatchSampler(graphs, capacity, mode="node", shuffle=True)]  # type: ignore[arg-type]


def jraph(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """jraph's `dynamically_batch`; nodes carry the number of their graph."""
    from jraph import GraphsTuple, dynamically_batch, get_node_padding_mask

    none = np.zeros(0, np.int32)
    graphs = (
        GraphsTuple(np.full((size, 1), item), none[:, None], none, none, None, np.array([size]), np.array([0]))
        for item, size in enumerate(sizes.tolist())
    )
    batches = dynamically_batch(graphs, capacity + 1, 0, min(depth, len(sizes)) + 1)
    return [np.unique(batch.nodes[np.asarray(get_node_padding_mask(batch)), 0]).tolist() for batch in batches]


def grain(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """grain's first fit with 64 open packs."""
    return [_items_of(pack["tokens"], pack["tokens_segment_ids"]) for pack in _grain(sizes, capacity, depth, seed)]


def _grain(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Any:
    from grain import MapDataset, experimental

    source = MapDataset.source([{"tokens": np.full(size, item)} for item, size in enumerate(sizes.tolist())])
    return experimental.FirstFitPackIterDataset(
        source.seed(seed).shuffle().to_iter_dataset(),
        length_struct={"tokens": capacity},
        num_packing_bins=64,
        seed=seed,
        max_sequences_per_bin=min(depth, NO_LIMIT - 1),
    )


def _items_of(tokens: np.ndarray, segments: np.ndarray) -> List[int]:
    first = np.flatnonzero(np.diff(segments, prepend=0) > 0)
    return tokens[first].tolist()


def trl(sizes: np.ndarray, capacity: int, depth: int, seed: int, strategy: str = "bfd") -> Packs:
    """TRL's `pack_dataset`; tokens carry the number of their row."""
    import datasets
    from trl import pack_dataset

    datasets.disable_progress_bars()
    rows = [np.full(size, item, np.int32) for item, size in enumerate(sizes.tolist())]
    packed = pack_dataset(datasets.Dataset.from_dict({"input_ids": rows}), capacity, strategy).with_format("numpy")
    return [np.unique(row["input_ids"]).tolist() for row in packed]


def trl_wrapped(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """TRL's `pack_dataset` that cuts sequences; one that is in several rows counts as repeated."""
    return trl(sizes, capacity, depth, seed, "wrapped")


def binpacking(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """Decreasing fit of the package `binpacking`."""
    from binpacking import to_constant_volume

    return [list(one) for one in to_constant_volume(dict(enumerate(sizes.tolist())), capacity)]


def torch_sim(sizes: np.ndarray, capacity: int, depth: int, seed: int) -> Packs:
    """torch-sim's bins of its autobatching, begun as those of `binpacking`."""
    from torch_sim.autobatching import to_constant_volume_bins

    return [list(one) for one in to_constant_volume_bins(dict(enumerate(sizes.tolist())), capacity)]


SAMPLER = ("every_item_once", "exact_length", "determinism", "limits", "resume")


class Peer(NamedTuple):
    """A contestant.

    Attributes:
        packs: sizes, capacity, depth, seed -> packs.
        library: that it needs, None for this repository.
        limits_items: takes a limit on the items of a pack.
        rules: of `packing.testing` that it can be asked for: a packer has neither epochs nor positions.
        has_length: `len` is known before an epoch.
    """

    packs: Callable[[np.ndarray, int, int, int], Packs]
    library: Optional[str] = None
    limits_items: bool = True
    rules: Sequence[str] = ("every_item_once", "limits")
    has_length: bool = True


PEERS = {
    "ours": Peer(ours, rules=SAMPLER),
    "ours, spread_cost": Peer(alike, rules=SAMPLER),
    "LPFHP": Peer(lpfhp),
    "next fit (fairchem's rule)": Peer(max_atoms),
    "PyG DynamicBatchSampler": Peer(pyg, "torch_geometric", limits_items=False, rules=SAMPLER, has_length=False),
    "jraph dynamically_batch": Peer(jraph, "jraph", rules=SAMPLER, has_length=False),
    "grain FirstFit": Peer(grain, "grain", rules=SAMPLER, has_length=False),
    "TRL bfd": Peer(trl, "trl", limits_items=False),
    "TRL wrapped": Peer(trl_wrapped, "trl", limits_items=False, rules=("every_item_once",)),
    "binpacking": Peer(binpacking, "binpacking", limits_items=False),
    "torch-sim autobatching": Peer(torch_sim, "torch_sim", limits_items=False),
}


def budget_of(capacity: int, depth: int) -> Budget:
    """Budget of one measured dimension, with a limit on items where there is one."""
    return Budget(nodes=capacity) if depth == NO_LIMIT else Budget(nodes=capacity, graphs=depth)


def measured(peer: str, count: int) -> Callable[[], Dict[str, Any]]:
    """One contestant on all sets, for `in_child`."""
    one = PEERS[peer]
    sets = {name: sizes_in(name, count) for name, (_, depth) in SETS.items() if depth == NO_LIMIT or one.limits_items}
    one.packs(sets["qm9"][:50], *SETS["qm9"], 0)  # what is loaded and compiled once

    def work() -> Dict[str, Any]:
        return {name: figures(one, sizes, *SETS[name]) for name, sizes in sets.items()}

    return work


def figures(peer: Peer, sizes: np.ndarray, capacity: int, depth: int) -> Dict[str, float]:
    """Packs, lost and repeated items, imbalance and CPU seconds of a contestant: the median of up to five runs."""
    seconds: List[float] = []
    while len(seconds) < 5 and sum(seconds) < 1.0:
        started = time.process_time()
        packs = peer.packs(sizes, capacity, depth, 0)
        seconds.append(time.process_time() - started)
    seen = np.bincount(np.concatenate(packs).astype(np.int64), minlength=len(sizes))
    full = packs[: len(packs) // RANKS * RANKS]
    cost = np.array([float((sizes[pack].astype(float) ** 2).sum()) for pack in full]).reshape(-1, RANKS)
    return {
        "packs": len(packs),
        "lost": int((seen == 0).sum()),
        "repeated": int((seen > 1).sum()),
        "imbalance": float(cost.max(1).sum() / cost.mean(1).sum()) if len(cost) else 1.0,
        "seconds": statistics.median(seconds),
    }


def league(peers: Sequence[str], count: int, goals: Goals) -> float:
    """Print a table for every set; returns our seconds in all of them."""
    done = {peer: in_child("benchmarks.packing_league:measured", peer=peer, count=count) for peer in peers}
    header = ["packer", "packs", "/ bound", "lost", "repeated", f"imbalance, {RANKS} ranks", "CPU s"]
    for dataset, (capacity, depth) in SETS.items():
        plan = make_plan(sizes_in(dataset, count), budget_of(capacity, depth))
        rows, seconds = [], {}
        for peer in peers:
            found = done[peer]["result"].get(dataset)
            if found is None:
                rows.append([peer, "has no limit on items", *["-"] * 5])
                continue
            own = peer.startswith("ours")
            packs = plan.num_packs if own else found["packs"]
            ratio = packs / plan.lower_bound
            of_another = PEERS[peer].library is not None
            if peer == "ours" or (of_another and ratio <= 1.02 and not found["lost"] and not found["repeated"]):
                seconds[peer] = found["seconds"]
            text = f"{packs:,}" + (f" ({found['packs']:,} for {RANKS} ranks)" if own else "")
            rows.append([peer, text, f"{ratio:.4f}", found["lost"], found["repeated"]])
            rows[-1] += [f"{found['imbalance']:.3f}", f"{found['seconds']:.3f}"]
        own = done["ours"]["result"][dataset]
        goals.at_most(f"{dataset}: items lost or repeated", own["lost"] + own["repeated"], 0)
        goals.at_most(f"{dataset}: packs of the plan above the bound", plan.gap, 1)
        goals.at_most(
            f"{dataset}: packs above the plan, which {RANKS} ranks divide", own["packs"] - plan.num_packs, RANKS
        )
        even = own if own["packs"] >= FEW * RANKS else done["ours, spread_cost"]["result"][dataset]
        if dataset != "documents":  # packs of the largest documents have no equals
            goals.at_most(f"{dataset}: imbalance of n**2 on {RANKS} ranks", even["imbalance"], 1.02)
        goals.at_most(
            f"{dataset}: seconds over those of the fastest other library within 2 % of the bound",
            own["seconds"] / min(seconds.values()),
            2,
        )
        print_table(f"{TITLES[dataset]}: {count:,} items, at least {plan.lower_bound:,} packs", header, rows)
    memory = [[peer, f"{one['peak_mb'] - one['loaded_mb']:.0f}"] for peer, one in done.items()]
    print_table("Memory above what is loaded, the most in all sets", ["packer", "MB"], memory)
    return sum(one["seconds"] for one in done["ours"]["result"].values())


class Sampler:
    """A peer in the form that `packing.testing` asks for, on one rank."""

    def __init__(self, peer: Peer, sizes: Dict[str, np.ndarray], limits: Dict[str, int], seed: int) -> None:
        self.peer, self.sizes, self.limits, self.seed = peer, sizes["nodes"], limits, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.peer.has_length:
            raise TypeError("no len()")
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[List[int]]:
        depth = self.limits.get("graphs", NO_LIMIT)
        return iter(self.peer.packs(self.sizes, self.limits["nodes"], depth, self.seed + self.epoch))

    def state_dict(self) -> Any:
        """Nothing: these samplers have none of their own."""
        raise NotImplementedError

    load_state_dict = state_dict


class GrainSampler(Sampler):
    """grain's iterators have positions of their own."""

    def __iter__(self) -> Iterator[List[int]]:
        packs = _grain(self.sizes, self.limits["nodes"], self.limits.get("graphs", NO_LIMIT), self.seed + self.epoch)
        self.iterator = iter(packs)
        if getattr(self, "position", None) is not None:
            self.iterator.set_state(self.position)
            self.position = None
        return (_items_of(pack["tokens"], pack["tokens_segment_ids"]) for pack in self.iterator)

    def state_dict(self) -> Any:
        """Position of the iterator."""
        return self.iterator.get_state()

    def load_state_dict(self, state: Any) -> None:  # type: ignore[override]
        """Go on from a position."""
        self.position = state


def broken_rules(peer: str, count: int) -> Dict[str, str]:
    """Rules of `packing.testing` that a peer breaks on one rank, with their first cases."""
    one, found = PEERS[peer], {}

    def make(sizes: Dict[str, np.ndarray], limits: Dict[str, int], seed: int, rank: int, world: int) -> Any:
        if peer.startswith("ours"):
            plan = make_plan(sizes, Budget(**limits), spread_cost=None if peer == "ours" else COST)
            return PackBatchSampler(None, None, plan=plan, seed=seed, rank=rank, world=world, balance=COST)
        return (GrainSampler if peer.startswith("grain") else Sampler)(one, sizes, limits, seed)

    taken = 0
    for sizes, limits in random_cases(100 * count, seed=1):
        if taken == count:
            break
        if len(sizes) > 1 or not len(sizes["nodes"]) or ("graphs" in limits and not one.limits_items):
            continue
        taken += 1
        for rule, why in failures(make, sizes, limits, taken, worlds=(1,), rules=one.rules).items():
            found.setdefault(rule, why)
    return found


def _with_version(peer: str) -> str:
    library = PEERS[peer].library
    return peer if library is None else f"{peer} {version_of(library)}"


def main() -> int:
    """Run the league; the exit status is 1 when a goal is missed."""
    args = arguments(__doc__)
    peers = [name for name, peer in PEERS.items() if peer.library is None or find_spec(peer.library) is not None]
    libraries = sorted({peer.library for peer in PEERS.values() if peer.library})
    print(
        machine_line(
            "index lists", "numpy", "scipy", *(["jax"] if "jraph dynamically_batch" in peers else []), *libraries
        )
    )
    missing = [name for name in PEERS if name not in peers]
    if missing:
        print(f"NOT RUN, as their library is missing: {', '.join(missing)}")
    count, goals = 2_000 if args.quick else 10_000, Goals()
    seconds = league(peers, count, goals)
    rows = []
    for peer in peers:
        found = broken_rules(peer, 4 if args.quick else 20)
        kept = [rule for rule in PEERS[peer].rules if rule not in found]
        rows.append(
            [_with_version(peer), ", ".join(kept), "; ".join(f"{rule}: {why}" for rule, why in found.items()) or "none"]
        )
        if peer.startswith("ours"):
            goals.at_most(f"rules that {peer} breaks", len(found), 0)
    print_table("Rules of packing.testing on one rank", ["packer", "kept", "broken, first case"], rows)
    print(throughput_line(count * len(SETS), seconds))
    return goals.finish(not args.no_goals)


if __name__ == "__main__":
    sys.exit(main())
