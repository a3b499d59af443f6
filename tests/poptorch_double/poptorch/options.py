"""poptorch.Options: typed values that are frozen once a program uses them.

Only the options that ipu_chem sets; any other name is an AttributeError, as a misspelt one is in PopTorch.
"""

import copy
from typing import Any, Dict, List, Optional

import torch

from .enums import ConnectionType, OutputMode, ReductionType
from .poptorch_core import Error

# Session options of PopART that may be set by name here, with their types.
POPART_OPTIONS = {
    "accumulateOuterFragmentSettings.schedule": int,
    "replicatedCollectivesSettings.prepareScheduleForMergingCollectives": bool,
    "replicatedCollectivesSettings.mergeAllReduceCollectives": bool,
    "defaultBufferingDepth": int,
    "enableStochasticRounding": bool,
    "syntheticDataMode": int,
    "engineOptions": dict,
    "cachePath": str,
    "enableEngineCaching": bool,
    "instrumentWithHardwareCycleCounter": bool,
    "rearrangeAnchorsOnHost": bool,
}


class _Section:
    """Values that keep the type of their default; unknown names and frozen sections refuse."""

    def __init__(self, **defaults: Any) -> None:
        vars(self).update(_frozen=False, _values=dict(defaults))

    def set(self, **values: Any) -> None:
        self._check_frozen()
        for name, value in values.items():
            assert name in self._values, f"there is no option {name}"
            kind = type(self._values[name])
            assert isinstance(value, kind), f"option {name} takes {kind.__name__}, got {type(value).__name__}"
            self._values[name] = value

    def createOrSet(self, **values: Any) -> None:
        self._check_frozen()
        for name, value in values.items():
            if name in self._values:
                self.set(**{name: value})
            else:
                self._values[name] = value

    def exists(self, name: str) -> bool:
        return name in self._values

    def _check_frozen(self) -> None:
        if self._frozen:
            raise AttributeError("frozen options cannot be modified")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return vars(self)["_values"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no option {name}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_frozen()
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no private attribute {name}")
        self.set(**{name: value})


class _PopartOptions(_Section):
    """PopART's own options by name; a wrong name or type shows when the program is compiled."""

    def set(self, key: str, value: Any) -> "_PopartOptions":  # type: ignore[override]
        self._check_frozen()
        self._values[key] = value
        return self

    @property
    def options(self) -> Dict[str, Any]:
        return self._values

    def check(self) -> None:
        for name, value in self._values.items():
            if name not in POPART_OPTIONS:
                raise Error(f"PopART has no session option {name}")
            if type(value) is not POPART_OPTIONS[name]:
                raise Error(f"session option {name} takes {POPART_OPTIONS[name].__name__}, got {value!r}")


class _PrecisionOptions(_Section):
    def __init__(self, popart: _PopartOptions) -> None:
        super().__init__()
        vars(self)["_popart"] = popart

    def enableStochasticRounding(self, enabled: bool) -> "_PrecisionOptions":
        self._popart.set("enableStochasticRounding", enabled)
        return self


class _TrainingOptions(_Section):
    def __init__(self) -> None:
        super().__init__(
            gradient_accumulation=1,
            accumulation_and_replication_reduction_type=ReductionType.Mean,
        )

    def gradientAccumulation(self, gradient_accumulation: int) -> "_TrainingOptions":
        self.set(gradient_accumulation=gradient_accumulation)
        return self

    def accumulationAndReplicationReductionType(self, reduction_type: ReductionType) -> "_TrainingOptions":
        if not isinstance(reduction_type, ReductionType) or reduction_type == ReductionType.NoReduction:
            raise ValueError("accumulationAndReplicationReductionType takes ReductionType.Sum or ReductionType.Mean")
        self.set(accumulation_and_replication_reduction_type=reduction_type)
        return self


class Options(_Section):
    """How a program is compiled and run."""

    def __init__(self) -> None:
        super().__init__(
            replication_factor=1,
            device_iterations=1,
            auto_round_num_ipus=False,
            output_mode=int(OutputMode.Default),
            output_return_period=1,
            connection_type=int(ConnectionType.Always),
            available_memory_proportion={},
        )
        popart = _PopartOptions(instrumentWithHardwareCycleCounter=False, rearrangeAnchorsOnHost=False)
        vars(self).update(_popart=popart, _training=_TrainingOptions(), _precision=_PrecisionOptions(popart))

    @property
    def Training(self) -> _TrainingOptions:
        return vars(self)["_training"]

    @property
    def Precision(self) -> _PrecisionOptions:
        return vars(self)["_precision"]

    @property
    def _Popart(self) -> _PopartOptions:
        return vars(self)["_popart"]

    def deviceIterations(self, device_iterations: int) -> "Options":
        self.set(device_iterations=device_iterations)
        return self

    def replicationFactor(self, replication_factor: int) -> "Options":
        self.set(replication_factor=replication_factor)
        return self

    def autoRoundNumIPUs(self, auto_round_num_ipus: bool = True) -> "Options":
        self.set(auto_round_num_ipus=auto_round_num_ipus)
        return self

    def outputMode(self, output_mode: OutputMode, output_return_period: Optional[int] = None) -> "Options":
        assert isinstance(output_mode, OutputMode)
        if output_mode == OutputMode.EveryN:
            assert output_return_period and output_return_period > 0, "EveryN needs a period"
        self.set(output_mode=int(output_mode), output_return_period=output_return_period or 1)
        return self

    def defaultOutputMode(self) -> bool:
        return self.output_mode == OutputMode.Default

    def setAvailableMemoryProportion(self, available_memory_proportion: Dict[str, float]) -> "Options":
        for key in available_memory_proportion:
            assert key.startswith("IPU"), f"keys are IPU0, IPU1, ...; got {key}"
        shares = {int(key[3:]): share for key, share in available_memory_proportion.items()}
        self.createOrSet(available_memory_proportion=shares)
        return self

    def enableExecutableCaching(self, path: str) -> "Options":
        if path is not None:
            self._Popart.set("cachePath", path)
        self._Popart.set("enableEngineCaching", path is not None)
        return self

    def useIpuModel(self, use_model: bool) -> "Options":
        self.createOrSet(use_model=use_model)
        return self

    def connectionType(self, connection_type: ConnectionType) -> "Options":
        assert isinstance(connection_type, ConnectionType)
        self.set(connection_type=int(connection_type))
        return self

    def useOfflineIpuTarget(self, ipu_version: int = 2) -> "Options":
        self.connectionType(ConnectionType.Never)
        self.createOrSet(ipu_version=ipu_version)
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
        directory = {"autoReport.directory": profile_dir or ".", "autoReport.all": "true"}
        self._Popart.set("engineOptions", directory)
        return self

    def clone(self) -> "Options":
        return copy.deepcopy(self)

    def _freeze(self) -> None:
        for section in self._sections():
            vars(section)["_frozen"] = True

    def _sections(self) -> List[_Section]:
        return [self, self.Training, self.Precision, self._Popart]

    def __deepcopy__(self, memory: Dict[int, Any]) -> "Options":
        copied = Options()
        for mine, other in zip(self._sections(), copied._sections()):
            vars(other)["_values"] = copy.deepcopy(vars(mine)["_values"], memory)
        return copied
