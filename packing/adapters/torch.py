"""Batch sampler of packs for torch's DataLoader, also below Accelerate, Lightning and Hugging Face's Trainer."""

import hashlib
import sys
import time
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from packing.balance import Balance, cost_of_items
from packing.checks import budget_of, rank_of, seconds, whole
from packing.epoch import Epoch, reorder, spread
from packing.make_plan import make_plan
from packing.plan import PackingPlan
from packing.types import Budget

Sizes = Union[np.ndarray, Mapping[str, np.ndarray]]


class PackBatchSampler:
    """Batches of item indices, one pack each, for ``DataLoader(dataset, batch_sampler=...)``.

    Every item is in one batch of an epoch, on all ranks together; every rank has as many batches, none empty. Where
    the packs do not divide over the ranks, packs of several items are split: no item is repeated or left out.

    Accelerate deals whole batches to its processes itself, so rank and world stay 0 and 1 there. Lightning needs
    ``Trainer(use_distributed_sampler=False)`` with rank and world given here.

    Attributes:
        plan: the packing plan, the same in every process.
        budget: of the plan, with the largest number of items in a pack as ``graphs`` or ``segments``.
        epoch: the next one; one that is read to its end is followed by another.
    """

    # One pack is a batch, whatever it holds: Accelerate would cut and fill up batches of a fixed number of items. There
    # is no `drop_last` for the same reason: with it, Lightning makes the sampler anew from arguments of its own.
    def __init__(
        self,
        sizes: Optional[Sizes],
        budget: Optional[Budget],
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        balance: Optional[Balance] = None,
        multiple: int = 1,
        oversize: str = "error",
        plan: Optional[PackingPlan] = None,
        time_limit: float = 10.0,
    ) -> None:
        """Make the plan, or take one.

        Args:
            sizes: [I] integer, or {name: [I]} where the budget measures several dimensions; read once. None with
                ``plan``.
            budget: capacities of a pack; None with ``plan``.
            shuffle: deal the items anew in every epoch.
            seed: of the epochs, the same on every rank.
            rank: this process, from 0.
            world: processes that share the packs.
            balance: cost by which packs of a step are alike, see `PackingPlan.epoch`; what is left of an epoch that
                is resumed on another number of ranks keeps its order.
            multiple: of ``world`` batches that an epoch has, such as the steps that accumulate gradients.
            oversize: "error", or "skip" to leave out items larger than the budget, which a line on stderr counts.
            plan: made before, for instance `PackingPlan.load(path)`.
            time_limit: seconds for the plan.

        Raises:
            ValueError: an item is larger than the budget, sizes are malformed or not those of the plan, the packs
                cannot be divided over the ranks, or ranks might come to different plans.
        """
        rank, world = rank_of(rank, world)
        seed, multiple = whole("seed", seed), whole("multiple", multiple, 1)
        if balance is not None and not shuffle:
            raise ValueError(
                "shuffle=False keeps the order of the plan, which balance would change; leave out one of them."
            )
        self.plan = _plan(sizes, budget, oversize, time_limit, world) if plan is None else _given(plan, sizes, budget)
        self.shuffle, self.seed, self.rank, self.world = shuffle, seed, rank, world
        self.balance = None if balance is None else cost_of_items(balance, self.plan.budget, self.plan.sizes)
        self.multiple = world * multiple
        self.epoch = 0
        self._history: List[Tuple[int, int]] = []  # (multiple, packs) of this epoch that earlier runs have used
        self._loaded = False  # a position that no iteration has used yet
        self._begun = _Begun(0, [])
        self._length: Tuple[Any, int] = (None, 0)  # batches that are left at a position that was loaded
        self._shares = 1  # processes that Accelerate deals these batches to
        self._yielded: Optional[int] = None  # batches of it, None before the first and after the last
        self._check_multiple(self.plan.num_packs, self.plan.num_items)
        if len(self.plan.skipped):
            count, total = len(self.plan.skipped), len(self.plan.sizes)
            print(f"{count:,} of {total:,} items are larger than the budget and are left out.", file=sys.stderr)

    @property
    def budget(self) -> Budget:
        """Capacities of a pack, with the most items that one holds."""
        budget = self.plan.budget
        count = "segments" if budget.measured[0] == "tokens" else "graphs"
        return budget.replace(**{count: max(self.plan.max_items_per_pack, 1)})

    @property
    def sampler(self) -> "PackBatchSampler":
        """The sampler itself: Accelerate and Lightning announce an epoch to the sampler of a batch sampler."""
        return self

    @property
    def batch_size(self) -> Optional[int]:
        """None, as batches differ in their number of items; for PopTorch, which joins batches, 1, as each is a pack."""
        caller = sys._getframe(1)
        if caller.f_globals.get("__name__", "").split(".")[0] in ("poptorch", "poptorch_geometric"):
            self._meet_schedule(caller.f_locals.get("options"))
            return 1
        self._meet_shards()
        return None

    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch; one that is resumed goes on where its state was taken."""
        epoch = whole("epoch", epoch)
        if self._loaded and epoch < self.epoch:
            raise ValueError(
                f"set_epoch({epoch}) would leave the position in epoch {self.epoch} that was loaded; a loader that "
                f"counts epochs from 0 itself, as Accelerate's does, needs a set_epoch({self.epoch}) before it is read."
            )
        if epoch != self.epoch:
            self.epoch, self._history = epoch, []
        self._expect()

    def __len__(self) -> int:
        """Batches of the next iteration on this rank."""
        if self._history:
            what = self.epoch, list(self._history), self.multiple
            if self._length[0] != what:  # loaders ask often, and an epoch must be dealt to know
                self._length = what, len(self._left(self.epoch, self._history)) // self.world
            return self._length[1]
        return -(-self.plan.num_packs // self.multiple) * self.multiple // self.world

    def __iter__(self) -> Iterator[List[int]]:
        self._meet_shards()
        packs = self._left(self.epoch, self._history).shard(self.rank, self.world)
        self._begun = _Begun(self.epoch, list(self._history), len(packs))
        self._yielded, self._loaded = 0, False
        return self._batches(packs, self._begun)

    def _batches(self, epoch: Epoch, begun: "_Begun") -> Iterator[List[int]]:
        for pack in range(len(epoch)):
            if self._begun is begun:  # not an earlier iteration that is read on
                self._yielded = pack + 1
            yield epoch[pack].tolist()  # a list of its own: wrappers have been seen to append to it
        if self._begun is begun and self.epoch == begun.epoch:
            self.epoch, self._history, self._yielded = self.epoch + 1, [], None

    def state_dict(self, batches: Optional[int] = None) -> Dict[str, Any]:
        """Position, of plain values, the same on every rank after the same number of batches.

        Args:
            batches: of this process that were used since the iteration began; where a loader with workers or Accelerate
                reads ahead, only the training loop knows. None counts those that were handed out.

        Raises:
            ValueError: the iteration had fewer batches.
        """
        epoch, history = self.epoch, list(self._history)
        if batches is not None:
            epoch, history, most = self._begun.epoch, list(self._begun.history), self._begun.batches
            most = (len(self) if most is None else most) // self._shares
            if whole("batches", batches) > most:
                raise ValueError(
                    f"batches={batches}, and an iteration has {most} in each process; count from 0 when one begins."
                )
            batches = whole("batches", batches) * self._shares
        elif self._yielded is not None:
            epoch, history, batches = self._begun.epoch, list(self._begun.history), self._yielded
        if batches:
            done = batches * self.world
            before = history[-1][1] if history and history[-1][0] == self.multiple else 0
            history = [*(history[:-1] if before else history), (self.multiple, before + done)]
        return {"epoch": epoch, "used": [list(part) for part in history], **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, on any number of ranks.

        Raises:
            ValueError: it is no such state or damaged, is of other items, another budget, seed, order or balance, or
                what is left cannot be divided over the ranks.
        """
        missing = [
            name for name in ("epoch", "used", *self._identity()) if not isinstance(state, Mapping) or name not in state
        ]
        if missing:
            raise ValueError(f"this is no position of a PackBatchSampler: it has no {', '.join(missing)}.")
        for name, value in self._identity().items():
            if state[name] != value:
                what = "plan, of other item sizes or another budget," if name == "plan" else name
                raise ValueError(
                    f"the saved position was taken with another {what} ({state[name]}, now {value}), so items would be "
                    "lost or repeated; use the earlier one, or begin a new epoch with set_epoch()."
                )
        try:
            history = [(whole("multiple", multiple, 1), whole("packs", packs)) for multiple, packs in state["used"]]
        except (TypeError, ValueError) as error:
            raise ValueError(f"the saved position is damaged, used={state['used']!r} ({error}).") from error
        epoch = whole("epoch", state["epoch"])
        self._left(epoch, history)  # raises here rather than in the first iteration
        self.epoch, self._history, self._loaded = epoch, history, True
        self._expect()

    def _expect(self) -> None:
        """Take the position for that of the next iteration, of which no batch was used."""
        self._yielded = None
        if (self._begun.epoch, self._begun.history) != (self.epoch, self._history):
            self._begun = _Begun(self.epoch, list(self._history))

    def _identity(self) -> Dict[str, Any]:
        """Everything but the position that decides who is in which batch."""
        costs = None if self.balance is None else hashlib.blake2b(self.balance.tobytes(), digest_size=8).hexdigest()
        return {
            "plan": self.plan.fingerprint,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "balance": costs,
        }

    def _left(self, epoch: int, history: List[Tuple[int, int]]) -> Epoch:
        """The packs of an epoch that are left, a multiple of what all ranks need."""
        multiple = history[0][0] if history else self.multiple
        if self.shuffle:
            packs = self.plan.epoch(self.seed, epoch, multiple, self.balance)
        else:
            packs = self.plan.in_order(multiple)
        packs = split_for_empty(packs, multiple)
        for place, (multiple, used) in enumerate(history):
            if used > len(packs):
                raise ValueError(f"the saved position is damaged: {used} packs were used of {len(packs)}.")
            packs = Epoch(*packs.slice(used, len(packs)))
            following = history[place + 1][0] if place + 1 < len(history) else self.multiple
            if following != multiple:
                self._check_multiple(len(packs), len(packs.items))
                packs = reorder(packs.items, packs.offsets, spread(np.arange(len(packs)), following))
                packs = split_for_empty(packs, following)
        return packs

    def _check_multiple(self, packs: int, items: int, multiple: Optional[int] = None) -> None:
        multiple = self.multiple if multiple is None else multiple
        if -packs % multiple > items - packs:
            raise ValueError(
                f"{packs} packs of {items} items do not divide over {multiple} batches a step, and too few hold "
                "several items to be split; use fewer ranks, or a smaller multiple."
            )

    def _meet_schedule(self, options: Any) -> None:
        """Have as many batches as calls of a PopTorch program take, which drops what is left over."""
        if options is not None:
            multiple = int(np.lcm(self.multiple, self.world * batches_per_call(options)))
            self._check_multiple(self.plan.num_packs, self.plan.num_items, multiple)
            self.multiple = multiple

    def _meet_shards(self) -> None:
        """Notice Accelerate, which deals batches to processes: refuse to be dealt twice, or have as many as it needs.

        It repeats batches where they do not divide.

        Raises:
            ValueError: the batches are those of one rank already, or would be cut.
        """
        caller = sys._getframe(2)
        if not caller.f_globals.get("__name__", "").startswith("accelerate"):
            return
        if caller.f_locals.get("split_batches"):
            raise ValueError("Accelerate's split_batches=True cuts batches, so packs would be torn; leave it False.")
        processes = getattr(caller.f_locals.get("self"), "num_processes", 1)
        if processes == 1:
            return
        if self.world > 1:
            raise ValueError(
                f"Accelerate deals the batches of rank {self.rank} of {self.world} to {processes} processes again, so "
                "most would be lost; give PackBatchSampler rank=0, world=1, or keep this loader out of prepare()."
            )
        self._shares = processes
        multiple = int(np.lcm(self.multiple, processes))
        if multiple != self.multiple:
            self.multiple = multiple
            self._check_multiple(self.plan.num_packs, self.plan.num_items)


class _Begun(NamedTuple):
    """Position at which an iteration began, and its batches on this rank; None before there was one."""

    epoch: int
    history: List[Tuple[int, int]]
    batches: Optional[int] = None


def split_for_empty(packs: Epoch, step: int) -> Epoch:
    """The same items with none of the packs empty: each empty one takes half of one of its step with most items.

    Args:
        packs: some of them empty.
        step: packs that are used at once.
    """
    lengths = np.diff(packs.offsets)
    empty = np.flatnonzero(lengths == 0)
    if not len(empty):
        return packs
    taken, counts = [], []
    surplus = len(packs.items) - (len(packs) - len(empty))  # items that packs can do without
    for left, pack in zip(range(len(empty) - 1, -1, -1), empty.tolist()):
        first = pack // step * step
        donor = first + int(lengths[first : first + step].argmax())
        if lengths[donor] < 2:
            donor = int(lengths.argmax())
        end, count = int(packs.offsets[donor] + lengths[donor]), min(int(lengths[donor]) // 2, surplus - left)
        assert count > 0, "the callers have counted the items"
        lengths[donor] -= count
        surplus -= count
        taken.append(np.arange(end - count, end))
        counts.append(count)
    moved = np.concatenate(taken)
    offsets = np.append(0, np.cumsum(lengths))
    items = np.insert(np.delete(packs.items, moved), np.repeat(offsets[empty], counts), packs.items[moved])
    lengths[empty] = counts
    return Epoch(items, np.append(0, np.cumsum(lengths)))


def batches_per_call(options: Any) -> int:
    """Batches of one process that a call of a PopTorch program takes: device iterations x replicas x accumulation."""
    return int(options.device_iterations * options.replication_factor * options.Training.gradient_accumulation)


def _given(plan: Any, sizes: Optional[Sizes], budget: Optional[Budget]) -> PackingPlan:
    """A plan made before, for these sizes and this budget where they are given, too."""
    if not isinstance(plan, PackingPlan):
        raise ValueError(f"plan={plan!r} is no PackingPlan; PackingPlan.load(path) reads one.")
    if budget is not None and budget_of(budget) != plan.budget:
        raise ValueError(f"the plan is for a budget of {plan.budget}, not {budget}; give budget=None, or no plan.")
    if sizes is not None:
        plan.check(sizes)
    return plan


def _plan(
    sizes: Optional[Sizes], budget: Optional[Budget], oversize: str, time_limit: float, world: int
) -> PackingPlan:
    if sizes is None or budget is None:
        raise ValueError("PackBatchSampler needs sizes and a budget, or a plan.")
    time_limit = seconds("time_limit", time_limit)
    started = time.monotonic()
    made = make_plan(sizes, budget, oversize=oversize, time_limit=time_limit)
    # Best fit may stop at half of the limit: from there on the clock, another on each rank, decides.
    if world > 1 and time.monotonic() - started > time_limit / 2:
        raise ValueError(
            f"the plan took most of its time limit of {time_limit:g} s, so ranks may have different ones; make it once "
            "with make_plan(sizes, budget).save('plan.npz'), and give every rank plan=PackingPlan.load('plan.npz')."
        )
    return made
