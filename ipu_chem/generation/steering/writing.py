"""Fragments as the tokens of a model: the likeliest spelling of each, and the places in a text where they go."""

from itertools import groupby
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.representations.base import UnknownToken
from ipu_chem.data.selfies.symbols import split_symbols
from ipu_chem.generation.sampling import Samples
from ipu_chem.generation.steering.fragments import Fragment
from ipu_chem.generation.steering.sampler import Sampler
from ipu_chem.generation.steering.spelling import cuts, spellings

_SPELLINGS = 8  # of a fragment, of which the likeliest is taken
_RESPELLINGS = 4  # of every molecule that grows on
_PLACES = 16  # in a text where something can be put


class _Written(NamedTuple):
    """Ids of the spellings of a fragment, and why others have none."""

    ids: List[np.ndarray]
    lacking: str


def starts_of(option: str, fragment: Fragment, atoms: Sequence[int], sampler: Sampler) -> List[np.ndarray]:
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


def tails_of(
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
        except UnknownToken as error:
            lacking = error.reason.rpartition(": ")[2]
    return _Written(ids, lacking)


def _cannot(option: str, fragment: Fragment, lacking: str, tokens: int, sampler: Sampler) -> ValueError:
    """An error that says why a fragment cannot be written."""
    if tokens:
        why = (
            f"it has {tokens} tokens, and a sequence has {sampler.length}, first and last included; give a smaller one"
        )
    elif lacking:
        why = f"the vocabulary cannot write it ({lacking}); give one of the elements that the model was trained on"
    else:
        why = "SELFIES cannot express it with an attachment there; mark another atom"
    return ValueError(f"{option} {fragment.text}: {why}.")


def respelled(text_and_seed: Tuple[str, int], fragment: Fragment, grown: Sequence[int], point: int) -> List[List[str]]:
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


def likeliest_of_each(found: Sequence[List[List[str]]], sampler: Sampler) -> List[Optional[np.ndarray]]:
    """Ids that a text begins with, the likeliest of several spellings of each; None where there are none."""
    begun: List[np.ndarray] = []
    owners: List[int] = []
    for place, ways in enumerate(found):
        for symbols in ways:
            try:
                begun.append(sampler.begun(sampler.encode(symbols)))
            except UnknownToken:  # another spelling may have none of it
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


def put_in(
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
    for index, text in enumerate(samples.texts):
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
