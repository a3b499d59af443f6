"""Execution strategies: which stage of which kind of execution a block belongs to.

From python/options.py (Stage, PipelinedExecution, ShardedExecution) and python/_options_impl.py
(IStageManager). Stages are given in their order, or every block is a stage of the same number as its IPU; the
double has no other way to count them.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Tuple

from .placement import Placement


class Stage:
    """Blocks that run together, by their ids."""

    def __init__(self, *block_ids: str) -> None:
        assert all(isinstance(block, str) for block in block_ids), f"ids of blocks are strings, got {block_ids}"
        self._blocks = block_ids
        self._stage_id = -1
        self._ipu: Optional[int] = None

    @property
    def blocks(self) -> Tuple[str, ...]:
        return self._blocks

    def ipu(self, ipu: int) -> "Stage":
        assert isinstance(ipu, int)
        self._ipu = ipu
        return self


class PipelinedExecution:
    """Stages in their order, each a Stage, a block id, or several ids."""

    execution_mode = 0
    active: "Optional[PipelinedExecution]" = None  # that of the program being traced

    def __init__(self, *args: Any) -> None:
        self._block_map: Dict[str, Stage] = {}
        for stage_id, arg in enumerate(args):
            stage = _as_stage(arg)
            stage._stage_id = stage_id
            for block in stage.blocks:
                assert block not in self._block_map, f"block {block} is in more than one stage"
                self._block_map[block] = stage

    def stage(self, block_id: Optional[str]) -> Stage:
        assert block_id in self._block_map, f"there is no block {block_id!r}, only {list(self._block_map)}"
        return self._block_map[block_id]

    def backendOptions(self) -> Dict[str, int]:
        return {"execution_mode": self.execution_mode}

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Blocks ask this strategy for their stages while a program is traced."""
        PipelinedExecution.active = self
        try:
            yield
        finally:
            PipelinedExecution.active = None

    def begin(self, block_id: Optional[str], ipu_of_block: Optional[int]) -> None:
        """What runs from here on is in this block."""
        if self._block_map:
            stage = self.stage(block_id)
            ipu = ipu_of_block if stage._ipu is None else stage._ipu
            Placement.current().begin(stage._stage_id, stage._stage_id if ipu is None else ipu)
        else:
            assert ipu_of_block is not None, f"block {block_id} has no ipu_id"
            Placement.current().begin(ipu_of_block, ipu_of_block)


class ShardedExecution(PipelinedExecution):
    """The same on several IPUs, one working at a time."""

    execution_mode = 1


def _as_stage(arg: Any) -> Stage:
    if isinstance(arg, Stage):
        return arg
    if isinstance(arg, str):
        return Stage(arg)
    assert all(isinstance(part, str) for part in arg), "a stage is made of block ids"
    return Stage(*arg)
