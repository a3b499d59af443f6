"""Batches made ahead by a thread, so that the device need not wait for the host.

numpy copies and device programs both let other threads run, so one thread is enough: no processes, nothing
is pickled, and the order of batches stays what it was.
"""

import queue
import threading
from typing import Any, Iterable, Iterator

_END = object()
_POLL_SECONDS = 0.1


def prefetched(batches: Iterable[Any], depth: int) -> Iterator[Any]:
    """The same batches in the same order; up to ``depth`` of them are ready before they are asked for.

    Leaving the iterator early ends the thread. What making a batch raises is raised here, in its turn.

    Args:
        batches: made one by one.
        depth: batches kept ready; 0 makes each when it is asked for.
    """
    if depth < 1:
        yield from batches
        return
    ready: "queue.Queue[Any]" = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    return
            put((_END, None))
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for the batch
            put((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is _END:
                return
            yield batch
    finally:
        stopped.set()
        thread.join()
