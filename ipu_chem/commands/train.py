"""Train a model, or go on training."""

from dataclasses import dataclass
from functools import reduce
from typing import Any, Dict

from ipu_chem.config import DataConfig, ModelConfig, RunConfig
from ipu_chem.options import nested, walk

SECTIONS = {"data": DataConfig, "model": ModelConfig}


@dataclass(frozen=True)
class Options:
    """Run to go on with.

    Attributes:
        resume: folder of a run to continue; its options are those of its start, unless flags change them.
    """

    resume: str = ""


def run(options: Options, config: RunConfig) -> int:
    """Train; prints first what differs from the defaults."""
    import yaml

    from ipu_chem.train import train

    print(yaml.safe_dump(changed(config), sort_keys=False))
    result = train(config, resume=bool(options.resume))
    if result["stopped_by"]:
        print(f"stopped after step {result['step']}; continue with: ipu-chem train --resume {config.out}")
        return 128 + result["stopped_by"]
    return 0


def changed(config: RunConfig) -> Dict[str, Any]:
    """Options that differ from the defaults of the chosen model and data set, nested; their names always."""
    found: Dict[str, Any] = {"data.name": config.data.name, "model.name": config.model.name}
    for option in walk(RunConfig, {"data": type(config.data), "model": type(config.model)}):
        value = reduce(getattr, option.name.split("."), config)
        if value != option.default:
            found[option.name] = list(value) if isinstance(value, tuple) else value
    return nested(found)
