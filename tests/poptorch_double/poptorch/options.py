"""poptorch.Options: typed values that are frozen once a program or a loader uses them (python/options.py).

What it leaves out is an AttributeError, as a misspelt name is in PopTorch.
"""

import copy
import os
from typing import Any, Dict, Optional

import torch

from .enums import ConnectionType, OutputMode
from .option_sections import (
    DistributedOptions,
    PopartOptions,
    PrecisionOptions,
    TensorLocationOptions,
    TensorLocationSettings,
    TrainingOptions,
)
from .options_dict import OptionsDict
from .strategies import PipelinedExecution

__all__ = ["Options", "TensorLocationSettings"]


class Options(OptionsDict):
    """How a program is compiled and run."""

    def __init__(self) -> None:
        super().__init__(
            replication_factor=1,
            broadcast_buffers=True,
            device_iterations=1,
            output_mode=OutputMode.Default.value,
            connection_type=ConnectionType.Always.value,
            available_memory_proportion={},
        )
        popart = PopartOptions()
        vars(self).update(
            _popart=popart,
            _graphProcessing=PrecisionOptions(popart),
            _training=TrainingOptions(),
            _distributed=DistributedOptions(),
            _tensor_locations=TensorLocationOptions(),
            _execution_strategy=PipelinedExecution(),
        )
        path = os.environ.get("POPTORCH_CACHE_DIR", "")
        if path:
            self.enableExecutableCaching(path)

    # Sections.

    @property
    def TensorLocations(self) -> TensorLocationOptions:
        return vars(self)["_tensor_locations"]

    @property
    def Distributed(self) -> DistributedOptions:
        return vars(self)["_distributed"]

    @property
    def Precision(self) -> PrecisionOptions:
        return vars(self)["_graphProcessing"]

    @property
    def Training(self) -> TrainingOptions:
        return vars(self)["_training"]

    @property
    def _Popart(self) -> PopartOptions:
        return vars(self)["_popart"]

    # The schedule and the devices.

    def deviceIterations(self, device_iterations: int) -> "Options":
        self.set(device_iterations=device_iterations)
        return self

    def replicationFactor(self, replication_factor: int) -> "Options":
        self.set(replication_factor=replication_factor)
        return self

    def setExecutionStrategy(self, strategy: Any) -> "Options":
        assert isinstance(strategy, PipelinedExecution), f"{strategy!r} is no execution strategy"
        self._execution_strategy = strategy
        return self

    def setAvailableMemoryProportion(self, available_memory_proportion: Dict[str, float]) -> "Options":
        shares = {}
        for key, share in available_memory_proportion.items():
            assert key.startswith("IPU"), f"keys are IPU0, IPU1, ...; got {key}"
            shares[int(key[3:])] = share
        self.createOrSet(available_memory_proportion=shares)
        return self

    def useIpuModel(self, use_model: bool) -> "Options":
        self.createOrSet(use_model=use_model)
        return self

    def connectionType(self, connection_type: ConnectionType) -> "Options":
        assert isinstance(connection_type, ConnectionType)
        self.set(connection_type=connection_type.value)
        return self

    def useIpuId(self, ipu_id: int) -> "Options":
        assert isinstance(ipu_id, int)
        self.createOrSet(ipu_id=ipu_id)
        return self

    def useOfflineIpuTarget(self, ipu_version: int = 2) -> "Options":
        self.connectionType(ConnectionType.Never)
        self.createOrSet(ipu_version=ipu_version)
        return self

    # What comes back.

    def outputMode(self, output_mode: OutputMode) -> "Options":
        assert isinstance(output_mode, OutputMode)
        self.set(output_mode=output_mode.value)
        return self

    def defaultOutputMode(self) -> bool:
        return self.output_mode == OutputMode.Default

    # Everything else.

    def enableExecutableCaching(self, path: str) -> "Options":
        if path is not None:
            self._Popart.set("cachePath", path)
        self._Popart.set("enableEngineCaching", path is not None)
        return self

    def randomSeed(self, random_seed: int) -> "Options":
        assert isinstance(random_seed, int)
        torch.manual_seed(random_seed)
        self.createOrSet(random_seed=random_seed)
        return self

    def enableSyntheticData(self, enabled: bool) -> "Options":
        self._Popart.set("syntheticDataMode", 2 if enabled else 0)
        return self

    def enableProfiling(self, profile_dir: Optional[str] = None) -> "Options":
        engine = self._Popart.options.get("engineOptions", {})
        engine.update({"debug.allowOutOfMemory": "true", "autoReport.directory": profile_dir or "."})
        engine["autoReport.all"] = "true"
        self._Popart.setEngineOptions(engine)
        return self

    def toDict(self) -> Dict[str, Any]:
        """All of them as the compiled part gets them."""
        assert not self.defaultOutputMode(), "an output mode must be picked first"
        merged = self._execution_strategy.backendOptions()
        merged.update(self._Popart.options)
        for section in (super(), self.Training, self.Distributed, self.TensorLocations):
            section.update(merged)
        return merged

    def clone(self) -> "Options":
        return copy.deepcopy(self)
