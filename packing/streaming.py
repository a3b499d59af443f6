"""Packing a stream: molecules come in one by one or in chunks, packs go out, memory stays bounded.

A buffer of items is packed with the patterns of column generation; only packs that the linear program
uses wholly leave, the rest waits for better company. Patterns found for one buffer start the next.
"""

from typing import Any, Dict, List, Mapping, Optional, Union

import numpy as np

from packing import column_generation
from packing.best_fit import fit_decreasing
from packing.checks import budget_of, whole
from packing.classes import PackTypes, SizeClasses, deal, distinct_rows, round_sizes, size_classes
from packing.epoch import Epoch, reorder
from packing.make_plan import continuous_bound
from packing.plan import size_table
from packing.rounding import round_up, without_surplus
from packing.types import Budget, offsets_of

# More size classes than this would cost more time than a few microseconds per item.
_MAX_CLASSES = 250
_MAX_PATTERNS = 1500
_FIRST_ROUNDS = 100
_LATER_ROUNDS = 1
_NEARLY_FULL = 0.995
_SECONDS = 60.0  # for safety alone: packs of a stream must not depend on the clock
# Packs of this many items have room for something small at the end: best fit fills them, while the tables of
# the linear program grow with the pack.
_MANY_ITEMS = 32
# Rounding sizes up by more than this costs more packs than column generation saves.
_INFLATION = 1.04
_NEEDED = ("budget", "buffer_size", "ids", "sizes", "round_to", "known", "patterns", "random")  # of a state


class StreamPacker:
    """Packs items as they arrive.

    Example:
        packer = StreamPacker(Budget(nodes=128))
        for ids, sizes in chunks:
            for pack in packer.push(ids, sizes): ...
        for pack in packer.flush(): ...

        packer = StreamPacker(Budget(tokens=512), weights={"drugs": 3, "materials": 1})
        while packer.wanted is not None:
            ids, sizes = next(readers[packer.wanted], (None, None))
            if ids is None:
                packer.end(packer.wanted)
            else:
                for pack in packer.push(ids, sizes, packer.wanted): ...
    """

    def __init__(
        self,
        budget: Budget,
        buffer_size: int = 10_000,
        algorithm: str = "auto",
        seed: int = 0,
        weights: Optional[Mapping[str, float]] = None,
        max_wait: Optional[int] = None,
    ) -> None:
        """Set up an empty buffer.

        Args:
            budget: capacities of a pack.
            buffer_size: items that wait at most before packs are made.
            algorithm: "column_generation", "best_fit" or "auto" (the former where scipy is installed).
            seed: decides the order in which packs leave.
            weights: {corpus: its part of the nodes or tokens}, any scale; `wanted` names the one to read from next.
            max_wait: an item leaves before more than this many others have been pushed after it, and so, a push
                bringing one or more, after no more pushes; None lets rare sizes wait for company that fits.

        Raises:
            ValueError: unknown algorithm, missing scipy, a number that is none or too small, or no positive weights.
        """
        if algorithm not in ("auto", "column_generation", "best_fit"):
            raise ValueError(f"unknown streaming algorithm {algorithm!r}; choose auto, column_generation or best_fit.")
        buffer_size, seed = whole("buffer_size", buffer_size, 1), whole("seed", seed)
        if algorithm == "column_generation" and not column_generation.available():
            raise ValueError("algorithm='column_generation' needs scipy >= 1.9: pip install scipy.")
        self.budget = budget_of(budget)
        self.buffer_size = buffer_size
        self.max_wait = None if max_wait is None else whole("max_wait", max_wait, 1)
        self.weights = None if weights is None else _weights(weights)
        self._taken = dict.fromkeys(self.weights or {}, 0)  # nodes or tokens of every corpus
        self._ended: List[str] = []
        self._pushed = 0
        self._arrived = np.zeros(0, np.int64)  # items pushed before each one that waits
        self.linear = algorithm != "best_fit" and column_generation.available()
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._ids = np.zeros(0, np.int64)
        self._sizes = np.zeros((0, len(budget.measured)), np.int32)
        self._round_to = 1
        # Patterns by size, not by class number, because every buffer has its own classes.
        self._known = np.zeros((0, len(budget.names)), np.int64)
        self._patterns = np.zeros((0, 0), np.int32)

    def push(
        self,
        ids: np.ndarray,
        sizes: Union[np.ndarray, Mapping[str, np.ndarray]],
        corpus: Optional[str] = None,
    ) -> Epoch:
        """Take items in; returns the packs that are ready (often none), as ids.

        Args:
            ids: [k] integer names of the items.
            sizes: [k] integer, or {name: [k]} for several measured dimensions.
            corpus: that they are from, one of ``weights``.

        Raises:
            ValueError: an item is larger than the budget, ids are no integers or not as many as sizes, or the corpus
                has no weight.
        """
        if (corpus is None) != (self.weights is None) or (corpus is not None and corpus not in list(self._taken)):
            there = "none was given weights" if self.weights is None else f"there are {', '.join(self.weights)}"
            raise ValueError(f"items of corpus {corpus!r} were pushed; {there}.")
        table = size_table(sizes, self.budget)
        ids = _numbers(ids)
        if len(ids) != len(table):
            raise ValueError(f"{len(ids)} ids were pushed with {len(table)} sizes; push one of each for every item.")
        limits = np.array([self.budget[name] for name in self.budget.measured])
        if (table > limits).any():
            item = int(np.argmax((table > limits).any(1)))
            size = ", ".join(f"{value} {name}" for name, value in zip(self.budget.measured, table[item]))
            raise ValueError(
                f"item {ids[item]} ({size}) is larger than the budget ({self.budget}); leave it out, or raise the "
                "budget."
            )
        if corpus is not None:
            self._taken[corpus] += int(table[:, 0].sum())
        ready = []
        while len(ids):
            # Packs leave whenever the buffer is exactly full, so they do not depend on how pushes are cut.
            room = self.buffer_size - len(self._ids)
            if self.max_wait is not None:
                oldest = int(self._arrived[0]) if len(self._arrived) else self._pushed
                room = min(room, oldest + self.max_wait + 1 - self._pushed)
            took = len(ids[:room])
            self._ids = np.concatenate([self._ids, ids[:room]])
            self._sizes = np.concatenate([self._sizes, table[:room]])
            self._arrived = np.concatenate([self._arrived, np.arange(self._pushed, self._pushed + took)])
            self._pushed += took
            ids, table = ids[room:], table[room:]
            if took == room:
                ready.append(self._emit())
                if self.max_wait is not None:
                    ready.append(self._emit_old(self._pushed - 1 - self.max_wait // 2))
        return _join(ready)

    def end(self, corpus: str) -> None:
        """Say that a corpus has no more items: `wanted` names the others from now on."""
        if corpus not in list(self._taken):
            raise ValueError(f"corpus {corpus!r} has no weight; there are {', '.join(self._taken) or 'none'}.")
        self._ended.append(corpus)

    @property
    def wanted(self) -> Optional[str]:
        """The corpus that is furthest behind its weight; None when all have ended, or none has a weight."""
        weights = self.weights or {}
        left = [name for name in weights if name not in self._ended]
        return min(left, key=lambda name: self._taken[name] / weights[name]) if left else None

    def flush(self) -> Epoch:
        """Pack everything that still waits."""
        return self._emit(everything=True) if len(self._ids) else _join([])

    @property
    def waiting(self) -> int:
        """Items in the buffer."""
        return len(self._ids)

    def state_dict(self) -> Dict[str, Any]:
        """Everything that decides the packs still to come, as arrays and plain values."""
        return {
            "budget": self.budget.as_dict(),
            "buffer_size": self.buffer_size,
            "max_wait": self.max_wait,
            "weights": self.weights,
            "taken": dict(self._taken),
            "ended": list(self._ended),
            "pushed": self._pushed,
            "arrived": self._arrived.copy(),
            "ids": self._ids.copy(),
            "sizes": self._sizes.copy(),
            "round_to": self._round_to,
            "known": self._known.copy(),
            "patterns": self._patterns.copy(),
            "linear": self.linear,
            "random": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: it is no state of a stream, is damaged, or of one with another budget, buffer size, algorithm,
                bound or weights.
        """
        missing = [name for name in _NEEDED if not isinstance(state, Mapping) or name not in state]
        if missing:
            raise ValueError(f"this is no state of a StreamPacker: it has no {', '.join(missing)}.")
        if state["budget"] != self.budget.as_dict() or state["buffer_size"] != self.buffer_size:
            raise ValueError(
                f"the saved stream has budget {state['budget']} and buffer {state['buffer_size']}, "
                f"this one {self.budget.as_dict()} and {self.buffer_size}; make it like the saved one."
            )
        for name in ("max_wait", "weights"):
            if state.get(name) != getattr(self, name):
                raise ValueError(
                    f"the saved stream has {name}={state.get(name)}, this one {getattr(self, name)}; make it like the "
                    "saved one."
                )
        if state.get("linear", self.linear) != self.linear:
            names = {True: "column_generation", False: "best_fit"}
            raise ValueError(
                f"the saved stream packs by {names[not self.linear]}, this one by {names[self.linear]}; pass "
                f"algorithm={names[not self.linear]!r}, or its packs would be others."
            )
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the saved stream is damaged ({error}); take an earlier one.") from error

    def _load(self, state: Mapping[str, Any]) -> None:
        measured, waiting = len(self.budget.measured), len(state["ids"])
        # Earlier versions did not count arrivals: as if all had just come.
        ids, arrived = _numbers(state["ids"]), np.array(state.get("arrived", np.arange(waiting)), np.int64)
        sizes = size_table(
            dict(zip(self.budget.measured, np.array(state["sizes"], np.int64).reshape(waiting, measured).T)),
            self.budget,
        )
        known = np.array(state["known"], np.int64).reshape(-1, len(self.budget.names))
        patterns = np.array(state["patterns"], np.int32)
        patterns = patterns.reshape(len(patterns), len(known))
        limits = [self.budget[name] for name in self.budget.measured]
        if not len(ids) == len(arrived) == len(sizes) <= self.buffer_size or (sizes > limits).any():
            raise ValueError(f"{waiting} ids, {len(sizes)} sizes, {len(arrived)} arrivals, or an item above the budget")
        self._random.bit_generator.state = state["random"]
        self._ids, self._sizes, self._arrived = ids, sizes, arrived
        self._known, self._patterns, self._round_to = known, patterns, whole("round_to", state["round_to"], 1)
        self._pushed = whole("pushed", state.get("pushed", waiting), waiting)
        self._taken, self._ended = dict(state.get("taken", {})), list(state.get("ended", []))

    def _emit(self, everything: bool = False) -> Epoch:
        """Pack the buffer and let the good packs go, or all; at least half of the items leave."""
        exact = size_classes(self._sizes, self.budget)
        bound = continuous_bound(exact, self.budget)
        linear = self.linear and len(self._ids) < _MANY_ITEMS * bound
        classes = round_sizes(exact, self.budget, self._round_to) if linear and self._round_to > 1 else exact
        while linear and self._too_fine(classes):
            self._round_to *= 2
            classes = round_sizes(exact, self.budget, self._round_to)
        types = None
        if continuous_bound(classes, self.budget) > _INFLATION * bound:
            classes = exact
        elif linear:
            types = self._whole_packs(classes, everything)
        if types is None or 2 * int(types.items.sum()) < len(self._ids):
            types = fit_decreasing(classes, self.budget.capacities())
            types = types if everything else _fullest(types, classes, self.budget)
        slots, offsets = deal(types, classes.of_item, None)
        # Packs of one type are made together but must not leave together.
        packs = reorder(self._ids[slots], offsets, self._random.permutation(types.num_packs))
        self._let_go(slots)
        return packs

    def _emit_old(self, last: int) -> Epoch:
        """Packs, filled up with others, of all items up to the ``last`` that were pushed."""
        if not len(self._ids) or self._arrived[0] > last:
            return _join([])
        classes = size_classes(self._sizes, self.budget)
        types = fit_decreasing(classes, self.budget.capacities())
        slots, offsets = deal(types, classes.of_item, None)  # the first of a size come first
        go = np.flatnonzero(np.logical_or.reduceat(self._arrived[slots] <= last, offsets[:-1]))
        packs = reorder(slots, offsets, self._random.permutation(go))
        chosen = Epoch(self._ids[packs.items], packs.offsets)
        self._let_go(packs.items)
        return chosen

    def _let_go(self, slots: np.ndarray) -> None:
        """Take items out of the buffer by their places in it."""
        waits = np.ones(len(self._ids), bool)
        waits[slots] = False
        self._ids, self._sizes, self._arrived = self._ids[waits], self._sizes[waits], self._arrived[waits]

    def _too_fine(self, classes: SizeClasses) -> bool:
        """True if rounding sizes up further would still help."""
        widest = max((self.budget[name] for name in self.budget.measured[1:]), default=0)
        many = len(classes.counts) > _MAX_CLASSES or not column_generation.affordable(classes, self.budget)
        return many and self._round_to < widest

    def _whole_packs(self, classes: SizeClasses, everything: bool) -> PackTypes:
        """The packs that the linear program over this buffer uses an integer number of times, or packs for all."""
        start = self._recall(classes)
        if not column_generation.affordable(classes, self.budget):
            return PackTypes.from_rows([], len(classes.counts))
        # The first buffer finds the patterns; the later ones are like it and only add a few.
        first = len(start) == 0
        rounds = _FIRST_ROUNDS if first else _LATER_ROUNDS
        relaxation = column_generation.relax(classes, self.budget, start, _SECONDS, rounds, prove=first)
        self._remember(classes, relaxation)
        if everything:
            # A deadline in the past leaves out the integer program, whose answer may depend on the clock.
            return round_up(relaxation, classes, self.budget, deadline=0.0, target=0)
        whole = np.floor(relaxation.amounts + 1e-7).astype(np.int64)
        whole = without_surplus(relaxation.patterns, whole, classes.counts)
        return PackTypes.from_rows(list(zip(whole.tolist(), relaxation.patterns)), len(classes.counts))

    def _recall(self, classes: SizeClasses) -> np.ndarray:
        """Earlier patterns in terms of this buffer's classes; items of absent classes are left out."""
        place = {tuple(size): index for index, size in enumerate(self._known.tolist())}
        columns = [place.get(tuple(size), -1) for size in classes.sizes.tolist()]
        padded = np.concatenate([self._patterns, np.zeros((len(self._patterns), 1), np.int32)], 1)
        rows = padded[:, columns]
        return distinct_rows(rows[rows.any(1)])

    def _remember(self, classes: SizeClasses, relaxation: column_generation.Relaxation) -> None:
        """Keep this buffer's patterns for the next one, the used ones first when there are too many."""
        order = np.argsort(-relaxation.amounts, kind="stable")[:_MAX_PATTERNS]
        self._known, self._patterns = classes.sizes, relaxation.patterns[order]


def _weights(weights: Any) -> Dict[str, float]:
    try:
        found = {name: float(weight) for name, weight in weights.items()}
        right = bool(found) and all(0 < weight < np.inf for weight in found.values())
    except (AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(f"weights={weights!r}: give every corpus a weight above 0, such as {{'a': 3, 'b': 1}}.")
    return found


def _numbers(ids: Any) -> np.ndarray:
    """Ids as integers, [k] int64."""
    found = np.asarray(ids)
    found = found.astype(np.int64) if found.shape == (0,) else found
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found.dtype == np.uint64 and found.max(initial=0) >= 2**63):
        raise ValueError(
            f"ids are one integer per item, not {found.dtype} of shape {found.shape}; number the items, for instance "
            "with np.arange, and keep a list of their names."
        )
    return found.astype(np.int64)


def _fullest(types: PackTypes, classes: SizeClasses, budget: Budget) -> PackTypes:
    """The fullest packs: all that are nearly full, and as many as it takes to hold half of the items."""
    primary = classes.sizes[:, budget.names.index(budget.measured[0])]
    fill = np.add.reduceat(types.copies * primary[types.classes], types.starts[:-1]) / budget[budget.measured[0]]
    order = np.argsort(-fill, kind="stable")
    items = (types.sizes * types.counts)[order].cumsum()
    enough = int(np.searchsorted(items, classes.counts.sum() / 2)) + 1
    return types.take(order[: max(enough, int((fill >= _NEARLY_FULL).sum()))])


def _join(pieces: List[Epoch]) -> Epoch:
    """One run of packs out of several."""
    items = np.concatenate([piece.items for piece in pieces] or [np.zeros(0, np.int64)])
    lengths = np.concatenate([np.diff(piece.offsets) for piece in pieces] or [np.zeros(0, np.int64)])
    return Epoch(items, offsets_of(lengths))
