"""The commands `md` and `relax`: trained runs move atoms.

On data's way: run folders, structures -> Calculator -> trajectory or relaxed structures, and how well it went.
"""

from dataclasses import fields
from typing import Any

from ipu_chem.simulation.options import MdOptions, RelaxOptions

_SHOWN = (
    ("drift_meV_per_atom_per_ps", "drift of the total energy, meV per atom and ps"),
    ("largest_deviation_meV_per_atom", "its largest deviation from the start, meV per atom"),
    ("temperature_mean_K", "mean temperature, K"),
    ("largest_bond_ratio", "most stretched bond, of its length at the start"),
    ("largest_OH_angstrom", "longest O-H bond, Å"),
    ("largest_force_std_eV_per_A", "largest disagreement of forces, eV/Å"),
    ("milliseconds_per_step", "ms per step"),
)


def add_md_arguments(parser: Any) -> None:
    """Arguments of `md`."""
    parser.add_argument("runs", nargs="+", help="folder of a run, or of several, whose mean forces move the atoms")
    parser.add_class_arguments(MdOptions, None)
    parser.add_argument("--resume", type=bool, default=False, help="go on with the simulation in --out up to --time")


def md(arguments: Any) -> int:
    """Simulate, and print how well energy and bonds were kept."""
    from ipu_chem.simulation.md import run_md

    options = MdOptions(**{field.name: getattr(arguments, field.name) for field in fields(MdOptions)})
    summary = run_md(arguments.runs, options, arguments.resume)
    print(f"{summary['steps']:,} steps, {summary['time_ps']:.4g} ps of {summary['atoms']} atoms in {options.out}")
    for name, what in _SHOWN:
        if summary[name]:
            print(f"{summary[name]:12.4g}  {what}")
    if summary["signal"]:
        print(f"stopped after step {summary['steps']}; go on with the same command and --resume true")
        return 128 + summary["signal"]
    return 0


def add_relax_arguments(parser: Any) -> None:
    """Arguments of `relax`."""
    parser.add_argument("runs", nargs="+", help="folder of a run, or of several, whose mean forces move the atoms")
    parser.add_argument("--structures", type=str, required=True, help=".xyz, .extxyz or .sdf file")
    parser.add_class_arguments(RelaxOptions, None)


def relax(arguments: Any) -> int:
    """Relax every structure of a file and list those that did not come to rest."""
    from ipu_chem.simulation.relax import relax_file

    options = RelaxOptions(**{field.name: getattr(arguments, field.name) for field in fields(RelaxOptions)})
    relaxed = relax_file(arguments.runs, arguments.structures, options)
    left = [one for one in relaxed if not one.converged]
    for one in left:
        print(f"{one.name}: the largest force is {one.fmax:.3g} eV/Å after {one.steps} steps{one.reason}")
    print(
        f"{len(relaxed) - len(left):,} structures relaxed to {options.fmax} eV/Å, {len(left):,} not: {options.output}"
    )
    return 0 if len(left) < len(relaxed) else 1
