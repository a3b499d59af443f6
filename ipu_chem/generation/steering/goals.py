"""Goals of steering, and how molecules of each are drawn: scaffold, decoration, linker, motif.

A goal draws texts and says which molecules hold what was given; `steer` draws until enough do. Random numbers of a
text follow from the seed and its place alone.
"""

from functools import partial
from typing import Any, List, Optional, Tuple

import numpy as np

from ipu_chem.generation.sampling import Samples
from ipu_chem.generation.steering.fragments import needs_points, read_fragment
from ipu_chem.generation.steering.sampler import Drawn, Sampler, merged
from ipu_chem.generation.steering.writing import likeliest_of_each, put_in, respelled, starts_of, tails_of
from ipu_chem.parallel import in_parallel

LOST = "what was given is not in it, or is changed"
LONG = "no room for more tokens"
CUT = "cut at the most tokens allowed before it was whole"
_PAIRS = 24  # of atoms where a motif begins and ends


class Goal:
    """A kind of steering.

    Attributes:
        option: as it is typed.
    """

    option = ""

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """N texts that are meant to hold what was given."""
        raise NotImplementedError

    def holds(self, mol: Any) -> bool:
        """Test if a molecule holds what was given, unchanged."""
        raise NotImplementedError


class Scaffold(Goal):
    """Molecules that contain a scaffold and begin with it; they grow from one of its atoms."""

    option = "--scaffold"

    def __init__(self, text: str, sampler: Sampler) -> None:
        """Read a scaffold and spell it once for every atom that it can grow from.

        Raises:
            ValueError: it is none, none of its atoms has a hydrogen to give, or the vocabulary cannot write it.
        """
        self.fragment = read_fragment(self.option, text)
        self.starts = starts_of(self.option, self.fragment, self.fragment.open_atoms(), sampler)

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`; where it grows from is drawn, too."""
        chosen = (uniform_of(seed, 0, count) * len(self.starts)).astype(int)
        return Drawn(sampler.go_on([self.starts[one] for one in chosen], seed_of(seed, 1)), [""] * count)

    def holds(self, mol: Any) -> bool:
        """See `Goal.holds`."""
        return any(True for _ in self.fragment.matches(mol, free=self.fragment.points.values()))


class Decoration(Goal):
    """Molecules of a scaffold with something at every marked point and nothing else.

    Points grow one after the other, by their numbers: a molecule is spelled anew with the next point at its end, so
    that each side chain is drawn given all others. The log-likelihood is that of the last spelling.
    """

    option = "--decorate"

    def __init__(self, text: str, sampler: Sampler) -> None:
        """Read a scaffold with one or more attachment points.

        Raises:
            ValueError: see `Scaffold`; also one without attachment points.
        """
        self.fragment = needs_points(self.option, read_fragment(self.option, text), 1)
        self.order = [self.fragment.points[number] for number in sorted(self.fragment.points)]
        self.start = starts_of(self.option, self.fragment, self.order[:1], sampler)[0]

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`."""
        drawn = Drawn(sampler.go_on([self.start] * count, seed_of(seed, 0)), [""] * count)
        for step in range(1, len(self.order)):
            samples, reasons = drawn
            reasons = [reason or ("" if done else CUT) for reason, done in zip(reasons, samples.finished)]
            going = [place for place, reason in enumerate(reasons) if not reason]
            respell = partial(respelled, fragment=self.fragment, grown=self.order[:step], point=self.order[step])
            texts = [(samples.texts[place], seed_of(seed, step, place)) for place in going]
            found = list(in_parallel(respell, texts, sampler.workers))
            kept, starts = [], []
            for place, start in zip(going, likeliest_of_each(found, sampler)):
                if start is None:
                    reasons[place] = LOST
                elif not sampler.fits(start):
                    reasons[place] = LONG
                else:
                    kept.append(place)
                    starts.append(start)
            if not kept:
                return merged(count, [], _NOTHING, reasons)
            drawn = merged(count, kept, sampler.go_on(starts, seed_of(seed, step)), reasons)
        return drawn

    def holds(self, mol: Any) -> bool:
        """See `Goal.holds`."""
        return any(True for _ in self.fragment.matches(mol, grown=self.order))


class Linker(Goal):
    """Molecules of two fragments and something between their marked points.

    A molecule is begun with one of both, by chance, and drawn to its end; the other takes the place of what stands
    behind one of its atoms, drawn by the likelihood of the fragment and of the end of the molecule there.
    """

    option = "--linker"

    def __init__(self, text: str, sampler: Sampler) -> None:
        """Read two fragments with one attachment point each, as in "c1ccccc1[*:1].C1CCNC1[*:2]".

        Raises:
            ValueError: see `Scaffold`; also another number of fragments or of attachment points.
        """
        parts = text.split(".")
        if len(parts) != 2:
            raise ValueError(
                f"{self.option} {text}: give two fragments with a dot between them, each with an attachment point, as "
                f'in {self.option} "c1ccccc1[*:1].C1CCNCC1[*:2]".'
            )
        fragments = [needs_points(self.option, read_fragment(self.option, part), 1, 1) for part in parts]
        self.fragments = fragments
        self.points = [one.open_atoms()[0] for one in fragments]
        self.starts = [starts_of(self.option, one, [point], sampler)[0] for one, point in zip(fragments, self.points)]
        self.tails = []
        for side, (fragment, point) in enumerate(zip(fragments, self.points)):
            tails = tails_of(self.option, fragment, [(point, None)], sampler)
            best = sampler.likeliest([np.concatenate([self.starts[1 - side], tail]) for tail in tails])
            self.tails.append(tails[best])

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`."""
        first = (uniform_of(seed, 0, count) * 2).astype(int)
        starts = [self.starts[one] for one in first]
        samples = sampler.go_on(starts, seed_of(seed, 1))
        tails = [self.tails[1 - one] for one in first]
        # A linker has one atom or more: the first place is behind the first symbol that was drawn.
        least = [len(start) - len(sampler.leading) + 1 for start in starts]
        kept, texts = put_in(samples, least, tails, True, sampler, uniform_of(seed, 2, count))
        if not kept:
            return merged(count, [], _NOTHING, LONG)
        _, nats = sampler.log_likelihoods(texts, [1] * len(texts))
        selfies = [sampler.tokenizer.decode(text) for text in texts]
        return merged(count, kept, Samples(selfies, np.ones(len(kept), bool), nats), LONG)

    def holds(self, mol: Any) -> bool:
        """See `Goal.holds`; the fragments share no atom and no bond."""
        a, b = self.fragments
        for mine in a.matches(mol, grown=self.points[:1]):
            for other in b.matches(mol, grown=self.points[1:]):
                ends = mine[self.points[0]], other[self.points[1]]
                if not set(mine) & set(other) and mol.GetBondBetweenAtoms(*ends) is None:
                    return True
        return False


class Motif(Goal):
    """Molecules that contain a motif somewhere.

    A free molecule is drawn, and the motif takes the place of what stands behind one of its atoms, or all of it, drawn
    by the likelihood of the motif there; the model then goes on from another atom of the motif.
    """

    option = "--motif"

    def __init__(self, text: str, sampler: Sampler) -> None:
        """Read a motif; with one or two marked points it hangs on these alone.

        Raises:
            ValueError: see `Scaffold`; also more than two attachment points.
        """
        self.fragment = needs_points(self.option, read_fragment(self.option, text), 0, 2)
        atoms = self.fragment.open_atoms()
        pairs: List[Tuple[int, Optional[int]]] = [(a, b) for a in atoms for b in atoms]
        if self.fragment.points:
            pairs = [(a, b) for a, b in pairs if a != b] or [(atoms[0], None)]
        few = np.random.default_rng(0).permutation(len(pairs))[:_PAIRS]
        self.ends = len(self.fragment.points) == 1
        self.tails = tails_of(self.option, self.fragment, [pairs[one] for one in sorted(few)], sampler, most=1)

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`."""
        samples = sampler.go_on([sampler.leading] * count, seed_of(seed, 0))
        tails = [self.tails[one] for one in (uniform_of(seed, 1, count) * len(self.tails)).astype(int)]
        least = [int(bool(self.fragment.points))] * count
        kept, texts = put_in(samples, least, tails, self.ends, sampler, uniform_of(seed, 2, count))
        if not kept:
            return merged(count, [], _NOTHING, LONG)
        if not self.ends:
            return merged(count, kept, sampler.go_on(texts, seed_of(seed, 3)), LONG)
        _, nats = sampler.log_likelihoods(texts, [1] * len(texts))
        selfies = [sampler.tokenizer.decode(text) for text in texts]
        return merged(count, kept, Samples(selfies, np.ones(len(kept), bool), nats), LONG)

    def holds(self, mol: Any) -> bool:
        """See `Goal.holds`."""
        return any(True for _ in self.fragment.matches(mol, grown=self.fragment.points.values()))


GOALS = {"scaffold": Scaffold, "decorate": Decoration, "linker": Linker, "motif": Motif}
_NOTHING = Samples([], np.zeros(0, bool), np.zeros(0))


def seed_of(*parts: int) -> int:
    """A seed of its own for every combination of numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0] >> 1)


def uniform_of(seed: int, purpose: int, count: int) -> np.ndarray:
    """[count] float64 in [0, 1); the first ones are the same whatever the count."""
    return np.random.default_rng([seed, purpose]).random(count)
