"""What the compiled part of PopTorch does with the options of a program: names, types and ranges.

From popart_compiler/source/SessionOptions.cpp (which name has which type), poptorch/source/
SessionOptionsParser.cpp (which Python type becomes which of them, a bool before a number) and PopART's
headers (how many values an enumeration has). Of PopART's own options only those that the backend sets.
"""

import math
from typing import Any, Dict, Optional

from .poptorch_core import Error

BOOLS = frozenset(
    """
use_model broadcast_buffers rearrangeAnchorsOnHost enableEngineCaching enableFloatingPointChecks
enableStochasticRounding replicatedCollectivesSettings.prepareScheduleForMergingCollectives
replicatedCollectivesSettings.mergeAllReduceCollectives
""".split()
)
# Whole numbers from 0 on; a value here is the number of values of an enumeration.
INTEGERS: Dict[str, Optional[int]] = {
    "execution_mode": 3,
    "output_mode": 5,
    "connection_type": 3,
    "accumulation_and_replication_reduction_type": 3,
    "accumulateOuterFragmentSettings.schedule": 4,
    "autoRecomputation": 5,
    "syntheticDataMode": 4,
    **dict.fromkeys(
        "device_iterations num_distributed_processes distributed_process_id ipu_version ipu_id gradient_accumulation "
        "replication_factor random_seed numIOTiles defaultBufferingDepth".split()
    ),
}
STRINGS = ("cachePath", "partialsTypeMatMuls")
CONTAINERS = ("engineOptions", "convolutionOptions")
LOCATIONS = ("location_optimizer",)
LOCATION_SETTINGS = ("onChip", "useReplicatedTensorSharding")


def check(options: Dict[str, Any]) -> None:
    """Refuse what is not among the options of PopTorch and PopART, or has another type or range there."""
    for name, value in options.items():
        if isinstance(value, bool):
            _known(name, BOOLS, "bool")
        elif isinstance(value, float):
            _known(name, (), "floating point")
        elif isinstance(value, int):
            _known(name, INTEGERS, "uint64")
            _in_range(name, value)
        elif isinstance(value, str):
            _known(name, STRINGS, "string")
        elif isinstance(value, dict):
            _check_dict(name, value)
        else:
            raise Error(f"option {name} has a value of an unknown type, {type(value).__name__}")


def _check_dict(name: str, values: Dict[Any, Any]) -> None:
    if name == "available_memory_proportion":
        for ipu, share in values.items():
            # PopART's builder refuses a share of 0 (willow/src/builder.cpp); poptorch takes any number.
            if not isinstance(share, (int, float)) or not 0 < share <= 1 or math.isnan(share):
                raise Error(f"available memory proportion {share!r} of IPU {ipu} is not in (0, 1]")
    elif name.startswith("location_"):
        if name not in LOCATIONS:
            raise Error(f"there is no tensor location {name}")
        for setting, value in values.items():
            if setting not in LOCATION_SETTINGS:
                raise Error(f"there is no setting {setting} for {name}")
            _in_range(setting, value)
    elif name != "ipuof_configs":
        for key, value in values.items():
            _known(name, CONTAINERS, "map")
            _text(name, key)
            _text(name, value)


def _known(name: str, names: Any, kind: str) -> None:
    if name not in names:
        raise Error(f"there is no {kind} option {name}")


def _in_range(name: str, value: int) -> None:
    count = INTEGERS.get(name)
    if value < 0 or value >= 1 << 64 or (count is not None and value >= count):
        raise Error(f"option {name}={value} is out of range")


def _text(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Error(f"option {name} holds {value!r}, which cannot be made a string")
