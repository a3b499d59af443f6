"""poptorch.DataLoader (python/__init__.py): torch's loader in batches of a whole call of the program.

Async and AsyncRebatched hand the loader to another process when it is made, as PopTorch does: what changes on the host
afterwards does not reach its copy. With load_indefinitely, PopTorch's default, that process reads the next iteration
ahead as soon as one ends; PopTorch may or may not have done so when the next one is asked for, the double always has.
The tensors that come back are overwritten by the next ones. Iterable data sets are left out.
"""

import atexit
from multiprocessing.reduction import ForkingPickler
from typing import Any, Dict, Iterator, List, Optional

import torch

from .enums import DataLoaderMode
from .options import Options
from .poptorch_core import Error


class _SubDataset:
    """The block of one process; with shuffling, of indices that all processes draw alike in every iteration."""

    def __init__(self, dataset: Any, options: Options, step: int, drop_last: bool) -> None:
        processes, process = options.Distributed.numProcesses, options.Distributed.processId
        count = len(dataset)
        if drop_last:
            each = step * (count // (step * processes))
            self._offset, self._length = process * each, each
            self._leftovers = count % each
        else:
            lengths = [count // processes + (count % processes > other) for other in range(processes)]
            self._offset, self._length, self._leftovers = sum(lengths[:process]), lengths[process], 0
        self._base = self._offset
        self._dataset = dataset
        self._generator: Optional[torch.Generator] = None
        self._seed = options.random_seed if options.exists("random_seed") else None
        self._order: Optional[torch.Tensor] = None

    def shuffle_global_indices(self) -> None:
        if self._generator is None:
            self._generator = torch.Generator()
            self._generator.manual_seed(self._seed)
        self._order = torch.randperm(len(self._dataset), generator=self._generator)

    def swap_range(self) -> None:
        self._offset = self._base + self._leftovers if self._offset == self._base else self._base

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        index += self._offset
        return self._dataset[index if self._order is None else int(self._order[index])]


class DataLoader(torch.utils.data.DataLoader):
    """Batches of device iterations x accumulation x replicas x batch size items, in the order of the data set."""

    def __init__(
        self,
        options: Options,
        dataset: Any,
        batch_size: Optional[int] = 1,
        shuffle: Optional[bool] = None,
        num_workers: int = 0,
        drop_last: Optional[bool] = True,
        persistent_workers: Optional[bool] = None,
        auto_distributed_partitioning: bool = True,
        mode: DataLoaderMode = DataLoaderMode.Sync,
        async_options: Optional[Dict[str, Any]] = None,
        rebatched_worker_size: Optional[int] = None,
        batch_sampler: Any = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(dataset, torch.utils.data.IterableDataset) or rebatched_worker_size is not None:
            raise NotImplementedError("the double has no iterable data sets and no rebatched_worker_size")
        self._of_sampler = batch_sampler is not None
        if self._of_sampler:
            if batch_size != 1 or shuffle:
                raise Error("`batch_sampler` option is mutually exclusive with batch_size, shuffle.")
            if options.Distributed.numProcesses > 1 and auto_distributed_partitioning:
                raise Error("`batch_sampler` option is mutually exclusive with auto_distributed_partitioning=True.")
            if hasattr(batch_sampler, "batch_size"):
                batch_size = batch_sampler.batch_size
        assert isinstance(options, Options)
        options._freeze()
        # None here is not refused: it fails later, in the comparison of a number with None.
        self._to_combine = None
        self._combined_batch_size = None
        if batch_size is not None:
            schedule = options.device_iterations * options.replication_factor * options.Training.gradient_accumulation
            self._to_combine = schedule
            self._combined_batch_size = batch_size * schedule
            self._options = options
        self._shuffled_here = False
        if not self._of_sampler and options.Distributed.numProcesses > 1 and auto_distributed_partitioning:
            assert not shuffle or options.exists("random_seed"), "Options.randomSeed() must be set to shuffle"
            assert self._combined_batch_size is not None, "batch_size=None cannot be partitioned"
            dataset = _SubDataset(dataset, options, self._combined_batch_size, bool(drop_last))
            self._shuffled_here, shuffle = bool(shuffle), False
        self._accessor: Optional[_Accessor] = None
        self._drop_last = bool(drop_last)
        remainder = mode == DataLoaderMode.Async and not drop_last and (self._combined_batch_size or 1) > 1
        self._rebatched = mode == DataLoaderMode.AsyncRebatched or remainder
        super().__init__(
            dataset,
            batch_size=1 if self._of_sampler else self._combined_batch_size,
            shuffle=None if self._of_sampler else bool(shuffle),
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            drop_last=False if self._of_sampler else self._drop_last and not self._rebatched,
            persistent_workers=num_workers > 0 if persistent_workers is None else persistent_workers,
            **kwargs,
        )
        if mode != DataLoaderMode.Sync:
            self._accessor = _Accessor(self, **(async_options or {}))

    @property
    def combinedBatchSize(self) -> Optional[int]:
        return self._combined_batch_size

    @property
    def options(self) -> Options:
        return self._options

    def terminate(self) -> None:
        if self._accessor is not None:
            self._accessor.terminate()

    def __len__(self) -> int:
        if self._accessor is not None and self._rebatched:
            whole, rest = divmod(len(self.dataset), self._combined_batch_size)
            return whole + (rest > 0 and not self._drop_last)
        return super().__len__()  # with a batch sampler the number of its batches, as PopTorch counts

    def __iter__(self) -> Iterator[Any]:
        if self._shuffled_here:
            self.dataset.shuffle_global_indices()
            self.dataset.swap_range()
        if self._accessor is not None:
            return self._accessor.start()
        return self._read()

    def _read(self) -> Iterator[Any]:
        batches = super().__iter__()
        if self._of_sampler and self._to_combine != 1:
            return _combined(batches, self._to_combine, self._drop_last)
        if self._rebatched and self._drop_last:
            return (batch for batch in batches if len(_first(batch)) == self._combined_batch_size)
        return batches


def _combined(batches: Iterator[Any], number: int, drop_last: bool) -> Iterator[Any]:
    """Batches of a sampler joined along their first dimension."""
    held: List[Any] = []
    for batch in batches:
        if len(held) < number:
            held.append(batch)
        else:
            yield _joined(held)
            held = [batch]
    if len(held) == number or (held and not drop_last):
        yield _joined(held)


def _joined(batches: List[Any]) -> Any:
    first = batches[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(batches)
    if isinstance(first, dict):
        return {name: _joined([batch[name] for batch in batches]) for name in first}
    if isinstance(first, (tuple, list)):
        parts = [_joined(list(column)) for column in zip(*batches)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    raise NotImplementedError(f"the double joins no {type(first).__name__}")


def _first(batch: Any) -> torch.Tensor:
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return batch


class _Accessor:
    """The other process of an asynchronous loader, and its ring of buffers."""

    def __init__(
        self,
        loader: DataLoader,
        buffer_size: int = 3,
        load_indefinitely: bool = True,
        early_preload: bool = False,
        **_: Any,
    ) -> None:
        # A pickle is what a process that is started gets, also by the fork server that PopTorch uses.
        payload = bytes(ForkingPickler.dumps(loader))
        context = torch.multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(payload, theirs, buffer_size, load_indefinitely))
        self._process.start()
        atexit.register(self.terminate)
        self._reads_ahead, self._begun, self._ended = load_indefinitely, False, False
        self._shown: Any = None

    def start(self) -> Iterator[Any]:
        if not (self._ended and self._reads_ahead):  # else the next iteration was begun when the last one ended
            self._pipe.send("start")
        self._begun, self._ended = True, False
        while True:
            self._pipe.send("next")
            kind, value = self._pipe.recv()
            if kind == "error":
                raise AssertionError(f"An error occurred in the data fetcher: {value}")
            if kind == "end":
                self._ended = True
                return
            yield self._in_shared_memory(value)

    def _in_shared_memory(self, batch: Any) -> Any:
        """The batch in the tensors of the one before, which the caller may still hold."""
        if self._shown is None:
            self._shown = batch
        else:
            _overwrite(self._shown, batch)
        return self._shown

    def terminate(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def _overwrite(shown: Any, batch: Any) -> None:
    if isinstance(shown, torch.Tensor):
        shown.resize_(batch.shape).copy_(batch)
    else:
        keys = shown if isinstance(shown, dict) else range(len(shown))
        for key in keys:
            _overwrite(shown[key], batch[key])


def _work(payload: bytes, pipe: Any, buffer_size: int, load_indefinitely: bool) -> None:
    """Read batches ahead of who asks for them, ``buffer_size`` of them."""
    loader = ForkingPickler.loads(payload)
    batches: Iterator[Any] = iter(())
    ready: List[Any] = []

    def fill(count: int) -> None:
        while len(ready) < count and (not ready or ready[-1][0] == "batch"):
            try:
                ready.append(("batch", next(batches)))
            except StopIteration:
                ready.append(("end", None))
            except Exception as error:
                ready.append(("error", str(error)))

    while True:
        try:
            command = pipe.recv()
        except EOFError:
            return
        if command == "start":
            batches, ready = iter(loader), []
            fill(buffer_size)
        else:
            fill(1)
            message = ready.pop(0)
            if message[0] == "end" and load_indefinitely:
                batches = iter(loader)
            if message[0] != "error":
                fill(buffer_size)
            pipe.send(message)
