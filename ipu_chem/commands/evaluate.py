"""Measure a trained run on one of its splits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from ipu_chem.commands.parsing import positional


@dataclass(frozen=True)
class Options:
    """Run and split to measure.

    Attributes:
        split: which molecules.
        accelerator: auto, cpu, cuda or ipu; the run's own if not given.
    """

    run: str = positional("folder of the run")
    split: Literal["train", "validation", "test"] = "test"
    accelerator: Optional[str] = None


def run(options: Options) -> int:
    """Print the metrics of the run's best checkpoint."""
    from ipu_chem.train import evaluate

    for name, value in evaluate(Path(options.run), options.split, options.accelerator).items():
        print(f"{options.split}: {name} {value:.4g}")
    return 0
