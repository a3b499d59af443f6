"""The command line: ``ipu-chem COMMAND ...``. Imports nothing heavy, so that --help answers at once."""

import argparse
import importlib
import os
import sys
from contextlib import ExitStack, redirect_stdout
from typing import Any, Dict, List, Optional, Tuple

from ipu_chem import __version__
from ipu_chem.backends.options import world_of_torchrun
from ipu_chem.options import nearest

# What a command does; its options and what it runs are in the module of ipu_chem.commands that is called like it.
COMMANDS: Dict[str, str] = {
    "prepare": "Prepare a data set and its edges, and print what is in it.",
    "pack": "Print how well molecules fill packs of given sizes.",
    "train": "Train a model; Ctrl-C writes a checkpoint that --resume continues from.",
    "search": "Train many candidates a little and the best of them to the end.",
    "scale": "Train a grid of sizes and say how loss follows size and data.",
    "evaluate": "Measure a trained run on one of its splits.",
    "predict": "Predict molecules of a SMILES or 3D file.",
    "md": "Simulate a molecule with the forces of trained runs.",
    "relax": "Move the atoms of structures to where trained runs see no forces.",
    "generate": "Write new molecules with a trained ChemGPT.",
    "metrics": "Compare generated molecules of any origin with known ones: MOSES' table, GuacaMol's measures.",
    "embed": "Turn molecules of a SMILES file into features of a trained ChemGPT.",
    "export": "Write a trained run for other programs, in real units.",
    "report": "Write report.html for one or more runs.",
    "recipes": "List shipped recipes and grids.",
    "doctor": "Say what is installed and what is missing, or how a run fits on IPUs.",
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 wrong arguments, 128 + n stopped by signal n)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = _command(argv)
    world = world_of_torchrun()
    if world.size > 1 and command != "train":
        return _fail(ValueError(f"torchrun starts processes that train together; run {command} without it."))
    try:
        with ExitStack() as stack:
            if world.rank > 0:  # of several processes, one speaks
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            module, arguments = parse(argv)
            status = module.run(*arguments)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError as error:
        if error.filename is not None:
            return _fail(error)
        # Whoever read what is printed has seen enough, as `| head` has; nor may the interpreter complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        return _fail(error)


def parse(argv: List[str]) -> Tuple[Any, List[Any]]:
    """The module of a command, and the arguments of its ``run``.

    Raises:
        SystemExit: help was asked for and printed, or a word is wrong.
        ValueError: options that cannot work.
    """
    from ipu_chem.commands import parsing

    command = _command(argv)
    module = importlib.import_module(f"ipu_chem.commands.{command}")
    try:
        return module, parsing.parse(command, COMMANDS[command], module, argv[1:])
    except parsing.Helped as text:
        print(str(text).rstrip())
        raise SystemExit(0) from None


def _command(argv: List[str]) -> str:
    """The first word; without one that is a command, help is printed."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {about}" for name, about in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="ipu-chem",
        usage="ipu-chem COMMAND [options]",
        description="Molecular models in fixed-shape packs, on IPUs, CPUs and GPUs.",
        epilog=f"commands:\n{listed}\n\nipu-chem COMMAND --help says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"ipu-chem {__version__}")
    if argv and argv[0] in COMMANDS:
        return argv[0]
    top.parse_args([word for word in argv[:1] if word.startswith("-")])
    if not argv:
        top.error("name a command; --help lists them")
    top.error(f"there is no command {argv[0]}{nearest(argv[0], list(COMMANDS))}")


def _fail(error: Exception) -> int:
    """Print an error as one sentence."""
    from ipu_chem.failures import TRACEBACK, sentence

    if os.environ.get(TRACEBACK, "") not in ("", "0"):
        raise error
    print(f"ipu-chem: {sentence(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
