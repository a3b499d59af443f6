"""What molecules are asked to keep, and how each is drawn: scaffold, decoration, linker, motif.

A goal draws texts and says which molecules hold what was given; `steer` draws until enough do. Random numbers of a
text follow from the seed and its place alone.
"""

from functools import partial
from itertools import groupby
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.selfies.symbols import UnknownSymbol, split_symbols
from ipu_chem.generation.sampling import Samples
from ipu_chem.generation.steering.fragments import Fragment, needs_points, read_fragment
from ipu_chem.generation.steering.sampler import Drawn, Sampler, merged
from ipu_chem.generation.steering.spelling import cuts, spellings
from ipu_chem.parallel import in_parallel

LOST = "what was given is not in it, or is changed"
LONG = "no room for more tokens"
CUT = "cut at the most tokens allowed before it was whole"
_SPELLINGS = 8  # of a fragment, of which the likeliest is taken
_RESPELLINGS = 4  # of every molecule that grows on
_PAIRS = 24  # of atoms where a motif begins and ends
_PLACES = 16  # in a text where something can be put


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
        self.starts = _starts(self.option, self.fragment, self.fragment.open_atoms(), sampler)

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`; where it grows from is drawn, too."""
        chosen = (_uniform(seed, 0, count) * len(self.starts)).astype(int)
        return Drawn(sampler.go_on([self.starts[one] for one in chosen], _seed(seed, 1)), [""] * count)

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
        self.start = _starts(self.option, self.fragment, self.order[:1], sampler)[0]

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`."""
        drawn = Drawn(sampler.go_on([self.start] * count, _seed(seed, 0)), [""] * count)
        for step in range(1, len(self.order)):
            samples, reasons = drawn
            reasons = [reason or ("" if done else CUT) for reason, done in zip(reasons, samples.finished)]
            going = [place for place, reason in enumerate(reasons) if not reason]
            respell = partial(_respelled, fragment=self.fragment, grown=self.order[:step], point=self.order[step])
            texts = [(samples.selfies[place], _seed(seed, step, place)) for place in going]
            found = list(in_parallel(respell, texts))
            kept, starts = [], []
            for place, start in zip(going, _likeliest_of_each(found, sampler)):
                if start is None:
                    reasons[place] = LOST
                elif not sampler.fits(start):
                    reasons[place] = LONG
                else:
                    kept.append(place)
                    starts.append(start)
            if not kept:
                return merged(count, [], _NOTHING, reasons)
            drawn = merged(count, kept, sampler.go_on(starts, _seed(seed, step)), reasons)
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
        self.starts = [_starts(self.option, one, [point], sampler)[0] for one, point in zip(fragments, self.points)]
        self.tails = []
        for side, (fragment, point) in enumerate(zip(fragments, self.points)):
            tails = _encoded(self.option, fragment, [(point, None)], sampler)
            best = sampler.likeliest([np.concatenate([self.starts[1 - side], tail]) for tail in tails])
            self.tails.append(tails[best])

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`."""
        first = (_uniform(seed, 0, count) * 2).astype(int)
        starts = [self.starts[one] for one in first]
        samples = sampler.go_on(starts, _seed(seed, 1))
        tails = [self.tails[1 - one] for one in first]
        # A linker has one atom or more: the first place is behind the first symbol that was drawn.
        least = [len(start) - len(sampler.leading) + 1 for start in starts]
        kept, texts = _put(samples, least, tails, True, sampler, _uniform(seed, 2, count))
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
        self.tails = _encoded(self.option, self.fragment, [pairs[one] for one in sorted(few)], sampler, most=1)

    def draw(self, sampler: Sampler, count: int, seed: int) -> Drawn:
        """See `Goal.draw`."""
        samples = sampler.go_on([sampler.leading] * count, _seed(seed, 0))
        tails = [self.tails[one] for one in (_uniform(seed, 1, count) * len(self.tails)).astype(int)]
        least = [int(bool(self.fragment.points))] * count
        kept, texts = _put(samples, least, tails, self.ends, sampler, _uniform(seed, 2, count))
        if not kept:
            return merged(count, [], _NOTHING, LONG)
        if not self.ends:
            return merged(count, kept, sampler.go_on(texts, _seed(seed, 3)), LONG)
        _, nats = sampler.log_likelihoods(texts, [1] * len(texts))
        selfies = [sampler.tokenizer.decode(text) for text in texts]
        return merged(count, kept, Samples(selfies, np.ones(len(kept), bool), nats), LONG)

    def holds(self, mol: Any) -> bool:
        """See `Goal.holds`."""
        return any(True for _ in self.fragment.matches(mol, grown=self.fragment.points.values()))


GOALS = {"scaffold": Scaffold, "decorate": Decoration, "linker": Linker, "motif": Motif}
_NOTHING = Samples([], np.zeros(0, bool), np.zeros(0))


class _Written(NamedTuple):
    """Ids of the spellings of a fragment, and why others have none."""

    ids: List[np.ndarray]
    lacking: str


def _starts(option: str, fragment: Fragment, atoms: Sequence[int], sampler: Sampler) -> List[np.ndarray]:
    """Ids of the likeliest text that begins with the fragment, for each of its atoms where it goes on."""
    if not atoms:
        raise ValueError(
            f"{option} {fragment.text}: no atom has a hydrogen that something can take the place of; give a fragment "
            "that can grow."
        )
    starts, lacking, longest = [], "", 0
    for atom in atoms:
        written = _written(fragment, None, atom, sampler, _SPELLINGS)
        begun = [sampler.begun(ids) for ids in written.ids]
        longest = max([longest, *map(len, begun)])
        begun = [ids for ids in begun if sampler.fits(ids)]
        lacking = lacking or written.lacking
        if begun:
            starts.append(begun[sampler.likeliest(begun)])
        elif fragment.points and not longest:
            break  # marked, and cannot be written
    if not starts:
        raise _cannot(option, fragment, lacking, longest, sampler)
    return starts


def _encoded(
    option: str,
    fragment: Fragment,
    pairs: Sequence[Tuple[int, Optional[int]]],
    sampler: Sampler,
    most: int = _SPELLINGS,
) -> List[np.ndarray]:
    """Ids of the fragment that begin at one atom and go on at another, ``most`` for every pair of atoms."""
    found: List[np.ndarray] = []
    lacking = ""
    for enter, leave in pairs:
        written = _written(fragment, enter, leave, sampler, most)
        lacking = lacking or written.lacking
        found += written.ids
    short = [ids for ids in found if sampler.fits(sampler.begun(ids))]
    if not short:
        raise _cannot(option, fragment, lacking, max(map(len, found), default=0), sampler)
    return short


def _written(fragment: Fragment, enter: Optional[int], leave: Optional[int], sampler: Sampler, most: int) -> _Written:
    ids, lacking = [], ""
    for symbols in spellings(fragment.mol, enter, leave, 0, most):
        try:
            ids.append(sampler.encode(symbols))
        except UnknownSymbol as error:
            lacking = error.reason
    return _Written(ids, lacking)


def _cannot(option: str, fragment: Fragment, lacking: str, tokens: int, sampler: Sampler) -> ValueError:
    """An error that says why a fragment cannot be written."""
    if tokens:
        why = f"it has {tokens} tokens, and a sequence has {sampler.length}, first and last included; give a smaller one"
    elif lacking:
        why = f"the vocabulary cannot write it ({lacking}); give one of the elements that the model was trained on"
    else:
        why = "SELFIES cannot express it with an attachment there; mark another atom"
    return ValueError(f"{option} {fragment.text}: {why}.")


def _respelled(
    text_and_seed: Tuple[str, int], fragment: Fragment, grown: Sequence[int], point: int
) -> List[List[str]]:
    """Spellings of a molecule that end at an atom of its fragment; none where it does not hold the fragment."""
    import selfies
    from rdkit import Chem, rdBase

    text, seed = text_and_seed
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(selfies.decoder(text))
    if mol is None:
        return []
    match = next(fragment.matches(mol, grown=grown), None)
    return [] if match is None else spellings(mol, None, match[point], seed, _RESPELLINGS)


def _likeliest_of_each(found: Sequence[List[List[str]]], sampler: Sampler) -> List[Optional[np.ndarray]]:
    """Ids that a text begins with, the likeliest of several spellings of each; None where there are none."""
    begun: List[np.ndarray] = []
    owners: List[int] = []
    for place, ways in enumerate(found):
        for symbols in ways:
            try:
                begun.append(sampler.begun(sampler.encode(symbols)))
            except UnknownSymbol:  # another spelling may have none of it
                continue
            owners.append(place)
    best: List[Optional[np.ndarray]] = [None] * len(found)
    if not begun:
        return best
    nats = np.full(len(begun), -np.inf)
    short = [index for index, ids in enumerate(begun) if len(ids) <= sampler.model.max_positions]
    if short:
        nats[short] = sampler.log_likelihoods([begun[index] for index in short], [1] * len(short))[1]
    for index in np.argsort(nats, kind="stable").tolist():
        best[owners[index]] = begun[index]
    return best


def _put(
    samples: Samples,
    least: Sequence[int],
    tails: Sequence[np.ndarray],
    ends: bool,
    sampler: Sampler,
    uniform: np.ndarray,
) -> Tuple[List[int], List[np.ndarray]]:
    """Texts cut at a place of their main chain, with other symbols from there on.

    Args:
        samples: N texts.
        least: N, symbols that stay.
        tails: N arrays of ids that take the place of what stands behind.
        ends: the text ends with them, too.
        sampler: whose likelihood of these ids decides: a place is drawn by it.
        uniform: [N] in [0, 1).

    Returns:
        (K indices of texts that have a place, their ids).
    """
    candidates: List[np.ndarray] = []
    since: List[int] = []
    owners: List[int] = []
    last = np.array([sampler.tokenizer.eos_id], np.int64) if ends else np.zeros(0, np.int64)
    for index, text in enumerate(samples.selfies):
        symbols = split_symbols(text) if text else []
        ids = sampler.encode(symbols)
        places = [place for place in [0, *cuts(symbols)] if place >= least[index]]
        for place in places[:: max(1, -(-len(places) // _PLACES))]:
            begun = sampler.begun(ids[:place], tails[index])
            if sampler.fits(begun):
                candidates.append(np.concatenate([begun, last]))
                since.append(len(sampler.leading) + place)
                owners.append(index)
    if not candidates:
        return [], []
    nats, _ = sampler.log_likelihoods(candidates, since)
    kept, texts = [], []
    for owner, group in groupby(range(len(owners)), owners.__getitem__):
        mine = list(group)
        ends_at = np.exp(nats[mine] - nats[mine].max()).cumsum()
        kept.append(owner)
        texts.append(candidates[mine[int(np.searchsorted(ends_at, uniform[owner] * ends_at[-1], side="right"))]])
    return kept, texts


def _seed(*parts: int) -> int:
    """A seed of its own for every combination of numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0] >> 1)


def _uniform(seed: int, purpose: int, count: int) -> np.ndarray:
    """[count] float64 in [0, 1); the first ones are the same whatever the count."""
    return np.random.default_rng([seed, purpose]).random(count)
