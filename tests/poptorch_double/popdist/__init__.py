"""A double of PopDist: what poprun tells the processes that it starts, by the variables that it sets for them.

poprun exports POPDIST_NUM_TOTAL_REPLICAS, POPDIST_NUM_IPUS_PER_REPLICA, POPDIST_NUM_LOCAL_REPLICAS,
POPDIST_UNIFORM_REPLICAS_PER_INSTANCE, POPDIST_REPLICA_INDEX_OFFSET and POPDIST_LOCAL_INSTANCE_INDEX (its
verbose log of the mpirun command shows them); which instance of how many this is follows from them. Names as
in the PopRun and PopDist user guide, Python API.

Stricter than PopDist, whose getters fall back to a single instance: without poprun they raise here.
"""

import os
from typing import Dict

_VARIABLES = (
    "NUM_TOTAL_REPLICAS",
    "NUM_IPUS_PER_REPLICA",
    "NUM_LOCAL_REPLICAS",
    "UNIFORM_REPLICAS_PER_INSTANCE",
    "REPLICA_INDEX_OFFSET",
    "LOCAL_INSTANCE_INDEX",
)
_state = {"initialized": False}


def isPopdistEnvSet() -> bool:
    """Whether poprun started this process."""
    return any(f"POPDIST_{name}" in os.environ for name in _VARIABLES)


def init() -> None:
    """Find the other instances; comes before everything that they do together."""
    _environment()
    _state["initialized"] = True


def isInitialized() -> bool:
    return _state["initialized"]


def getNumTotalReplicas() -> int:
    return _environment()["NUM_TOTAL_REPLICAS"]


def getNumLocalReplicas() -> int:
    return _environment()["NUM_LOCAL_REPLICAS"]


def getNumIpusPerReplica() -> int:
    return _environment()["NUM_IPUS_PER_REPLICA"]


def checkNumIpusPerReplica(ipus_per_replica: int) -> bool:
    """Whether this is what poprun was told."""
    return getNumIpusPerReplica() == ipus_per_replica


def getReplicaIndexOffset() -> int:
    return _environment()["REPLICA_INDEX_OFFSET"]


def getLocalInstanceIndex() -> int:
    """Among the instances of this host."""
    return _environment()["LOCAL_INSTANCE_INDEX"]


def getNumInstances() -> int:
    return _uniform()["NUM_TOTAL_REPLICAS"] // getNumLocalReplicas()


def getInstanceIndex() -> int:
    return _uniform()["REPLICA_INDEX_OFFSET"] // getNumLocalReplicas()


def getDeviceId(ipusPerReplica: int = 0) -> int:
    """The device, among those of this host, that has this instance's IPUs."""
    from poptorch.machine import Machine

    size = (ipusPerReplica or getNumIpusPerReplica()) * getNumLocalReplicas()
    fitting = [number for number, ipus in Machine.devices().items() if ipus == size]
    if getLocalInstanceIndex() >= len(fitting):
        raise RuntimeError(f"no device with {size} IPUs for instance {getLocalInstanceIndex()} of this host")
    return fitting[getLocalInstanceIndex()]


def _environment() -> Dict[str, int]:
    """The variables as numbers.

    Raises:
        RuntimeError: they are not there, or contradict each other.
    """
    missing = [f"POPDIST_{name}" for name in _VARIABLES if f"POPDIST_{name}" not in os.environ]
    if missing:
        raise RuntimeError(f"{missing[0]} is not set: start the program with poprun")
    values = {name: int(os.environ[f"POPDIST_{name}"]) for name in _VARIABLES}
    total, local = values["NUM_TOTAL_REPLICAS"], values["NUM_LOCAL_REPLICAS"]
    offset = values["REPLICA_INDEX_OFFSET"]
    if local < 1 or total < 1 or not 0 <= offset <= total - local:
        raise RuntimeError(f"{local} of {total} replicas, from number {offset} on: poprun sets no such variables")
    return values


def _uniform() -> Dict[str, int]:
    values = _environment()
    if not values["UNIFORM_REPLICAS_PER_INSTANCE"]:
        raise RuntimeError("instances have different numbers of replicas: they are not counted")
    return values
