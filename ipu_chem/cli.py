"""The command line: ``ipu-chem prepare | pack | train | search | scale | evaluate | predict | md | generate | ...``.

On data's way: flags and YAML -> config -> the workflow of the same name. Heavy imports wait until a command
runs, so that --help answers at once.
"""

import os
import sys
from contextlib import ExitStack, redirect_stdout
from typing import Any, Callable, Dict, List, Optional

from ipu_chem import __version__
from ipu_chem.backends.options import world_of_torchrun
from ipu_chem.commands import embed, generate, pack, runs, scale, search, simulate
from ipu_chem.config import keys, nearest

# What went wrong on the user's side of the line: told in one sentence, without a traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError)


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 wrong arguments, 128 + n stopped by signal n)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        argv = runs.expand_config(argv)
    except _USER_ERRORS as error:
        return _fail(error)
    parser, commands = build_parser()
    arguments = parser.parse_args(argv)
    world = world_of_torchrun()
    if world.size > 1 and arguments.command != "train":
        return _fail(ValueError(f"torchrun starts processes that train together; run {arguments.command} without it."))
    try:
        with ExitStack() as stack:
            if world.rank > 0:  # of several processes, one speaks
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            return commands[arguments.command](arguments[arguments.command])
    except _USER_ERRORS as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def build_parser() -> "tuple[Any, Dict[str, Callable[[Any], int]]]":
    """The parser and the function behind every command."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Adds the nearest option to the complaint about an unknown one."""

        def error(self, message: str, *args: Any, **kwargs: Any) -> Any:
            words = message.split("--")
            if "nrecognized arguments" in message and len(words) > 1:
                message += nearest(words[1].split()[0].split("=")[0], keys())
            return super().error(message, *args, **kwargs)

    top = Parser(
        prog="ipu-chem",
        description="Molecular models in fixed-shape packs, on IPUs, CPUs and GPUs.",
        version=__version__,
    )
    subcommands = top.add_subcommands(dest="command", required=True)
    commands: Dict[str, Callable[[Any], int]] = {}

    def add(name: str, help_text: str, run: Callable[[Any], int]) -> Any:
        parser = Parser(description=help_text)
        commands[name] = run
        subcommands.add_subcommand(name, parser, help=help_text)
        return parser

    prepare = add("prepare", "Prepare a data set and its edges, and print what is in it.", runs.prepare)
    runs.add_prepare_arguments(prepare)
    pack.add_arguments(add("pack", "Print how well molecules fill packs of given sizes.", pack.run))
    train = add("train", "Train a model; Ctrl-C writes a checkpoint that --resume continues from.", runs.train)
    train.add_argument("--resume", type=str, default=None, help="folder of a run to continue")
    runs.add_run_arguments(train)
    search.add_arguments(add("search", "Train many candidates a little and the best of them to the end.", search.run))
    scale.add_arguments(add("scale", "Train a grid of sizes and say how loss follows size and data.", scale.run))
    runs.add_evaluate_arguments(add("evaluate", "Measure a trained run on one of its splits.", runs.evaluate))
    runs.add_predict_arguments(add("predict", "Predict molecules of a SMILES or 3D file.", runs.predict))
    simulate.add_md_arguments(add("md", "Simulate a molecule with the forces of trained runs.", simulate.md))
    simulate.add_relax_arguments(
        add("relax", "Move the atoms of structures to where trained runs see no forces.", simulate.relax)
    )
    generate.add_arguments(add("generate", "Write new molecules with a trained ChemGPT.", generate.run))
    embed.add_arguments(add("embed", "Turn molecules of a SMILES file into features of a trained ChemGPT.", embed.run))
    report = add("report", "Write report.html for one or more runs.", runs.report)
    report.add_argument("runs", nargs="+", help="folders of runs")
    doctor = add("doctor", "Say what is installed and what is missing, or how a run fits on IPUs.", runs.doctor)
    runs.add_doctor_arguments(doctor)
    return top, commands


def _fail(error: BaseException) -> int:
    print(f"ipu-chem: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
