"""Options of the data in complaints and notes, as a command has them: --path where a run has data.path."""

import re
import sys
from contextlib import contextmanager, redirect_stderr
from typing import Any, Iterator, Mapping


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Replace data.X and --data.X in what is written to stderr, and in a ValueError.

    Args:
        names: X, and what the command calls it; others stay.
    """
    pattern = re.compile(rf"(?:--|\b)data\.({'|'.join(names)})\b(?!\.\w)")

    def as_here(text: str) -> str:
        return pattern.sub(lambda found: f"--{names[found.group(1)]}", text)

    try:
        with redirect_stderr(_Stream(sys.stderr, as_here)):  # type: ignore[type-var]
            yield
    except ValueError as error:
        if as_here(str(error)) == str(error):
            raise
        raise ValueError(as_here(str(error))) from None


class _Stream:
    """A stream whose text is changed on the way."""

    def __init__(self, stream: Any, change: Any) -> None:
        self._stream, self._change = stream, change

    def write(self, text: str) -> int:
        return self._stream.write(self._change(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
