"""popdist.poptorch: options of a process that poprun started; what poprun decided cannot be set again."""

from typing import Any, Optional

import popdist
import poptorch
from poptorch.option_sections import DistributedOptions


def _refused(name: str) -> RuntimeError:
    return RuntimeError(f"Cannot call `{name}` with popdist.poptorch.Options: poprun has set it")


class _Distributed(DistributedOptions):
    """Which of the instances this is."""

    def __init__(self) -> None:
        super().__init__()
        self.set(
            distributed_process_id=popdist.getInstanceIndex(),
            num_distributed_processes=popdist.getNumInstances(),
        )
        vars(self)["_given_by_poprun"] = True

    def disable(self) -> Any:
        raise _refused("Distributed.disable")

    def setEnvVarNames(self, var_num_processes: str, var_process_id: str) -> Any:
        if "_given_by_poprun" not in vars(self):
            return super().setEnvVarNames(var_num_processes, var_process_id)
        raise _refused("Distributed.setEnvVarNames")

    def configureProcessId(self, process_id: int, num_processes: int = 1) -> Any:
        if "_given_by_poprun" not in vars(self):
            return super().configureProcessId(process_id, num_processes)
        raise _refused("Distributed.configureProcessId")


class Options(poptorch.Options):
    """poptorch.Options with the replicas, the process and the device of one instance."""

    def __init__(self, ipus_per_replica: Optional[int] = None) -> None:
        super().__init__()
        if not popdist.isInitialized():
            raise RuntimeError("popdist.init() comes first")
        if ipus_per_replica is None:
            ipus_per_replica = popdist.getNumIpusPerReplica()
        elif not popdist.checkNumIpusPerReplica(ipus_per_replica):
            raise RuntimeError(
                f"{ipus_per_replica} IPUs per replica, but poprun was told {popdist.getNumIpusPerReplica()}"
            )
        vars(self).update(_distributed=_Distributed(), _ipus_per_replica=ipus_per_replica)
        super().replicationFactor(popdist.getNumLocalReplicas())

    def useIpuId(self, ipu_id: int) -> Any:
        raise _refused("useIpuId")

    def replicationFactor(self, replication_factor: int) -> Any:
        raise _refused("replicationFactor")

    def toDict(self) -> Any:
        """With the number of this instance's device, unless there is none to run on."""
        if self.connection_type != poptorch.ConnectionType.Never and not poptorch.machine.is_simulated(self):
            was_frozen = vars(self)["_is_frozen"]
            self._unfreeze()
            self.createOrSet(ipu_id=popdist.getDeviceId(self._ipus_per_replica))
            if was_frozen:
                self._freeze()
        return super().toDict()
