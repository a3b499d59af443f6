"""Predict the molecules of a file."""

from dataclasses import dataclass
from typing import List, Optional

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_file, data_of
from ipu_chem.prediction import SUFFIXES
from ipu_chem.ranges import check_fields


@dataclass(frozen=True)
class Options:
    """Runs, molecules and output.

    Attributes:
        output: CSV to write, or .extxyz with forces.
        interval: coverage, such as 0.9, of intervals that are written beside every prediction.
        columns: all also writes the input's columns.
        smiles_column: column of a table that holds SMILES, if it is not called so.
        delimiter: between the cells of a table: comma, semicolon, tab or another character; empty finds it.
        encoding: of a file of SMILES, such as cp1252; empty finds it.
        strict: stop at the first molecule that fails.
        accelerator: auto, cpu, cuda or ipu; the run's own if not given.
        length_unit: of positions in a 3D file: A, bohr, nm or pm; empty takes what the file states, else Å.
        charge: e, of structures whose file states none.
        multiplicity: 2S + 1, of structures whose file states none.
    """

    runs: List[str] = positional("folder of a run, or of several, whose mean and spread are written", "+")
    input: str = positional(".smi, .csv, .xyz, .extxyz or .sdf file, also gzipped", behind_many=True)
    output: str = "predictions.csv"
    interval: Optional[float] = None
    columns: str = ""
    smiles_column: Optional[str] = None
    delimiter: str = ""
    encoding: str = ""
    strict: bool = False
    accelerator: Optional[str] = None
    length_unit: str = ""
    charge: Optional[int] = None
    multiplicity: Optional[int] = None

    def __post_init__(self) -> None:
        check_fields(self, multiplicity="1 or more", interval="above 0 and below 1")


def run(options: Options) -> int:
    """Predict, and list molecules that could not be."""
    from ipu_chem.data.files.layout import TableOptions
    from ipu_chem.data.files.text import existing_file

    read = [existing_file(options.input), *data_of(options.runs)]
    check_file("--output", options.output, SUFFIXES, read)  # before torch is loaded
    from ipu_chem.prediction.predict import predict_file

    done, refused = predict_file(
        options.runs,
        options.input,
        options.output,
        options.smiles_column,
        options.strict,
        accelerator=options.accelerator,
        columns=options.columns,
        table=TableOptions.of(options, "--"),
        interval=options.interval,
        structures={name: getattr(options, name) for name in ("length_unit", "charge", "multiplicity")},
    )
    for entry in refused:
        print(f"line {entry.line} ({entry.name}): {entry.reason}")
    print(f"{done:,} molecules predicted, {len(refused):,} refused: {options.output}")
    return 0 if done else 1
