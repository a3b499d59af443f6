"""Writers of molecules: rows that go on by one token a step, in torch on any device or in native kernels on CPUs."""

from contextlib import suppress
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from ipu_chem.backends.pytorch.kernels.decoding import NativeDecoder, PackedWeights, can_be_packed
from ipu_chem.backends.pytorch.kernels.native import NativeError
from ipu_chem.generation.beginnings import Beginnings
from ipu_chem.generation.chance import Chance, draw, token_probabilities
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.decoding import Cache, decode_step, larger_cache, new_cache

_PLACES = 64  # of a new cache: the longest molecule decides, and most are shorter
Drawn = Tuple[np.ndarray, np.ndarray]  # tokens [n] int64, their log-likelihoods [n] float64 in nats


class Begun(NamedTuple):
    """A molecule at its first step.

    Attributes:
        tokens: [1 + k] int64, those that need no step; the last is yet to be computed, or ends the molecule.
        log_likelihood: of those after the first, nats.
    """

    tokens: np.ndarray
    log_likelihood: float


class Writer:
    """Rows of molecules, in torch.

    Shapes never change from step to step, but for a cache that doubles with the longest molecule, and for rows that
    are left out once no molecules wait and half of them have ended.
    """

    def __init__(self, model: ChemGPT, rows: int, chance: Chance) -> None:
        """Make room for so many molecules on the model's device."""
        self._model, self._chance = model, chance
        self._device = model.head.weight.device
        self._never = torch.from_numpy(chance.never).to(self._device)
        self._cache = new_cache(model, rows, min(_PLACES, model.max_positions))
        self._rows = np.arange(rows)  # that the cache has, ascending

    def begin(self, row: int, start: np.ndarray, uniform: np.ndarray, end: int) -> Begun:
        """Begin a molecule in a row.

        Args:
            row: that is free.
            start: [1 + n] int64, ids that it begins with.
            uniform: [length - 1] float64, its random numbers, one for each token after the first.
            end: the token that ends molecules.
        """
        return Begun(start[:1], 0.0)

    def step(
        self, rows: np.ndarray, ids: np.ndarray, positions: np.ndarray, uniform: np.ndarray, given: np.ndarray
    ) -> Drawn:
        """Next tokens.

        Args:
            rows: [n] int64, ascending; a row that is left out goes on later only if half of all take part.
            ids: [n] int64, tokens that stand at their positions.
            positions: [n] int64.
            uniform: [n] float64 in [0, 1).
            given: [n] int64, tokens that are not drawn, or -1.
        """
        logits = self._logits(rows, ids, positions).to(torch.float64)
        chosen = _choose(logits, self._chance, self._never, uniform, given)
        nats = torch.log_softmax(logits, 1).gather(1, chosen.unsqueeze(1)).squeeze(1)
        return chosen.cpu().numpy(), nats.cpu().numpy()

    def _logits(self, rows: np.ndarray, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        if len(rows) <= len(self._rows) // 2:
            stay = torch.from_numpy(np.searchsorted(self._rows, rows)).to(self._device)
            self._cache = Cache(*(tuple(part[stay] for part in parts) for parts in self._cache))
            self._rows = rows
        places = self._cache.keys[0].shape[2]
        if positions.max() >= places:
            self._cache = larger_cache(self._cache, min(2 * places, self._model.max_positions))
        at = np.searchsorted(self._rows, rows)
        whole = np.zeros((2, len(self._rows)), np.int64)  # rows that wait repeat a first token: nobody reads it
        whole[:, at] = ids, positions
        given = torch.from_numpy(whole).to(self._device)
        logits = decode_step(self._model, given[0], given[1], self._cache)
        return logits if len(at) == len(logits) else logits[torch.from_numpy(at).to(self._device)]


class NativeWriter(Writer):
    """The same in native kernels, where beginnings that molecules share are computed once."""

    def __init__(
        self, weights: PackedWeights, rows: int, chance: Chance, beginnings: Optional[Beginnings] = None
    ) -> None:
        """Make room for so many molecules; beginnings need plain draws."""
        assert beginnings is None or chance.is_plain
        self._decoder = NativeDecoder(weights, rows)
        self._chance, self._never = chance, torch.from_numpy(chance.never)
        self._allowed = np.ones(weights.vocabulary)
        self._allowed[chance.never] = 0.0
        self._tree = beginnings
        nothing = np.empty((0, weights.vocabulary))
        self._nats, self._ends = (nothing, nothing) if beginnings is None else (beginnings.nats, beginnings.ends)
        # Of rows that have left the tree at a node: which one; -1 is the root. Others have -2.
        self._left_at = np.full(rows, -2)

    def begin(self, row: int, start: np.ndarray, uniform: np.ndarray, end: int) -> Begun:
        """See `Writer.begin`."""
        if self._tree is None:
            return super().begin(row, start, uniform, end)
        nodes, tokens, nats = self._tree.walk(start, uniform, end)
        if len(nodes) and tokens[-1] != end and len(tokens) <= len(uniform):
            self._decoder.restore(row, nodes, self._tree.kept)
        self._left_at[row] = nodes[-1] if len(nodes) else -1
        return Begun(tokens, nats)

    def step(
        self, rows: np.ndarray, ids: np.ndarray, positions: np.ndarray, uniform: np.ndarray, given: np.ndarray
    ) -> Drawn:
        """See `Writer.step`; any rows."""
        logits = self._decoder.step(rows, ids, positions)
        entries = np.full(len(rows), -1)
        before = self._join(rows, ids, entries)
        if not self._chance.is_plain:
            given = _choose(logits, self._chance, self._never, uniform, given).numpy()
        chosen, nats = self._decoder.draw(
            self._chance.temperature, self._allowed, uniform, given, entries, self._nats, self._ends
        )
        filled = np.flatnonzero(entries >= 0)
        if len(filled):
            assert self._tree is not None
            self._decoder.keep(rows[filled], positions[filled], entries[filled], self._tree.kept)
            for index in filled.tolist():
                self._tree.add(before[index], int(ids[index]), int(entries[index]))
        return chosen, nats

    def _join(self, rows: np.ndarray, ids: np.ndarray, entries: np.ndarray) -> Dict[int, int]:
        """Find nodes of rows at the border of the tree; the first that comes to a new place fills a node there.

        A row whose place is there, or is another's from this step on, stays at the border; one that fills it leaves.

        Args:
            rows, ids: [n] int64, of a step.
            entries: [n] int64, -1; the nodes that are filled are written into it.

        Returns:
            Places of ``entries`` that are filled -> the node before.
        """
        before: Dict[int, int] = {}
        made: Dict[Tuple[int, int], int] = {}
        for index in np.flatnonzero(self._left_at[rows] > -2).tolist():
            assert self._tree is not None
            row, place = int(rows[index]), (int(self._left_at[rows[index]]), int(ids[index]))
            node = self._tree.node(*place)
            if node < 0:
                node = made.get(place, -1)
            if node >= 0:
                self._left_at[row] = node
                continue
            node = self._tree.reserve()
            self._left_at[row] = -2
            if node >= 0:
                entries[index] = made[place] = node
                before[index] = place[0]
        return before


def writers(model: ChemGPT, rows: int, chance: Chance, count: int, native: bool) -> Callable[[], Writer]:
    """Maker of writers, one for each thread.

    Args:
        model: that writes.
        rows: molecules at once, of each.
        chance: of their draws.
        count: molecules in all.
        native: take native kernels where the model is on the CPU and there is a compiler.
    """
    if native and can_be_packed(model):
        with suppress(NativeError):  # `ipu-chem doctor` says what is missing
            weights = PackedWeights(model)
            tree = None
            if chance.is_plain and count > 1:
                tree = Beginnings(weights.per_place, weights.vocabulary, weights.dtype, count)
            return lambda: NativeWriter(weights, rows, chance, tree)
    return lambda: Writer(model, rows, chance)


def _choose(logits: Tensor, chance: Chance, never: Tensor, uniform: np.ndarray, given: np.ndarray) -> Tensor:
    """Tokens [n]: those given, and drawn ones elsewhere."""
    probabilities = token_probabilities(logits, chance.temperature, chance.top_k, chance.top_p, never)
    numbers, tokens = torch.from_numpy(uniform).to(logits.device), torch.from_numpy(given).to(logits.device)
    return torch.where(tokens < 0, draw(probabilities, numbers), tokens)
