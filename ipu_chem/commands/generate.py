"""Write new molecules with a trained language model, and compare them with known ones."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_file, data_of
from ipu_chem.ranges import check_fields

if TYPE_CHECKING:
    from ipu_chem.generation.molecules import Decoded
    from ipu_chem.generation.samples import Known
    from ipu_chem.generation.sampling import Samples

_SUFFIXES = (".csv", ".smi")
KEPT = ("scaffold", "decorate", "linker", "motif")  # options that say what molecules keep


@dataclass(frozen=True)
class Options:
    """Molecules to write.

    Attributes:
        count: molecules.
        output: .csv or .smi file to write.
        temperature: below 1 the likely becomes likelier.
        top_k: draw among this many likeliest tokens; 0: all.
        top_p: draw among the likeliest with this probability together; 1: all.
        prefix: what every molecule begins with, as the run writes molecules; one of SELFIES also takes SMILES.
        scaffold: SMILES that every molecule contains and begins with; it grows from any atom, or from those that are
            marked, as in "c1cc([*:1])ccn1".
        decorate: SMILES with marked atoms, each of which gets a side chain, and no other atom does.
        linker: two SMILES with a marked atom each, which something links, as in "c1ccccc1[*:1].C1CCNCC1[*:2]".
        motif: SMILES that every molecule contains somewhere.
        condition: properties that are asked for, of a run with data.condition, as in logp=2.5,qed=0.9;
            --condition.logp 2.5 says the same.
        tries: molecules drawn for each that is asked for, at most, until enough keep what was given.
        ban: symbols of SELFIES that are never drawn, such as "[P][=S]".
        only: elements that are drawn, separated by commas, such as C,N,O.
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
    scaffold: str = ""
    decorate: str = ""
    linker: str = ""
    motif: str = ""
    condition: str = ""
    tries: int = 20
    ban: str = ""
    only: str = ""
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
            tries="from 1 to 1,000,000",
        )
        given = [f"--{name}" for name in ("prefix", *KEPT) if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} say both what molecules are to hold: give one of them.")

    @property
    def conditions(self) -> Dict[str, float]:
        """Values of ``condition`` by name.

        Raises:
            ValueError: one is no number, or a name comes twice.
        """
        found: Dict[str, float] = {}
        for one in filter(None, (part.strip() for part in self.condition.split(","))):
            name, equals, value = (part.strip() for part in one.partition("="))
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not equals or not name or math.isnan(number):
                raise ValueError(f"--condition {one}: give a name and a number, as in --condition.logp 2.5.")
            if name in found:
                raise ValueError(f"--condition.{name} is given twice; give it once.")
            found[name] = number
        return found


def respelled(argv: Sequence[str]) -> List[str]:
    """Words with --condition.NAME VALUE gathered in one --condition NAME=VALUE,..."""
    rest: List[str] = []
    asked: List[str] = []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--condition" or option.startswith("--condition."):
            value = value if equals else next(words, "")
            asked.append(value if option == "--condition" else f"{option.partition('.')[2]}={value}")
        else:
            rest.append(word)
    return rest + ([f"--condition={','.join(asked)}"] if asked else [])


def run(options: Options) -> int:
    """Write the molecules and print what they are."""
    read = [one for one in (options.train, options.reference) if one]
    output = check_file("--output", options.output, _SUFFIXES, [*read, *data_of([options.run])])
    from ipu_chem.generation.molecules import write_molecules
    from ipu_chem.tasks.language_model import load_language_model

    language = load_language_model(options.run)
    device = _device(options.accelerator)
    known = _known(options, is_run=bool(language.info)) if options.metrics else None
    drawn = _steered if any(getattr(options, name) for name in KEPT) else _drawn
    samples, molecules = drawn(options, language.model.to(device), language.tokenizer)
    write_molecules(output, samples, molecules, language.tokenizer.representation.name)
    _print_counts(samples, molecules)
    _print_conditions(options, language.tokenizer, [molecule.smiles for molecule in molecules if molecule.smiles])
    if known is not None:
        from ipu_chem.commands.metrics import print_comparison
        from ipu_chem.generation.metrics import compare

        smiles = [molecule.smiles for molecule in molecules]
        found = compare(smiles, known.train, known.reference, workers=options.workers, progress=True)
        print_comparison(found, False, f"{len(known.reference):,} molecules of {known.origin}")
        _print_distance(smiles, known.train, options.workers)
    print(f"molecules: {output}")
    return 0 if any(molecule.smiles for molecule in molecules) else 1


def _drawn(options: Options, model: Any, tokenizer: Any) -> "Tuple[Samples, Sequence[Decoded]]":
    """Molecules as they come."""
    from ipu_chem.generation.molecules import decode_many
    from ipu_chem.generation.sampling import encode_prefix, generate

    how = _how(options, model, tokenizer)
    leading, how["prefix"] = how.pop("leading"), options.prefix
    if options.condition:
        start = np.concatenate([leading, encode_prefix(tokenizer, how.pop("prefix"))[len(leading) :]])
        how["starts"] = [start] * options.count
    samples = generate(model, tokenizer, options.count, seed=options.seed, **how)
    representation = tokenizer.representation.name
    return samples, decode_many(samples.texts, options.workers, progress=True, representation=representation)


def _steered(options: Options, model: Any, tokenizer: Any) -> "Tuple[Samples, Sequence[Decoded]]":
    """Molecules that keep what was given, after a line of how many did."""
    from ipu_chem.generation.steering.goals import GOALS
    from ipu_chem.generation.steering.sampler import Sampler
    from ipu_chem.generation.steering.steer import steer

    kind = next(name for name in KEPT if getattr(options, name))
    sampler = Sampler(model, tokenizer, workers=options.workers, **_how(options, model, tokenizer))
    goal = GOALS[kind](getattr(options, kind), sampler)
    found = steer(goal, sampler, options.count, options.seed, options.tries)
    print(f"drawn        {found.drawn:,}, of which {found.passed:,} keep {goal.option} {getattr(options, kind)}")
    for reason, count in found.reasons.items():
        print(f"             {count:,} {reason}")
    if len(found.decoded) < options.count:
        print(f"fewer than --count {options.count:,}: raise --tries, which is {options.tries:,}, for more")
    return found.samples, found.decoded


def _how(options: Options, model: Any, tokenizer: Any) -> Dict[str, Any]:
    """Options of drawing, and the ids that all molecules begin with."""
    from ipu_chem.data.representations.conditions import leading_ids
    from ipu_chem.generation.steering.alphabet import banned_symbols
    from ipu_chem.parallel import core_count

    names = ("temperature", "top_k", "top_p", "batch", "max_length")
    banned = banned_symbols(tokenizer, options.ban, options.only)
    leading = leading_ids(tokenizer.bos_id, tokenizer.properties, options.conditions)
    jobs = options.jobs or (core_count() if model.head.weight.device.type == "cpu" else 1)
    return {**{name: getattr(options, name) for name in names}, "banned": banned, "leading": leading, "jobs": jobs}


def _print_conditions(options: Options, tokenizer: Any, valid: Sequence[str]) -> None:
    """Print the properties that were asked for beside those of the molecules."""
    from ipu_chem.data.conditions import COMPUTED, computed

    asked = {name: value for name, value in options.conditions.items() if name in COMPUTED}
    if not asked or not valid:
        return
    values = computed(valid, list(asked), options.workers or 0)
    properties = {one.name: one for one in tokenizer.properties}
    for (name, value), found in zip(asked.items(), values.T):
        low, high = properties[name].bounds(value)
        inside = float(((low <= found) & (found < high)).mean())
        mean = f"{np.nanmean(found):.3g} on the mean, standard deviation {np.nanstd(found):.3g}"
        print(f"{name:<12} {mean}; {inside:.1%} from {low:g} to {high:g}, the bin of {value:g}")


def _print_counts(samples: "Samples", molecules: Sequence["Decoded"]) -> None:
    from ipu_chem.generation.molecules import count_reasons

    valid = [molecule.smiles for molecule in molecules if molecule.smiles]
    print(f"generated    {len(molecules):,}, {int((~samples.finished).sum()):,} of them cut at the most tokens allowed")
    print(f"valid        {len(valid):,}")
    for reason, count in count_reasons(molecules).items():
        print(f"             {count:,} {reason}")
    print(f"different    {len(set(valid)):,}")
    print(f"nats         {-samples.log_likelihoods.mean():.2f} per molecule, on the mean")


def _print_distance(generated: Sequence[str], train: Optional[Sequence[str]], workers: Optional[int]) -> None:
    """Print how far molecules are from those that the model was trained on, where these are known."""
    if not train:
        return
    from ipu_chem.generation.steering.distance import training_distance

    distance = training_distance(generated, train, workers)
    print(f"Tanimoto distance to the nearest of {len(train):,} training molecules: {distance:.3f} on the mean")


def _known(options: Options, is_run: bool) -> "Known":
    """Molecules of the files that were given, and for the others those of the run."""
    from ipu_chem.commands.metrics import canonical, read_rows
    from ipu_chem.generation.molecules import some
    from ipu_chem.generation.samples import Known, known_molecules

    files = {name: getattr(options, name) for name in ("train", "reference")}
    known = Known("", None, [])
    if is_run and not all(files.values()):
        from ipu_chem.trained_run import TrainedRun

        known = known_molecules(TrainedRun.load(options.run).loaded_task())
    given = {name: canonical(path, read_rows(path, options), options.workers) for name, path in files.items() if path}
    if "reference" in given:
        given = {**given, "reference": some(given["reference"]), "origin": options.reference}
    known = known._replace(**given)
    if not known.reference:
        raise ValueError(
            f"{options.run} has no held-out molecules to compare with: give --reference FILE (and --train FILE for "
            "novelty), or leave --metrics out."
        )
    return known


def _device(accelerator: str) -> str:
    """The name of torch's device."""
    import torch

    if accelerator not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--accelerator {accelerator}: molecules are generated on cpu or cuda (auto takes one).")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("--accelerator cuda: torch sees no CUDA device; use cpu.")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
