"""Execution strategies: which stage of which kind of execution a block belongs to.

From python/options.py (Stage, Phase, PipelinedExecution, ShardedExecution) and python/_options_impl.py
(IStageManager). A strategy counts its blocks while a forward pass is traced; blocks without a user_id get
the numbers "0", "1", ... and keep them.
"""

from typing import Any, Dict, List, Optional, Tuple

from .enums import AutoStage
from .placement import Placement


class Stage:
    """Blocks that run together, by their ids."""

    def __init__(self, *block_ids: str) -> None:
        assert all(isinstance(block, str) for block in block_ids), f"ids of blocks are strings, got {block_ids}"
        self._blocks = block_ids
        self._stage_id = -1
        self._phase_id = -1
        self._ipu: Optional[int] = None

    @property
    def blocks(self) -> Tuple[str, ...]:
        return self._blocks

    def ipu(self, ipu: int) -> "Stage":
        assert isinstance(ipu, int)
        self._ipu = ipu
        return self


class Phase:
    """Stages of phased execution; the strategies that take them are not in the double."""

    def __init__(self, *arg: Any) -> None:
        if all(isinstance(part, Stage) for part in arg):
            self.stages: Any = arg
        else:
            assert all(isinstance(part, str) for part in arg), "a phase is made of block ids or of stages"
            self.stages = [Stage(*arg)]

    def stage(self, idx: int) -> Stage:
        return self.stages[idx]

    def ipus(self, *ipus: int) -> None:
        assert len(ipus) == len(self.stages), f"{len(self.stages)} stages, {len(ipus)} IPUs"
        for stage, ipu in zip(self.stages, ipus):
            stage.ipu(ipu)


class StageManager:
    """Hands out stages while a forward pass is traced; made new with every copy of the options."""

    def __init__(self) -> None:
        self._next_auto_id = 0
        self._current_ipu: Optional[int] = None

    def nextAutoId(self) -> str:
        self._next_auto_id += 1
        return str(self._next_auto_id - 1)

    def resetAutoId(self) -> None:
        self._next_auto_id = 0

    def getStage(self, block_id: str) -> Stage:
        raise NotImplementedError

    def beginStage(self, user_id: Optional[str], ipu_id_from_block: Optional[int]) -> None:
        user_id = user_id or self.nextAutoId()
        self._current_ipu = ipu_id_from_block
        stage = self.getStage(user_id)
        ipu = stage._ipu if stage._ipu is not None else ipu_id_from_block
        Placement.current().begin(stage._stage_id, stage._stage_id if ipu is None else ipu)


class _AutoStages(StageManager):
    def __init__(self, auto_stage: AutoStage) -> None:
        super().__init__()
        self._next_id = 1  # 0 is what comes before the first block
        self._block_map: Dict[str, Stage] = {}
        self._auto_stage = auto_stage

    def getStage(self, block_id: str) -> Stage:
        if block_id not in self._block_map:
            stage = Stage(block_id)
            if self._auto_stage == AutoStage.SameAsIpu:
                assert self._current_ipu is not None, f"AutoStage.SameAsIpu: block {block_id} has no ipu_id"
                stage._stage_id = self._current_ipu
            else:
                stage._stage_id = self._next_id
                self._next_id += 1
            self._block_map[block_id] = stage
        return self._block_map[block_id]


class _ExecutionStrategy:
    def __init__(self, stages_manager: StageManager, block_map: Dict[str, Stage]) -> None:
        self._block_map = block_map
        self._stages_manager = stages_manager

    def stage(self, block_id: str) -> Stage:
        assert block_id in self._block_map, f"there is no block {block_id}"
        return self._block_map[block_id]

    def backendOptions(self) -> Dict[str, int]:
        return {}


class PipelinedExecution(_ExecutionStrategy):
    """One AutoStage, or stages in their order: Stage, a block id, or several ids; nothing is SameAsIpu."""

    def __init__(self, *args: Any) -> None:
        block_map: Dict[str, Stage] = {}
        auto_stage = AutoStage.SameAsIpu
        if len(args) == 1 and isinstance(args[0], AutoStage):
            auto_stage = args[0]
        else:
            for stage_id, arg in enumerate(args):
                stage = _as_stage(arg)
                stage._stage_id = stage_id
                for block in stage.blocks:
                    assert block not in block_map, f"block {block} is in more than one stage"
                    block_map[block] = stage
        if not block_map:
            super().__init__(_AutoStages(auto_stage), block_map)
            return

        # Local to this call as it is in PopTorch, where it keeps such options from being pickled (exported).
        class GivenStages(StageManager):
            def __init__(self, block_map: Dict[str, Stage]) -> None:
                super().__init__()
                self._block_map = block_map

            def getStage(self, block_id: str) -> Stage:
                known: List[str] = list(self._block_map)
                assert block_id in self._block_map, f"there is no block {block_id!r}, only {known}"
                return self._block_map[block_id]

        super().__init__(GivenStages(block_map), block_map)

    def backendOptions(self) -> Dict[str, int]:
        return {"execution_mode": 0}


class ShardedExecution(PipelinedExecution):
    """The same on several IPUs, one working at a time."""

    def backendOptions(self) -> Dict[str, int]:
        return {"execution_mode": 1}


class ParallelPhasedExecution(_ExecutionStrategy):
    def __init__(self, *phases: Any) -> None:
        raise NotImplementedError("the double has no phased execution")


class SerialPhasedExecution(ParallelPhasedExecution):
    pass


def _as_stage(arg: Any) -> Stage:
    if isinstance(arg, Stage):
        return arg
    if isinstance(arg, str):
        return Stage(arg)
    assert all(isinstance(part, str) for part in arg), "a stage is made of block ids"
    return Stage(*arg)
