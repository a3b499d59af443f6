"""The conformance suite: packers that break one rule each fail it alone, one that keeps all passes."""

import numpy as np
import pytest
from packing_conformance import ours

from packing.testing import RULES, Refused, conform, failures, random_cases

SIZES = {"nodes": np.random.default_rng(0).integers(1, 9, 60)}
LIMITS = {"nodes": 16, "graphs": 5}


class NextFit:
    """A packer that keeps all rules: next fit in a shuffled order, packs split until the ranks divide them."""

    def __init__(self, sizes, limits, seed, rank, world):
        self.sizes, self.limits, self.seed, self.rank, self.world = sizes, limits, seed, rank, world
        self.epoch, self.history, self.step = 0, [], 0
        for epoch in (0, 1):
            self.even(self.all_packs(epoch), world)

    def all_packs(self, epoch):
        packs, pack = [], []
        for item in np.random.default_rng([self.seed, epoch]).permutation(len(next(iter(self.sizes.values())))):
            over = any(
                self.sizes[name][[*pack, item]].sum() > most if name in self.sizes else len(pack) == most
                for name, most in self.limits.items()
            )
            if over:
                packs, pack = [*packs, pack], []
            pack.append(int(item))
        return [*packs, pack] if pack else packs

    def even(self, packs, world):
        while len(packs) % world:
            longest = max(packs, key=len)
            if len(longest) < 2:
                raise ValueError("too few items")
            packs = [pack for pack in packs if pack is not longest] + [longest[:1], longest[1:]]
        return packs

    def left(self):
        packs = self.all_packs(self.epoch)
        for world, used in self.history:
            packs = self.even(packs, world)[used:]
        return self.even(packs, self.world)

    def set_epoch(self, epoch):
        self.epoch, self.history, self.step = epoch, self.history if epoch == self.epoch else [], 0

    def __len__(self):
        return len(self.left()[self.rank :: self.world])

    def __iter__(self):
        for pack in self.left()[self.rank :: self.world]:
            self.step += 1
            yield pack

    def state_dict(self):
        return {"epoch": self.epoch, "history": [*self.history, (self.world, self.step * self.world)]}

    def load_state_dict(self, state):
        self.epoch, self.history = state["epoch"], state["history"]
        self.left()


class Loses(NextFit):
    def all_packs(self, epoch):
        return super().all_packs(epoch)[1:]


class Repeats(NextFit):
    def all_packs(self, epoch):
        packs = super().all_packs(epoch)
        return [*packs, list(packs[0])]


class Overstates(NextFit):
    def __len__(self):
        return super().__len__() + 1


class Drifts(NextFit):
    """Epochs depend on how many were read before, as with a generator that is never seeded again."""

    read = 0

    def all_packs(self, epoch):
        return super().all_packs(epoch + 100 * self.read)

    def __iter__(self):
        yield from super().__iter__()
        self.read += not self.history


class Overfull(NextFit):
    def all_packs(self, epoch):
        self.limits, kept = {name: 2 * most for name, most in self.limits.items()}, self.limits
        packs = super().all_packs(epoch)
        self.limits = kept
        return packs


class Uneven(NextFit):
    def even(self, packs, world):
        return packs


class Restarts(NextFit):
    def load_state_dict(self, state):
        *before, (world, used) = state["history"]
        super().load_state_dict({**state, "history": [*before, (world, used // 2 if world == self.world else used)]})


class Forgets(NextFit):
    def load_state_dict(self, state):
        *before, (world, used) = state["history"]
        super().load_state_dict({**state, "history": [*before, (world, used if world == self.world else used // 2)]})


def test_a_packer_that_keeps_all_rules_passes():
    assert failures(NextFit, SIZES, LIMITS) == {}
    assert conform(NextFit, cases=5) > 0


def test_ours_keeps_all_rules():
    assert conform(ours, cases=12, seed=3) >= 8


@pytest.mark.parametrize(
    ("packer", "rule", "words"),
    [
        (Loses, "every_item_once", "are lost"),
        (Repeats, "every_item_once", "are repeated"),
        (Overstates, "exact_length", "len() is"),
        (Drifts, "determinism", "epoch 0 differs"),
        (Overfull, "limits", " of 16"),
        (Uneven, "equal_ranks", "ranks have"),
        (Restarts, "resume", "other packs follow after"),
        (Forgets, "resume_elsewhere", "are repeated"),
    ],
)
def test_a_broken_packer_fails_its_rule_alone(packer, rule, words):
    found = failures(packer, SIZES, LIMITS, seed=1)
    assert list(found) == [rule] and words in found[rule]
    with pytest.raises(AssertionError, match=f"{rule} .*{RULES[rule][-20:]}"):
        conform(packer, cases=5)


def alone(pack):
    return [np.cos(SIZES["nodes"][[item]]) for item in pack]


def leaking(pack):
    return [one + sum(pack) - pack[0] for one in alone(pack)]


def test_results_that_depend_on_the_pack_are_found():
    assert failures(NextFit, SIZES, LIMITS, outputs=alone) == {}
    found = failures(NextFit, SIZES, LIMITS, outputs=leaking)
    assert list(found) == ["no_leakage"] and "from itself alone" in found["no_leakage"]


def test_a_packer_without_positions_and_cases_that_it_refuses():
    class Positionless(NextFit):
        def state_dict(self):
            raise NotImplementedError

    found = failures(Positionless, SIZES, LIMITS)
    assert found == dict.fromkeys(("resume", "resume_elsewhere"), "a position cannot be saved and loaded")

    def refuses(*arguments):
        raise ValueError("no")

    with pytest.raises(Refused):
        failures(refuses, SIZES, LIMITS)
    with pytest.raises(AssertionError, match="all of 3 cases were refused"):
        conform(refuses, cases=3)
    with pytest.raises(ValueError, match="unknown rule 'speed'"):
        failures(NextFit, SIZES, LIMITS, rules=("speed",))


def test_cases_keep_their_limits():
    seen = set()
    for sizes, limits in random_cases(60, seed=5):
        assert all((column <= limits[name]).all() for name, column in sizes.items()) and sizes["nodes"].all()
        seen.add(tuple(limits))
    assert ("nodes",) in seen and ("nodes", "edges") in seen and ("nodes", "graphs") in seen
