"""Move the atoms of structures to where trained runs see no forces."""

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

from ipu_chem.commands.parsing import part, positional
from ipu_chem.simulation.options import RelaxOptions

_NAMED = 5  # structures in the summary


@dataclass(frozen=True)
class Options(RelaxOptions):
    """Structures to relax.

    Attributes:
        structures: .xyz, .extxyz, .sdf, .db or .npz file.
        structure: another spelling of structures, that of md.
    """

    runs: List[str] = positional("folder of a run, or of several, whose mean forces move the atoms", "+")
    structures: str = ""
    structure: str = ""


def completed(given: Dict[str, Any]) -> Dict[str, Any]:
    """The options that were given, under one spelling."""
    return {"structures" if name == "structure" else name: value for name, value in given.items()}


def run(options: Options) -> int:
    """Relax every structure of a file, and say how many did not come to rest, and which are the first of them."""
    from ipu_chem.data.files.text import existing_file
    from ipu_chem.outputs import check_file, data_of

    if not options.structures:
        raise ValueError("--structures is needed: an .xyz, .extxyz, .sdf, .db or .npz file.")
    read = [existing_file(options.structures), *data_of(options.runs)]
    check_file("--output", options.output, (".extxyz",), read)  # before torch is loaded
    from ipu_chem.simulation.relax import relax_file

    relaxed = relax_file(options.runs, options.structures, part(options, RelaxOptions))
    left = [one for one in relaxed if not one.converged]
    done = len(relaxed) - len(left)
    structures = "structure" if done == 1 else "structures"
    print(f"{done:,} {structures} relaxed to {options.fmax} eV/Å, {len(left):,} not: {options.output}")
    if left:
        print(f"not relaxed: {_named(left)}; their comment lines say converged=F.")
    return 0 if done else 1


def _named(left: Sequence[Any]) -> str:
    """The first of some structures that did not come to rest, and why; how many there are more."""
    words = []
    for one in left[:_NAMED]:
        steps = "1 step" if one.steps == 1 else f"{one.steps:,} steps"
        why = one.reason.rstrip(".") or f"{one.fmax:.3g} eV/Å after {steps}"
        words.append(f"{one.name} ({why})")
    more = len(left) - _NAMED
    return ", ".join(words) + (f" and {more:,} more" if more > 0 else "")
