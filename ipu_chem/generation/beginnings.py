"""Beginnings that molecules share: a tree of tokens, each computed once.

Of 10,000 molecules that a model writes many begin alike. A node is a token behind those before it; it keeps what
attention remembers of it and what follows it with which probability. A molecule walks from the root by its own random
numbers as far as the tree goes, and adds one node: the tree grows where molecules come by, as dictionaries of J. Ziv
and A. Lempel do (IEEE Trans. Inf. Theory 24, 530 (1978)).
"""

import threading
from typing import Dict, NamedTuple, Tuple

import numpy as np
import torch

MEMORY = 256 << 20  # bytes of a tree, at most


class Walk(NamedTuple):
    """A molecule's way through the tree.

    Attributes:
        nodes: [k] int64, of the tokens that were there.
        tokens: [1 + k] int64 or fewer where the molecule is complete: the first token and those that were drawn.
        log_likelihood: of the tokens after the first, nats.
    """

    nodes: np.ndarray
    tokens: np.ndarray
    log_likelihood: float


class Beginnings:
    """A tree that several threads may use.

    Attributes:
        kept: [nodes, per_place], what a decoder remembers of every token.
        nats: [nodes, V] float64, log-likelihoods of the next tokens.
        ends: [nodes, V] float64, running sums of the weights that they are drawn by.
    """

    def __init__(self, per_place: int, vocabulary: int, dtype: torch.dtype, count: int) -> None:
        """Make room for a node of each of ``count`` molecules, or for as many as memory has."""
        bytes_of_one = per_place * torch.finfo(dtype).bits // 8 + 2 * 8 * vocabulary
        room = max(1, min(count, MEMORY // bytes_of_one))
        # Memory that nobody has written to is none.
        self.kept = torch.empty((room, per_place), dtype=dtype)
        self.nats, self.ends = np.empty((room, vocabulary)), np.empty((room, vocabulary))
        self._nodes: Dict[Tuple[int, int], int] = {}  # the node before (-1: none) and a token -> node
        self._reserved = 0
        self._lock = threading.Lock()

    def node(self, before: int, token: int) -> int:
        """The node of a token behind another node, or behind none, which is -1; -1 if it is not there."""
        return self._nodes.get((before, token), -1)

    def reserve(self) -> int:
        """A row that the caller fills, then gives to `add`; -1 if memory is full."""
        with self._lock:
            if self._reserved == len(self.ends):
                return -1
            self._reserved += 1
            return self._reserved - 1

    def add(self, before: int, token: int, node: int) -> int:
        """Put a filled row into the tree; returns the node of its place, another's if that was faster."""
        return self._nodes.setdefault((before, token), node)

    def walk(self, start: np.ndarray, uniform: np.ndarray, end: int) -> Walk:
        """Walk as far as the tree goes.

        Args:
            start: [1 + n] int64, ids that the molecule begins with.
            uniform: [length - 1] float64, its random numbers, one for each token after the first.
            end: the token that ends molecules.
        """
        token, node, nats = int(start[0]), -1, 0.0
        nodes, tokens = [], [token]
        while len(tokens) <= len(uniform):
            node = self._nodes.get((node, token), -1)
            if node < 0:
                break
            nodes.append(node)
            if len(tokens) < len(start):
                token = int(start[len(tokens)])
            else:
                ends = self.ends[node]
                token = int(ends.searchsorted(uniform[len(tokens) - 1] * ends[-1], "right"))
                if token == len(ends):  # rounded up to the whole: the last that has a weight
                    token = int(ends.searchsorted(ends[-1]))
            nats += float(self.nats[node, token])
            tokens.append(token)
            if token == end:
                break
        return Walk(np.array(nodes, np.int64), np.array(tokens, np.int64), nats)
