"""Conformance suite for packers: rules that a sampler of packs must keep, each with the first case that breaks it.

A packer is what a function ``make(sizes, limits, seed, rank, world)`` returns: the packs of one rank as lists of item
indices, in the form of torch's batch samplers.

    class Packer:
        def __len__(self): ...              # packs of an epoch on this rank
        def __iter__(self): ...             # lists of item indices
        def set_epoch(self, epoch): ...
        def state_dict(self): ...           # position; the same on every rank after the same number of packs
        def load_state_dict(self, state): ...

``sizes`` are {name: [I] int64}, ``limits`` {name: capacity}; a limit without sizes is one on the number of items. A
ValueError from ``make`` or `load_state_dict` refuses a case, which is not counted against a packer.

    from packing.testing import conform

    def test_my_packer():
        conform(my_make, cases=200)
"""

from itertools import islice
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

Sizes = Dict[str, np.ndarray]
Limits = Dict[str, int]
Make = Callable[[Sizes, Limits, int, int, int], Any]
# Results of one pack, one array for every item of it.
Outputs = Callable[[List[int]], Sequence[np.ndarray]]

RULES = {
    "every_item_once": "each item is in one pack of an epoch, on all ranks together",
    "exact_length": "len() is the number of packs that follow",
    "determinism": "packs follow from seed and epoch alone",
    "limits": "no pack exceeds a limit",
    "equal_ranks": "ranks have as many packs, none of them empty",
    "resume": "what follows a saved position is what would have followed",
    "resume_elsewhere": "on another number of ranks, what follows is what was left",
    "no_leakage": "results of an item do not depend on its pack",
}


class Refused(Exception):
    """A case that a packer does not take."""


def random_cases(count: int, seed: int = 0) -> Iterator[Tuple[Sizes, Limits]]:
    """Sizes and limits that every item keeps: one to three dimensions, even, skewed and equal sizes, 0 to 80 items."""
    for index in range(seed, seed + count):
        random = np.random.default_rng([19, index])
        items = int(random.integers(0, 81))
        limits, sizes = {}, {}
        for name in ("nodes", "edges", "angles")[: 1 + int(random.choice(3, p=(0.6, 0.3, 0.1)))]:
            limits[name] = limit = int(random.choice((random.integers(1, 12), random.integers(12, 500))))
            kind, least = random.integers(3), 1 if name == "nodes" else 0
            if kind == 0:
                drawn = random.integers(least, limit + 1, items)
            elif kind == 1:
                drawn = random.geometric(min(1.0, 6 / limit), items)
            else:
                drawn = np.full(items, random.integers(least, limit + 1))
            sizes[name] = np.clip(drawn, least, limit).astype(np.int64)
        if random.integers(3) == 0:
            limits["graphs"] = int(random.integers(1, 12))
        yield sizes, limits


def conform(
    make: Make,
    cases: int = 100,
    seed: int = 0,
    worlds: Sequence[int] = (1, 2, 3, 5),
    rules: Sequence[str] = tuple(RULES),
    outputs: Optional[Outputs] = None,
) -> int:
    """Hold a packer to the rules in random cases.

    Args:
        make: see above.
        cases: their number.
        seed: of the first one.
        worlds: numbers of ranks, every one of which is tried in every case.
        rules: some of `RULES`.
        outputs: for "no_leakage", see `failures`; without it that rule is left out.

    Returns:
        cases that were not refused.

    Raises:
        AssertionError: names the rules that are broken, each with its first case.
    """
    broken: Dict[str, str] = {}
    taken = 0
    for index, (sizes, limits) in enumerate(random_cases(cases, seed), start=seed):
        try:
            found = failures(make, sizes, limits, index, worlds, rules, outputs)
        except Refused:
            continue
        taken += 1
        for rule, why in found.items():
            broken.setdefault(rule, f"{rule} ({RULES[rule]}): {why} [case {index}]")
    if not taken:
        raise AssertionError(f"all of {cases} cases were refused.")
    if broken:
        raise AssertionError("the packer breaks\n" + "\n".join(broken.values()))
    return taken


def failures(
    make: Make,
    sizes: Sizes,
    limits: Limits,
    seed: int = 0,
    worlds: Sequence[int] = (1, 2, 3, 5),
    rules: Sequence[str] = tuple(RULES),
    outputs: Optional[Outputs] = None,
) -> Dict[str, str]:
    """Rules that a packer breaks in one case.

    Args:
        make, sizes, limits: see above.
        seed: of the packer, and of the places where it is interrupted.
        worlds: numbers of ranks.
        rules: some of `RULES`.
        outputs: results of a pack, one array for every item, as a model gives them for what is collated of it; compared
            with the results of each item alone to 1e-4 of their largest value.

    Returns:
        rule -> what was found.

    Raises:
        Refused: the packer takes no number of ranks in this case.
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise ValueError(f"unknown rule {unknown[0]!r}; choose from {', '.join(RULES)}.")
    case = _Case(make, sizes, limits, seed)
    possible = [world for world in worlds if case.takes(world)]
    if not possible:
        raise Refused(f"no number of ranks in {tuple(worlds)}")
    broken: Dict[str, str] = {}
    checks: Dict[str, Callable[[int], Optional[str]]] = {
        "every_item_once": case.lost_or_repeated,
        "exact_length": case.wrong_length,
        "determinism": case.changed,
        "limits": case.over,
        "equal_ranks": case.unequal,
        "resume": case.not_resumed,
        "resume_elsewhere": lambda world: case.not_resumed_elsewhere(world, possible),
    }
    for rule in rules:
        if rule == "no_leakage":
            found = case.leak(possible[0], outputs) if outputs is not None else None
        else:
            found = next((why for why in map(checks[rule], possible) if why is not None), None)
        if found is not None:
            broken[rule] = found
    return broken


class _Case:
    """One packer with its sizes and limits; every method returns a sentence, or None."""

    def __init__(self, make: Make, sizes: Sizes, limits: Limits, seed: int) -> None:
        self.make, self.sizes, self.limits, self.seed = make, sizes, limits, seed
        self.items = len(next(iter(sizes.values())))
        self._read: Dict[Tuple[int, int], List[List[List[int]]]] = {}

    def packer(self, rank: int, world: int, epoch: int = 0) -> Any:
        packer = self.make(
            {name: column.copy() for name, column in self.sizes.items()}, dict(self.limits), self.seed, rank, world
        )
        packer.set_epoch(epoch)
        return packer

    def takes(self, world: int) -> bool:
        try:
            self.make(self.sizes, self.limits, self.seed, 0, world)
        except ValueError:
            return False
        return True

    def ranks(self, world: int, epoch: int = 0) -> List[List[List[int]]]:
        """Packs of every rank, read once."""
        if (world, epoch) not in self._read:
            self._read[world, epoch] = [_packs(self.packer(rank, world, epoch)) for rank in range(world)]
        return self._read[world, epoch]

    def lost_or_repeated(self, world: int) -> Optional[str]:
        for epoch in (0, 1):
            found = self.difference(_flat(self.ranks(world, epoch)), range(self.items))
            if found:
                return f"{found} in epoch {epoch} on {world} ranks"
        return None

    def difference(self, found: List[int], wanted: Sequence[int]) -> str:
        """Items that are lost or repeated, as text; empty where there are none."""
        seen, expected = (np.bincount(np.array(of, np.int64), minlength=self.items) for of in (found, wanted))
        lost, more = np.flatnonzero(seen < expected), np.flatnonzero(seen > expected)
        parts = [f"{len(lost)} items are lost, such as {lost[0]}"] if len(lost) else []
        return ", ".join(parts + ([f"{len(more)} are repeated, such as {more[0]}"] if len(more) else []))

    def wrong_length(self, world: int) -> Optional[str]:
        for rank in range(world):
            packer = self.packer(rank, world)
            try:
                stated = len(packer)
            except (TypeError, NotImplementedError, ValueError) as error:
                return f"len() raises {type(error).__name__}"
            found = len(_packs(packer))
            if stated != found:
                return f"len() is {stated} and {found} packs follow on rank {rank} of {world}"
        return None

    def changed(self, world: int) -> Optional[str]:
        for epoch in (0, 1):
            once, again = self.packer(world - 1, world, 0), self.packer(world - 1, world, epoch)
            _packs(once)  # another epoch before must not change it
            once.set_epoch(epoch)
            if _packs(once) != _packs(again):
                return f"epoch {epoch} differs between two packers of the same seed on {world} ranks"
        return None

    def over(self, world: int) -> Optional[str]:
        for rank, packs in enumerate(self.ranks(world)):
            for number, pack in enumerate(packs):
                for name, limit in self.limits.items():
                    used = sum(int(self.sizes[name][item]) for item in pack) if name in self.sizes else len(pack)
                    if used > limit:
                        return f"pack {number} of rank {rank} of {world} holds {used} {name} of {limit}"
        return None

    def unequal(self, world: int) -> Optional[str]:
        ranks = self.ranks(world)
        counts = [len(packs) for packs in ranks]
        if len(set(counts)) > 1:
            return f"ranks have {min(counts)} to {max(counts)} packs"
        return f"a pack is empty on {world} ranks" if any(not pack for packs in ranks for pack in packs) else None

    def cut(self, packs: int, world: int) -> int:
        """Packs after which a packer is interrupted."""
        return int(np.random.default_rng([self.seed, world]).integers(0, packs + 1))

    def state(self, rank: int, world: int, packs: int) -> Tuple[List[List[int]], Any]:
        """First packs, and the position after them."""
        packer = self.packer(rank, world)
        before = [list(pack) for pack in islice(iter(packer), packs)]
        return before, packer.state_dict()

    def not_resumed(self, world: int) -> Optional[str]:
        whole, following = self.ranks(world)[-1], self.ranks(world, 1)[-1]
        cut = self.cut(len(whole), world)
        try:
            _, state = self.state(world - 1, world, cut)
            packer = self.make(self.sizes, self.limits, self.seed, world - 1, world)
            packer.load_state_dict(state)
        except (AttributeError, NotImplementedError):
            return "a position cannot be saved and loaded"
        except ValueError:
            return None
        if _packs(packer) != whole[cut:]:
            return f"other packs follow after {cut} of {len(whole)} on {world} ranks"
        packer.set_epoch(1)
        return (
            None
            if _packs(packer) == following
            else f"the epoch after the one that was resumed after {cut} packs differs"
        )

    def not_resumed_elsewhere(self, world: int, worlds: Sequence[int]) -> Optional[str]:
        ranks = self.ranks(world)
        cut = self.cut(len(ranks[0]), world)
        others = [other for other in worlds if other != world]
        if not others:
            return None
        other = others[int(np.random.default_rng([self.seed, world, 1]).integers(len(others)))]
        try:
            _, state = self.state(0, world, cut)
            packers = [self.make(self.sizes, self.limits, self.seed, rank, other) for rank in range(other)]
            for packer in packers:
                packer.load_state_dict(state)
        except (AttributeError, NotImplementedError):
            return "a position cannot be saved and loaded"
        except ValueError:
            return None
        after = [_packs(packer) for packer in packers]
        where = f"after {cut} of {len(ranks[0])} packs on {world} ranks, resumed on {other}"
        found = self.difference(_flat(after), _flat([packs[cut:] for packs in ranks]))
        if found:
            return f"{found} {where}"
        counts = {len(packs) for packs in after}
        equal = all(len(set(map(len, self.ranks(one)))) == 1 for one in worlds)  # else another rule says it
        if len(counts) > 1 and equal:
            return f"ranks have {min(counts)} to {max(counts)} packs {where}"
        return None

    def leak(self, world: int, outputs: Outputs) -> Optional[str]:
        for number, pack in enumerate(self.ranks(world)[0]):
            for item, together in zip(pack, outputs(list(pack))):
                alone = np.asarray(outputs([item])[0])
                together = np.asarray(together)
                worst = float(np.abs(alone - together).max(initial=0)) if alone.shape == together.shape else np.inf
                if not worst <= 1e-4 * max(float(np.abs(alone).max(initial=0)), 1.0):
                    return f"item {item} of pack {number} differs by {worst:.2g} from itself alone"
        return None


def _packs(packer: Any) -> List[List[int]]:
    return [[int(item) for item in pack] for pack in packer]


def _flat(ranks: Sequence[Sequence[Sequence[int]]]) -> List[int]:
    return [item for packs in ranks for pack in packs for item in pack]
