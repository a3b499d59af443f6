"""Compare generated molecules of any origin with known ones: MOSES' whole table and GuacaMol's measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_file
from ipu_chem.ranges import check_fields

if TYPE_CHECKING:
    from ipu_chem.generation.metrics import Comparison

_PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Options:
    """Molecules and where their table goes.

    Attributes:
        reference: SMILES file of molecules that the model has not seen, such as MOSES' test set; all are used.
        train: SMILES file of its training molecules, for novelty and GuacaMol's measures.
        scaffolds: SMILES file of a scaffold test set, for the values TestSF.
        output: .csv file of the table.
        plot: picture of logP, SA, QED and weight of both sides (.png, .svg or .pdf).
        published: show the models that MOSES has published beside.
        smiles_column: column of these tables that holds SMILES, if it is not called so.
        delimiter: between the cells of these tables: comma, semicolon, tab or another character; found if not given.
        encoding: of these files, such as cp1252; found if not given.
        jobs: processes; all cores if not given.
    """

    generated: str = positional("SMILES file of generated molecules in the order they were made: .smi, .csv, also .gz")
    reference: str
    train: Optional[str] = None
    scaffolds: Optional[str] = None
    output: Optional[str] = None
    plot: Optional[str] = None
    published: bool = True
    smiles_column: str = ""
    delimiter: str = ""
    encoding: str = ""
    jobs: Optional[int] = None

    def __post_init__(self) -> None:
        check_fields(self, jobs="from 1 to 1,024")


def run(options: Options) -> int:
    """Print the table, and write it and the picture where they are asked for."""
    paths = {name: getattr(options, name) for name in ("generated", "reference", "train", "scaffolds")}
    inputs = [path for path in paths.values() if path]
    if options.output:
        check_file("--output", options.output, (".csv",), inputs)
    if options.plot:
        check_file("--plot", options.plot, _PICTURES, inputs)
    read = {name: read_rows(path, options) for name, path in paths.items() if path}  # the first second finds bad files
    from ipu_chem.generation.metrics import compare

    train = canonical(paths["train"], read["train"], options.jobs) if "train" in read else None
    known = read["reference"], read.get("scaffolds")
    found = compare(read["generated"], train, *known, workers=options.jobs, progress=True)
    print_comparison(found, options.published, f"{len(read['reference']):,} molecules of {options.reference}")
    if options.output:
        from ipu_chem.generation.table import write_table

        write_table(options.output, found.values, options.published)
        print(f"table: {options.output}")
    if options.plot:
        from ipu_chem.reports.figures import save
        from ipu_chem.reports.property_figure import property_figure

        save(property_figure(*found.properties), options.plot)
        print(f"plot: {options.plot}")
    return 0


def read_rows(path: str, options: Any) -> List[str]:
    """SMILES of a file, one a row; "" where a row holds none.

    Raises:
        ValueError: see `read_smiles_file`, or no row holds a molecule.
    """
    from ipu_chem.data.files.layout import TableOptions
    from ipu_chem.data.files.table import Line, read_smiles_file
    from ipu_chem.generation.molecules import is_molecule

    entries = read_smiles_file(path, TableOptions.of(options, "--"))
    found = [entry.smiles if isinstance(entry, Line) else "" for entry in entries]
    if not any(map(is_molecule, found)):  # the first row says so, as a rule
        raise ValueError(f"{path}: none of its {len(found):,} rows holds a molecule; give another file.")
    return found


def canonical(path: str, smiles: Sequence[str], workers: Optional[int]) -> List[str]:
    """Canonical SMILES of a file's rows; those without a molecule are counted and left out."""
    from ipu_chem.generation.molecules import canonical_smiles

    found = [one.smiles for one in canonical_smiles(smiles, workers, Path(path).name) if one.smiles]
    if len(found) < len(smiles):
        print(f"{path}: {len(smiles) - len(found):,} of {len(smiles):,} rows hold no molecule and are left out")
    return found


def print_comparison(found: "Comparison", published: bool, reference: str) -> None:
    """Print a table of metrics and its notes."""
    from ipu_chem.commands.pack import print_table
    from ipu_chem.generation.published import CONDITIONS
    from ipu_chem.generation.table import printed

    print(f"compared with {reference}")
    print_table(*printed(found.values, published))
    for note in [*found.notes, *([f"{CONDITIONS}."] if published else [])]:
        print(f"note: {note}")
