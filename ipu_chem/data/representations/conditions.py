"""Properties that a model is given before a molecule: values in bins, each bin a leading token of the vocabulary.

Tokens say what they mean, so that a vocabulary holds its bins wherever it is written to: [logp:~1.2] is below 1.2,
[logp:1.2~2.5] from 1.2 to 2.5, [logp:2.5~] from 2.5 on, and [logp:?] is not known. Every molecule has one for each
property, in their order, between its first token and its own: N. S. Keskar et al., "CTRL: a conditional transformer
language model for controllable generation", arXiv 1909.05858 (2019).
"""

import math
import re
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

_TOKEN = re.compile(r"\[([^\[\]:\s]+):(?:(\?)|([^\[\]~\s]*)~([^\[\]~\s]*))\]")
_NAME = re.compile(r"[^\[\]:~?,=\s]+")
_DIGITS = 6


class Property(NamedTuple):
    """One property of the leading tokens.

    Attributes:
        name: as options have it.
        edges: [b - 1] float64, ascending, where one bin ends and the next begins.
        ids: [b] int64, of the tokens of the bins.
        unknown: id of the token of a value that is not known.
    """

    name: str
    edges: np.ndarray
    ids: np.ndarray
    unknown: int

    def ids_of(self, values: np.ndarray) -> np.ndarray:
        """Ids [I] int64 of values [I] float64; NaN is not known."""
        places = np.searchsorted(self.edges, values, side="right")
        return np.where(np.isnan(values), self.unknown, self.ids[np.minimum(places, len(self.ids) - 1)])

    def bounds(self, value: float) -> Tuple[float, float]:
        """Ends of the bin of a value; infinite where it is the first or the last."""
        place = int(np.searchsorted(self.edges, value, side="right"))
        ends = [-math.inf, *self.edges.tolist(), math.inf]
        return ends[place], ends[place + 1]


def bin_tokens(name: str, values: np.ndarray, bins: int) -> List[str]:
    """Tokens of a property: its bins, which hold about as many values each, then the unknown one.

    Args:
        name: of the property.
        values: [I] float64, NaN where it is not known.
        bins: at most; fewer where values repeat.

    Raises:
        ValueError: no value is known, all are the same, or the name holds a character that tokens need.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"data.condition={name}: give a name without blanks and without any of [ ] : ~ ? , =")
    known = values[np.isfinite(values)]
    if not len(known):
        raise ValueError(f"data.condition={name}: no molecule has a value; take another property.")
    different = np.unique(known)
    if len(different) == 1:
        raise ValueError(f"data.condition={name}: all molecules have the value {known[0]:g}; take another property.")
    if len(different) <= bins:  # counts and classes: a bin for each
        edges = [np.format_float_positional(edge, trim="-") for edge in different[1:]]
    else:
        # Many may have the least value, which then has a bin of its own.
        wanted = np.maximum(np.quantile(known, np.arange(1, bins) / bins), different[1])
        edges = list(dict.fromkeys(f"{edge:.{_DIGITS}g}" for edge in wanted))
    ends = ["", *edges, ""]
    return [*(f"[{name}:{low}~{high}]" for low, high in zip(ends, ends[1:])), f"[{name}:?]"]


def properties_of(symbols: Sequence[str]) -> Tuple[Property, ...]:
    """The properties of a vocabulary, in the order of their tokens; none where it has no such tokens."""
    found: Dict[str, Dict[str, List[Tuple[float, int]]]] = {}
    for index, symbol in enumerate(symbols):
        token = _TOKEN.fullmatch(symbol)
        if token is not None:
            kind = "unknown" if token[2] else "bins"
            low = float(token[3]) if token[3] else -math.inf
            found.setdefault(token[1], {"unknown": [], "bins": []})[kind].append((low, index))
    made = []
    for name, parts in found.items():
        if not parts["unknown"] or not parts["bins"]:
            raise ValueError(f"the vocabulary has not all tokens of the property {name}; take the file that was saved.")
        bins = sorted(parts["bins"])
        edges = np.array([low for low, _ in bins[1:]])
        made.append(Property(name, edges, np.array([index for _, index in bins]), parts["unknown"][0][1]))
    return tuple(made)


def leading_ids(first: int, properties: Sequence[Property], values: Mapping[str, float]) -> np.ndarray:
    """Ids that a molecule of these properties begins with, [1 + P] int64: the first token, then one for each.

    Args:
        first: id of the first token.
        properties: P of a vocabulary.
        values: by name; those that are not given are not known.

    Raises:
        ValueError: a value is no number, or the vocabulary knows no property of that name.
    """
    known = [one.name for one in properties]
    for name, value in values.items():
        if name not in known:
            have = f"it was trained with {', '.join(known)}" if known else "it was trained without any"
            raise ValueError(
                f"--condition.{name} {value:g}: the model knows no property {name}, {have}; "
                + (f"give --condition.{known[0]} VALUE." if known else "train one with data.condition.")
            )
        if math.isnan(value):
            raise ValueError(f"--condition.{name}: give a number, or leave it out if any will do.")
    ids = [one.ids_of(np.array([values.get(one.name, math.nan)]))[0] for one in properties]
    return np.array([first, *ids], np.int64)


def put_conditions(values: np.ndarray, offsets: np.ndarray, properties: Sequence[Property], known: np.ndarray) -> None:
    """Write the tokens of properties over the unknown ones that molecules were encoded with.

    Args:
        values: [total] integer ids of I molecules, changed in place.
        offsets: [I + 1] where they begin.
        properties: P of the vocabulary.
        known: [I, P] float64, NaN where a value is not known.
    """
    for place, one in enumerate(properties):
        values[offsets[:-1] + 1 + place] = one.ids_of(known[:, place]).astype(values.dtype)
