"""Write a trained run for other programs, with its units undone or written beside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_folder
from ipu_chem.ranges import SLOTS, check_fields

_SHAPE = ("nodes", "edges", "graphs", "tokens")


@dataclass(frozen=True)
class Options:
    """Format and place of the files.

    Attributes:
        format: state_dict (safetensors), torch_export (a program of one shape), huggingface (language models), or
            pyg (SchNet of PyTorch Geometric).
        output: folder to write; RUN/export/FORMAT if not given.
        overwrite: replace an earlier export.
        nodes: atoms of a pack of the program; 0 takes the run's.
        edges: pairs of atoms of a pack; 0 takes the run's.
        graphs: molecules of a pack; 0 takes the run's.
        tokens: tokens of a packed sequence; 0 takes the run's.
    """

    run: str = positional("folder of the run")
    format: Literal["state_dict", "torch_export", "huggingface", "pyg"]
    output: str = ""
    overwrite: bool = False
    nodes: int = 0
    edges: int = 0
    graphs: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(_SHAPE, SLOTS))


def run(options: Options) -> int:
    """Write the files and say where they are."""
    from ipu_chem.trained_run import TrainedRun

    output = options.output or str(Path(options.run) / "export" / options.format)
    shape = {name: getattr(options, name) for name in _SHAPE if getattr(options, name)}
    if shape and options.format != "torch_export":
        raise ValueError(
            f"--{next(iter(shape))} is the shape of a program: give --format torch_export, or leave it out."
        )
    check_folder("--output", output)
    made = TrainedRun.load(options.run).export(output, options.format, overwrite=options.overwrite, **shape)
    print(f"{options.format}: {made}; README.md there says how to read it")
    return 0
