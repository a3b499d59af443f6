"""Sections of the options: Options.Precision, Training, TensorLocations, Distributed and _Popart.

Names, defaults and checks of python/options.py. Version 3.4 has no autocast any more.
"""

import copy
import os
from typing import Any, Dict

import torch

from .enums import ReductionType
from .options_dict import OptionsDict


class PopartOptions:
    """PopART's own options by name; a wrong name or type shows when the program is compiled."""

    def __init__(self) -> None:
        self._is_frozen = False
        self.options: Dict[str, Any] = {}
        self.set("rearrangeAnchorsOnHost", False)

    def checkIsFrozen(self) -> None:
        if self._is_frozen:
            raise AttributeError("frozen options cannot be modified")

    def set(self, key: str, value: Any) -> "PopartOptions":
        self.checkIsFrozen()
        self.options[key] = value
        return self

    def setEngineOptions(self, engine_options: Dict[str, str]) -> "PopartOptions":
        return self.set("engineOptions", engine_options)

    def __deepcopy__(self, memory: Dict[int, Any]) -> "PopartOptions":
        copied = PopartOptions()
        copied.options = copy.deepcopy(self.options, memory)
        return copied


class PrecisionOptions(OptionsDict):
    def __init__(self, popart: PopartOptions) -> None:
        super().__init__()
        vars(self)["_popart_options"] = popart

    def enableFloatingPointExceptions(self, enabled: bool) -> "PrecisionOptions":
        assert isinstance(enabled, bool), "enableFloatingPointExceptions takes a bool"
        self._popart_options.set("enableFloatingPointChecks", enabled)
        return self

    def enableStochasticRounding(self, enabled: bool) -> "PrecisionOptions":
        self._popart_options.set("enableStochasticRounding", enabled)
        return self

    def setPartialsType(self, dtype: torch.dtype) -> "PrecisionOptions":
        if dtype not in (torch.float32, torch.float16):
            raise ValueError("setPartialsType takes torch.float or torch.half")
        name = "float" if dtype == torch.float32 else "half"
        self._popart_options.set("partialsTypeMatMuls", name)
        self._popart_options.set("convolutionOptions", {"partialsType": name})
        return self


class TrainingOptions(OptionsDict):
    def __init__(self) -> None:
        super().__init__(
            gradient_accumulation=1,
            accumulation_and_replication_reduction_type=ReductionType.Mean,
        )

    def gradientAccumulation(self, gradient_accumulation: int) -> "TrainingOptions":
        self.set(gradient_accumulation=gradient_accumulation)
        return self

    def accumulationAndReplicationReductionType(self, reduction_type: ReductionType) -> "TrainingOptions":
        if not isinstance(reduction_type, ReductionType) or reduction_type == ReductionType.NoReduction:
            raise ValueError("accumulationAndReplicationReductionType takes ReductionType.Sum or ReductionType.Mean")
        self.set(accumulation_and_replication_reduction_type=reduction_type)
        return self


class DistributedOptions(OptionsDict):
    """Which of several processes this is; Open MPI's variables say so unless the program does."""

    def __init__(self) -> None:
        super().__init__(num_distributed_processes=1, distributed_process_id=0, ipuof_configs={})
        self.setEnvVarNames("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")

    def disable(self) -> "DistributedOptions":
        self.set(num_distributed_processes=1, distributed_process_id=0)
        return self

    def setEnvVarNames(self, var_num_processes: str, var_process_id: str) -> "DistributedOptions":
        count, index = os.environ.get(var_num_processes, "1"), os.environ.get(var_process_id, "0")
        return self.configureProcessId(int(index), int(count))

    def configureProcessId(self, process_id: int, num_processes: int) -> "DistributedOptions":
        self.set(distributed_process_id=process_id)
        self.set(num_distributed_processes=num_processes)
        return self

    @property
    def processId(self) -> int:
        return self.distributed_process_id

    @property
    def numProcesses(self) -> int:
        return self.num_distributed_processes


class TensorLocationSettings(OptionsDict):
    """Where tensors of one kind are between steps; every setter returns the settings."""

    def useOnChipStorage(self, use: bool = True) -> "TensorLocationSettings":
        return self._set(bool, onChip=use)

    def useReplicatedTensorSharding(self, use: bool = True) -> "TensorLocationSettings":
        return self._set(bool, useReplicatedTensorSharding=use)

    def _set(self, kind: type, **setting: Any) -> "TensorLocationSettings":
        ((name, value),) = setting.items()
        assert isinstance(value, kind), f"{name} takes {kind.__name__}, got {value!r}"
        self.createOrSet(**{name: int(value)})
        return self


class TensorLocationOptions(OptionsDict):
    def numIOTiles(self, num_tiles: int) -> "TensorLocationOptions":
        assert isinstance(num_tiles, int)
        assert 32 <= num_tiles <= 192 and num_tiles % 2 == 0, "numIOTiles takes an even number from 32 to 192"
        self.createOrSet(numIOTiles=num_tiles)
        return self

    def setOptimizerLocation(self, location: TensorLocationSettings) -> "TensorLocationOptions":
        return self._set("location_optimizer", location)

    def _set(self, name: str, location: TensorLocationSettings) -> "TensorLocationOptions":
        assert isinstance(location, TensorLocationSettings)
        self.createOrSet(**{name: location.toDict()})
        return self
