"""Write new molecules with a trained language model, and compare them with known ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Sequence

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_file, data_of
from ipu_chem.ranges import check_fields

if TYPE_CHECKING:
    from ipu_chem.generation.molecules import Decoded
    from ipu_chem.generation.samples import Known
    from ipu_chem.generation.sampling import Samples

_SUFFIXES = (".csv", ".smi")


@dataclass(frozen=True)
class Options:
    """Molecules to write.

    Attributes:
        count: molecules.
        output: .csv or .smi file to write.
        temperature: below 1 the likely becomes likelier.
        top_k: draw among this many likeliest tokens; 0: all.
        top_p: draw among the likeliest with this probability together; 1: all.
        prefix: SELFIES or SMILES that every molecule begins with.
        max_length: tokens of a molecule, first and last included.
        batch: molecules at once, which jobs divide among themselves.
        jobs: threads that write on CPUs; all cores if not given.
        seed: the same seed gives the same molecules.
        metrics: compare with known molecules.
        train: SMILES file for novelty; the run's own if not given.
        reference: SMILES file to compare with; the run's held-out ones if not given.
        smiles_column: column of these tables that holds SMILES, if it is not called so.
        delimiter: between the cells of these tables: comma, semicolon, tab or another character; found if not given.
        encoding: of these files, such as cp1252; found if not given.
        workers: processes of the metrics; all cores if not given.
        accelerator: auto, cpu or cuda.
    """

    run: str = positional("folder of a trained language model, a run's or Hugging Face's")
    count: int = 1000
    output: str = "molecules.csv"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    prefix: str = ""
    max_length: Optional[int] = None
    batch: int = 256
    jobs: Optional[int] = None
    seed: int = 0
    metrics: bool = False
    train: Optional[str] = None
    reference: Optional[str] = None
    smiles_column: str = ""
    delimiter: str = ""
    encoding: str = ""
    workers: Optional[int] = None
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        check_fields(
            self,
            count="from 1 to 100,000,000",
            temperature="above 0",
            top_k="0 or more",
            top_p="above 0 and at most 1",
            max_length="2 or more",
            batch="from 1 to 1,000,000",
            jobs="from 1 to 1,024",
            seed="0 or more",
            workers="from 1 to 1,024",
        )


def run(options: Options) -> int:
    """Write the molecules and print what they are."""
    read = [one for one in (options.train, options.reference) if one]
    output = check_file("--output", options.output, _SUFFIXES, [*read, *data_of([options.run])])
    from ipu_chem.generation.molecules import decode_many, write_molecules
    from ipu_chem.generation.sampling import generate
    from ipu_chem.parallel import core_count
    from ipu_chem.tasks.language_model import load_language_model

    language = load_language_model(options.run)
    device = _device(options.accelerator)
    known = _known(options, is_run=bool(language.info)) if options.metrics else None
    names = ("temperature", "top_k", "top_p", "prefix", "batch", "seed", "max_length")
    how = {name: getattr(options, name) for name in names}
    how["jobs"] = options.jobs or (core_count() if device == "cpu" else 1)
    samples = generate(language.model.to(device), language.tokenizer, options.count, **how)
    molecules = decode_many(samples.selfies, options.workers, progress=True)
    write_molecules(output, samples, molecules)
    _print_counts(samples, molecules)
    if known is not None:
        _print_metrics([molecule.smiles for molecule in molecules], known, options.workers)
    print(f"molecules: {output}")
    return 0 if any(molecule.smiles for molecule in molecules) else 1


def _print_counts(samples: "Samples", molecules: Sequence["Decoded"]) -> None:
    from ipu_chem.generation.molecules import count_reasons

    valid = [molecule.smiles for molecule in molecules if molecule.smiles]
    print(f"generated    {len(molecules):,}, {int((~samples.finished).sum()):,} of them cut at the most tokens allowed")
    print(f"valid        {len(valid):,}")
    for reason, count in count_reasons(molecules).items():
        print(f"             {count:,} {reason}")
    print(f"different    {len(set(valid)):,}")
    print(f"nats         {-samples.log_likelihoods.mean():.2f} per molecule, on the mean")


def _print_metrics(generated: Sequence[str], known: "Known", workers: Optional[int]) -> None:
    from ipu_chem.commands.pack import print_table
    from ipu_chem.generation.metrics import MEANING, score

    values = score(generated, known.train, known.reference, workers, progress=True)
    print(f"compared with {len(known.reference):,} molecules of {known.origin}")
    print_table(("metric", "value", "what it is"), [(name, f"{v:.4g}", MEANING[name]) for name, v in values.items()])


def _known(options: Options, is_run: bool) -> "Known":
    """Molecules of the files that were given, and for the others those of the run."""
    from ipu_chem.generation.samples import Known, known_molecules, some

    files = {name: getattr(options, name) for name in ("train", "reference")}
    known = Known("", None, [])
    if is_run and not all(files.values()):
        from ipu_chem.trained_run import TrainedRun

        known = known_molecules(TrainedRun.load(options.run).loaded_task())
    given = {name: _read(path, options) for name, path in files.items() if path}
    if "reference" in given:
        given = {**given, "reference": some(given["reference"]), "origin": options.reference}
    known = known._replace(**given)
    if not known.reference:
        raise ValueError(
            f"{options.run} has no held-out molecules to compare with: give --reference FILE (and --train FILE for "
            "novelty), or leave --metrics out."
        )
    return known


def _read(path: str, options: Options) -> List[str]:
    """Canonical SMILES of a file; the others are counted."""
    from ipu_chem.data.files.layout import TableOptions
    from ipu_chem.data.files.table import Line, read_smiles_file
    from ipu_chem.generation.molecules import canonical_smiles

    entries = read_smiles_file(path, TableOptions.of(options, "--"))
    molecules = canonical_smiles([entry.smiles for entry in entries if isinstance(entry, Line)], options.workers)
    found = [molecule.smiles for molecule in molecules if molecule.smiles]
    if len(found) < len(entries):
        print(f"{path}: {len(entries) - len(found):,} of {len(entries):,} rows hold no molecule and are left out")
    return found


def _device(accelerator: str) -> str:
    """The name of torch's device."""
    import torch

    if accelerator not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--accelerator {accelerator}: molecules are generated on cpu or cuda (auto takes one).")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("--accelerator cuda: torch sees no CUDA device; use cpu.")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
