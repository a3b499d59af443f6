"""Say what is installed and what is missing, or how a run fits on IPUs."""

from dataclasses import dataclass
from typing import Optional

from ipu_chem.config import DataConfig, ModelConfig, RunConfig
from ipu_chem.ranges import check_fields

SECTIONS = {"data": DataConfig, "model": ModelConfig}
WITHOUT_RUN = True  # without an option of a run: what is installed


@dataclass(frozen=True)
class Options:
    """Run and machine to diagnose.

    Attributes:
        ipus: IPUs that there will be, 1, 2, 4, ...; the config's own if not given.
        loader_seconds: seconds for which this host's loader is measured, to see whether it keeps up with the IPUs; 0
            leaves it out, e.g. where the IPUs will have another host.
        atoms: atoms of a molecule on average, for molecules a second; QM9's 18.
        link: GB/s from the host to all IPUs; if not given, from 1 to 12.5.
    """

    ipus: Optional[int] = None
    loader_seconds: float = 1.0
    atoms: Optional[float] = None
    link: Optional[float] = None

    def __post_init__(self) -> None:
        check_fields(self, ipus="from 1 to 65,536", atoms="1 or more")  # the others with their meaning, further on


def run(options: Options, config: Optional[RunConfig]) -> int:
    """Print the diagnosis, or for a run how it fits on IPUs."""
    from ipu_chem.doctor.diagnosis import print_diagnosis, print_plan

    if config is not None:
        return print_plan(config, options.ipus, options.loader_seconds, options.atoms, options.link)
    if options.ipus is not None:
        raise ValueError("--ipus says on how many IPUs a run shall fit: name it with --config or --model.name.")
    if options.atoms is not None or options.link is not None:
        raise ValueError("--atoms and --link say how fast a run will be: name it with --config or --model.name.")
    return print_diagnosis()
