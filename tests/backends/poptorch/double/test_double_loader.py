"""PopTorch's double: what its DataLoader combines, drops, shares between processes and keeps of a data set."""

from typing import Any, List

import pytest
import torch


def loader_of(
    poptorch: Any, items: Any, sizes: Any = (1, 1, 1), process: int = 0, processes: int = 1, **kw: Any
) -> Any:
    """(device iterations, accumulation, replicas)."""
    options = poptorch.Options().deviceIterations(sizes[0]).replicationFactor(sizes[2]).randomSeed(3)
    options.Training.gradientAccumulation(sizes[1])
    options.Distributed.configureProcessId(process, processes)
    return poptorch.DataLoader(options, items, **kw)


def lists(loader: Any) -> List[List[int]]:
    return [batch.tolist() for batch in loader]


def test_batches_are_those_of_a_call_and_the_tail_is_dropped(poptorch: Any) -> None:
    loader = loader_of(poptorch, range(30), (2, 3, 2), batch_size=1)
    assert loader.combinedBatchSize == 12 and len(loader) == 2
    assert lists(loader) == [list(range(12)), list(range(12, 24))]
    kept = loader_of(poptorch, range(30), (2, 3, 2), drop_last=False)
    assert len(kept) == 3 and lists(kept)[-1] == list(range(24, 30))
    with pytest.raises(AttributeError, match="frozen"):
        loader.options.deviceIterations(5)
    mixed = [item for batch in loader_of(poptorch, range(24), (2, 3, 2), shuffle=True) for item in batch.tolist()]
    assert mixed != sorted(mixed) == list(range(24))


def test_processes_have_blocks_and_shuffle_alike(poptorch: Any) -> None:
    parts = [lists(loader_of(poptorch, range(22), batch_size=5, process=p, processes=2)) for p in range(2)]
    assert parts == [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]]
    loaders = [loader_of(poptorch, range(22), batch_size=5, process=p, processes=2, shuffle=True) for p in range(2)]
    for _ in range(2):
        seen = [item for loader in loaders for batch in lists(loader) for item in batch]
        assert len(seen) == len(set(seen)) == 20 and seen != sorted(seen)
    uneven = [len(loader_of(poptorch, range(7), process=p, processes=2, drop_last=False).dataset) for p in range(2)]
    assert uneven == [4, 3]


def test_batches_of_a_sampler_are_joined(poptorch: Any) -> None:
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert lists(loader_of(poptorch, range(10), (2, 1, 1), batch_sampler=batches)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    kept = loader_of(poptorch, range(10), (2, 1, 1), batch_sampler=batches, drop_last=False)
    assert lists(kept)[-1] == [8, 9]

    class Unsized(list):
        batch_size = None

    with pytest.raises(TypeError):
        lists(loader_of(poptorch, range(10), (2, 1, 1), batch_sampler=Unsized(batches)))
    with pytest.raises(poptorch.Error, match="auto_distributed_partitioning"):
        loader_of(poptorch, range(10), processes=2, batch_sampler=batches)


class Counted:
    """Items that say how often the host has changed them."""

    changes = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(100 * self.changes + index)


@pytest.mark.parametrize("mode", ["Async", "AsyncRebatched"])
def test_a_process_of_its_own_has_a_copy_and_overwrites_its_batches(poptorch: Any, mode: str) -> None:
    items = Counted()
    loader = loader_of(poptorch, items, batch_size=2, mode=poptorch.DataLoaderMode[mode])
    try:
        items.changes = 1
        assert lists(loader) == lists(loader) == [[0, 1], [2, 3], [4, 5]]
        held = list(loader)
        assert [batch.tolist() for batch in held] == [[4, 5]] * 3
    finally:
        loader.terminate()


def test_the_tail_of_an_asynchronous_loader(poptorch: Any) -> None:
    for drop_last in (True, False):
        loader = loader_of(
            poptorch, list(range(7)), batch_size=2, mode=poptorch.DataLoaderMode.AsyncRebatched, drop_last=drop_last
        )
        try:
            assert lists(loader) == [[0, 1], [2, 3], [4, 5], *([] if drop_last else [[6]])]
            assert len(loader) == (3 if drop_last else 4)
        finally:
            loader.terminate()
