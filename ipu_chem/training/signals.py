"""Stopping politely: the first Ctrl-C or SIGTERM lets the running step end, the second stops at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Dict, Optional, Type


class StopSignals:
    """Context in which SIGINT and SIGTERM are noted instead of acted on.

    Attributes:
        received: number of the signal, 0 while there was none.
    """

    def __init__(self, echo: float = 0.0) -> None:
        """Note nothing yet.

        Args:
            echo: seconds in which a second signal is the first one again: a launcher passes on what the terminal
                has sent to its processes already. It also ends them all once one has failed, so that signals stay
                noted while an error is on its way to the user.
        """
        self.received = 0
        self._echo = echo
        self._since = 0.0
        self._previous: Dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is not None and self._echo:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        now = time.monotonic()
        if self.received and now - self._since >= self._echo:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, now
