"""Predict the molecules of a file."""

from dataclasses import dataclass
from typing import Optional

from ipu_chem.commands.parsing import positional


@dataclass(frozen=True)
class Options:
    """Run, molecules and output.

    Attributes:
        output: CSV to write, or .extxyz with forces.
        smiles_column: column of a .csv file that holds SMILES.
        strict: stop at the first molecule that fails.
        accelerator: auto, cpu, cuda or ipu; the run's own if not given.
        length_unit: of positions in a 3D file: A, bohr, nm or pm; empty takes what the file states, else Å.
        charge: e, of structures whose file states none.
        multiplicity: 2S + 1, of structures whose file states none.
    """

    run: str = positional("folder of the run")
    input: str = positional(".smi, .csv, .xyz, .extxyz or .sdf file, also gzipped")
    output: str = "predictions.csv"
    smiles_column: Optional[str] = None
    strict: bool = False
    accelerator: Optional[str] = None
    length_unit: str = ""
    charge: Optional[int] = None
    multiplicity: Optional[int] = None


def run(options: Options) -> int:
    """Predict, and list molecules that could not be."""
    from ipu_chem.prediction.predict import predict_file

    done, refused = predict_file(
        options.run,
        options.input,
        options.output,
        options.smiles_column,
        options.strict,
        accelerator=options.accelerator,
        structures={name: getattr(options, name) for name in ("length_unit", "charge", "multiplicity")},
    )
    for entry in refused:
        print(f"line {entry.line} ({entry.name}): {entry.reason}")
    print(f"{done:,} molecules predicted, {len(refused):,} refused: {options.output}")
    return 0 if done else 1
