"""Say what is installed and what is missing, or how a run fits on IPUs."""

from dataclasses import dataclass
from typing import Optional

from ipu_chem.commands.recipes import config_path, read_yaml


@dataclass(frozen=True)
class Options:
    """Run and machine to diagnose.

    Attributes:
        config: YAML file or shipped recipe: say whether and how it fits on IPUs.
        ipus: IPUs that there will be, 1, 2, 4, ...; the config's own if not given.
        loader_seconds: seconds for which this host's loader is measured, to see whether it keeps up with the IPUs; 0
            leaves it out, e.g. where the IPUs will have another host.
        atoms: atoms of a molecule on average, for molecules a second; QM9's 18.
        link: GB/s from the host to all IPUs; if not given, from 1 to 12.5.
    """

    config: Optional[str] = None
    ipus: Optional[int] = None
    loader_seconds: float = 1.0
    atoms: Optional[float] = None
    link: Optional[float] = None


def run(options: Options) -> int:
    """Print the diagnosis, or for a configuration how it fits on IPUs."""
    from ipu_chem.config import from_dict
    from ipu_chem.doctor.diagnosis import print_diagnosis, print_plan

    if options.config is None:
        if options.ipus is not None:
            raise ValueError("--ipus says on how many IPUs a run shall fit: name it with --config.")
        if options.atoms is not None or options.link is not None:
            raise ValueError("--atoms and --link say how fast a run will be: name it with --config.")
        return print_diagnosis()
    path = config_path(options.config)
    try:
        config = from_dict(read_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return print_plan(config, options.ipus, options.loader_seconds, options.atoms, options.link)
