"""The command `generate`: new molecules from a trained language model, and how they compare with known ones.

On data's way: run folder -> sampling -> SMILES -> CSV or .smi file, counts, metrics.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence

if TYPE_CHECKING:
    from ipu_chem.generation.molecules import Decoded
    from ipu_chem.generation.samples import Known
    from ipu_chem.generation.sampling import Samples

_SUFFIXES = (".csv", ".smi")


def add_arguments(parser: Any) -> None:
    """Arguments of `generate`."""
    parser.add_argument("run", help="folder of a trained language model, a run's or Hugging Face's")
    parser.add_argument("--count", type=int, default=1000, help="molecules")
    parser.add_argument("--output", type=str, default="molecules.csv", help=".csv or .smi file to write")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 the likely becomes likelier")
    parser.add_argument("--top_k", type=int, default=0, help="draw among this many likeliest symbols; 0: all")
    parser.add_argument("--top_p", type=float, default=1.0, help="draw among the likeliest with this share; 1: all")
    parser.add_argument("--prefix", type=str, default="", help="SELFIES or SMILES that every molecule begins with")
    parser.add_argument("--max_length", type=int, default=None, help="symbols of a molecule, first and last included")
    parser.add_argument("--batch", type=int, default=256, help="molecules at once")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same molecules")
    parser.add_argument("--metrics", type=bool, default=False, help="compare with known molecules")
    parser.add_argument("--train", type=str, default=None, help="SMILES file for novelty; the run's own if not given")
    parser.add_argument(
        "--reference", type=str, default=None, help="SMILES file to compare with; the run's held-out ones if not given"
    )
    parser.add_argument("--workers", type=int, default=None, help="processes of the metrics; all cores if not given")
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu or cuda")


def run(arguments: Any) -> int:
    """Write the molecules and print what they are."""
    output = Path(arguments.output)
    if output.suffix not in _SUFFIXES:
        raise ValueError(f"--output {output}: give a file that ends in {' or '.join(_SUFFIXES)}.")
    from ipu_chem.generation.molecules import decode_many, write_molecules
    from ipu_chem.generation.sampling import generate
    from ipu_chem.language_model import load_language_model

    language = load_language_model(arguments.run)
    device = _device(arguments.accelerator)
    known = _known(arguments, language.info) if arguments.metrics else None
    samples = generate(
        language.model.to(device),
        language.tokenizer,
        arguments.count,
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.prefix,
        arguments.batch,
        arguments.seed,
        arguments.max_length,
    )
    molecules = decode_many(samples.selfies, arguments.workers, progress=True)
    write_molecules(output, samples, molecules)
    _print_counts(samples, molecules)
    if known is not None:
        _print_metrics([molecule.smiles for molecule in molecules], known, arguments.workers)
    print(f"molecules: {output}")
    return 0 if any(molecule.smiles for molecule in molecules) else 1


def _print_counts(samples: "Samples", molecules: Sequence["Decoded"]) -> None:
    from ipu_chem.generation.molecules import count_reasons

    valid = [molecule.smiles for molecule in molecules if molecule.smiles]
    print(f"generated    {len(molecules):,}, {int((~samples.finished).sum()):,} of them cut at the end of their row")
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


def _known(arguments: Any, info: Mapping[str, Any]) -> "Known":
    """Molecules of the files that were given, and for the others those of the run."""
    from ipu_chem.generation.samples import Known, known_molecules, some

    files = {name: getattr(arguments, name) for name in ("train", "reference")}
    known = Known("", None, [])
    if "config" in info and not all(files.values()):
        from ipu_chem.config import from_dict
        from ipu_chem.tasks.registry import load_task

        task = load_task(from_dict(info["config"]), Path(arguments.run) / "plans", info)
        task.check_same(info)
        known = known_molecules(task)
    given = {name: _read(path, arguments.workers) for name, path in files.items() if path}
    if "reference" in given:
        given = {**given, "reference": some(given["reference"]), "origin": arguments.reference}
    known = known._replace(**given)
    if not known.reference:
        raise ValueError(
            f"{arguments.run} has no held-out molecules to compare with: give --reference FILE (and --train FILE for "
            "novelty), or leave --metrics out."
        )
    return known


def _read(path: str, workers: Optional[int]) -> List[str]:
    """Canonical SMILES of a file."""
    from ipu_chem.data.smiles import read_smiles_file
    from ipu_chem.generation.molecules import canonical_smiles

    molecules = canonical_smiles([line.smiles for line in read_smiles_file(path)], workers)
    return [molecule.smiles for molecule in molecules if molecule.smiles]


def _device(accelerator: str) -> str:
    """The name of torch's device."""
    import torch

    if accelerator not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--accelerator {accelerator}: molecules are generated on cpu or cuda (auto takes one).")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("--accelerator cuda: torch sees no CUDA device; use cpu.")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
