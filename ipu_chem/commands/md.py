"""Simulate a molecule, or many at once, with the forces of trained runs, or go on with a simulation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from ipu_chem.commands.parsing import ELSEWHERE, TRUTH, part, positional
from ipu_chem.simulation.options import MdOptions

_SHOWN = (
    ("drift_meV_per_atom_per_ps", "drift of the total energy, meV per atom and ps"),
    ("mean_absolute_drift_meV_per_atom_per_ps", "its mean size over copies"),
    ("worst_drift_meV_per_atom_per_ps", "its worst among copies"),
    ("largest_deviation_meV_per_atom", "its largest deviation from the start, meV per atom"),
    ("temperature_mean_K", "mean temperature, K"),
    ("largest_bond_ratio", "most stretched bond, of its length at the start"),
    ("largest_OH_angstrom", "longest O-H bond, Å"),
    ("largest_force_std_eV_per_A", "largest disagreement of forces, eV/Å"),
    ("largest_energy_half_width_eV", "largest half-width of the intervals of energies, eV"),
    ("largest_force_half_width_eV_per_A", "largest half-width of the intervals of forces, eV/Å"),
    ("milliseconds_per_step", "ms per step"),
    ("microseconds_per_molecule_step", "µs per step of a molecule"),
    ("copies_that_exploded", "copies exploded and were stopped"),
)


@dataclass(frozen=True)
class Options(MdOptions):
    """A simulation, or one to go on with.

    Attributes:
        structures: another spelling of structure, that of relax.
        resume: folder of a simulation to go on with, up to --time; its options are those of its start.
    """

    structure: str = ""
    structures: str = ""
    runs: List[str] = positional("folder of a run, or of several, whose mean forces move the atoms", "*")
    resume: str = ""


def completed(given: Dict[str, Any]) -> Dict[str, Any]:
    """The options that were given, over those that a resumed simulation was begun with."""
    given = {"structure" if name == "structures" else name: value for name, value in given.items()}
    folder = given.get("resume", "")
    if folder.lower() in TRUTH:
        print("--resume names the folder now, as in --resume md; --resume true goes with the next release.")
        folder = given.get("out", Options.out) if folder.lower() in ("true", "yes") else ""
    if not folder:
        return {**given, "resume": ""}
    if given.get("out", folder) != folder:
        raise ValueError(ELSEWHERE)
    from ipu_chem.simulation.records import read_state

    given = {name: value for name, value in given.items() if value != []}  # no runs among the words
    return {**read_state(folder)["asked"], **given, "out": folder, "resume": folder}


def run(options: Options) -> int:
    """Simulate, and print how well energy and bonds were kept."""
    from ipu_chem.data.files.text import existing_file
    from ipu_chem.outputs import check_folder

    if not options.runs or not options.structure:
        raise ValueError("give folders of runs and --structure, or --resume and the folder of a simulation.")
    check_folder("--out", options.out)
    if not (options.resume or Path(options.structure).is_dir()):
        existing_file(options.structure)  # before torch is loaded
    from ipu_chem.simulation.md import run_md

    summary = run_md(options.runs, part(options, MdOptions), bool(options.resume))
    atoms = f"{summary['atoms']:,} atoms" + (f" in {summary['copies']:,} copies" if "copies" in summary else "")
    print(f"{summary['steps']:,} steps, {summary['time_ps']:.4g} ps of {atoms} in {options.out}")
    for name, what in _SHOWN:
        if summary.get(name):
            print(f"{summary[name]:12.4g}  {what}")
    if not (summary["signal"] or summary.get("milliseconds_per_step") or summary.get("microseconds_per_molecule_step")):
        longer = f"{2 * summary['steps'] * options.timestep / 1000:.4g}"
        print(f"nothing was left to do; go on with: ipu-chem md --resume {options.out} --time {longer}")
    if summary["signal"]:
        print(f"stopped after step {summary['steps']}; go on with: ipu-chem md --resume {options.out}")
        return 128 + summary["signal"]
    return 0
