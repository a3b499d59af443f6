"""Batches made ahead are the same batches, errors come in their turn, and no thread stays behind."""

import threading
from typing import Iterator, List

import pytest

from ipu_chem.batches.prefetch import prefetched


def threads() -> List[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
def test_same_batches_in_the_same_order(depth: int) -> None:
    assert list(prefetched(iter(range(20)), depth)) == list(range(20))
    assert not threads()


def test_they_are_made_ahead_but_no_further_than_asked() -> None:
    made: List[int] = []
    third = threading.Event()

    def batches() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    stream = prefetched(batches(), 2)
    assert next(stream) == 0
    assert third.wait(10)  # nobody has asked for it
    assert len(made) <= 4  # one taken, two ready, one in the thread's hands
    stream.close()
    assert not threads()


def test_errors_come_after_the_batches_before_them() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise ValueError("the second batch is broken")

    stream = prefetched(batches(), 4)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="second batch"):
        next(stream)
    assert not threads()
