"""Ranges of options: values of the declared type, finite and in range, or one sentence that names the option."""

import math
import re
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Callable, Dict, Union, get_args, get_origin

# Words of a sentence -> the numbers that they allow; "from 1 to 1,000" is understood, too.
RANGES: Dict[str, Callable[[float], bool]] = {
    "any": lambda value: True,
    "above 0": lambda value: value > 0,
    "0 or more": lambda value: value >= 0,
    "1 or more": lambda value: value >= 1,
    "2 or more": lambda value: value >= 2,
    "-1 or more": lambda value: value >= -1,
    "0 or more and below 1": lambda value: 0 <= value < 1,
    "above 0 and below 1": lambda value: 0 < value < 1,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
}
# Of models: more would be built for minutes, and trained by nobody.
FEATURES, FUNCTIONS, BLOCKS = "from 2 to 1,000,000", "from 2 to 10,000", "from 1 to 1,000"
CUTOFF = "from 0.1 to 1,000"  # Å; in float32 the square of much more is infinite, and of much less 0
THREADS = "from 0 to 1,024"  # also processes; of many more OpenMP dies with a segmentation fault
SLOTS = "from 0 to 10,000,000"  # of a pack
_BETWEEN = re.compile(r"from ([\d.,]+) to ([\d.,]+)")
_MOST = 2**63 - 1  # of what 64 bits hold


def check_number(name: str, value: Any, words: str, whole: bool = False) -> None:
    """Refuse what is no number of a range.

    Args:
        name: of the option, as it is written.
        value: of it.
        words: of `RANGES`, or "from 1 to 10".
        whole: integers only.

    Raises:
        ValueError: names the option, the value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real) or not _in_range(value, words):
        finite = not isinstance(value, float) or math.isfinite(value)
        kind = "an integer" if whole else "a number" if finite else "a finite number"
        fits = "that fits 64 bits" if whole and not _fits(value) else "" if words == "any" else words
        of = "" if not fits[:1].isdigit() and fits[:1] != "-" else " of" if whole else ","
        raise ValueError(f"{name}={value!r}: give {kind}{of}{f' {fits}' if fits else ''}.")


def _fits(value: Any) -> bool:
    """True unless a value is an integer that 64 bits do not hold."""
    return not isinstance(value, Integral) or abs(int(value)) <= _MOST


def _in_range(value: Any, words: str) -> bool:
    if not _fits(value) or not math.isfinite(value):
        return False
    ends = _BETWEEN.fullmatch(words)
    if ends is None:
        return RANGES[words](value)
    return float(ends[1].replace(",", "")) <= value <= float(ends[2].replace(",", ""))


def check_fields(section: Any, key: str = "", **ranges: str) -> None:
    """Refuse numbers, texts and truths among the fields of a dataclass that are none or out of range.

    Args:
        section: an instance.
        key: of the section, before the names.
        **ranges: words of `RANGES` by field; other numbers are only finite.

    Raises:
        ValueError: see `check_number`.
    """
    for one in fields(section):
        kind, value, name = one.type, getattr(section, one.name), f"{key}.{one.name}".lstrip(".")
        if get_origin(kind) is Union and type(None) in get_args(kind):
            if value is None:
                continue
            kind = next(word for word in get_args(kind) if word is not type(None))
        if kind in (int, float):
            check_number(name, value, ranges.get(one.name, "any"), kind is int)
        elif kind is bool and not isinstance(value, bool):
            raise ValueError(f"{name}={value!r}: give true or false.")
        elif kind is str and not isinstance(value, str):
            raise ValueError(f"{name}={value!r}: give text.")
        elif kind is str and "\0" in value:
            raise ValueError(f"{name}={value!r}: text has no null characters.")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse what is not among a few words.

    Raises:
        ValueError: names the option, the value and the words.
    """
    if value not in tuple(choices):
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}.")
