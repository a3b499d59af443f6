"""A run in plain values: what YAML files hold, what flags override and what is saved beside the results.

Options of a model and of a data set are parameters of their class or function (`ipu_chem.options`). Imports nothing
heavy, so that --help is instant.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Dict, FrozenSet, List, Literal, Mapping

from ipu_chem.backends.options import ACCELERATORS, Batching, Precision, TorchOptions
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.data.files.layout import TableOptions
from ipu_chem.models.registry import FILLED, LANGUAGE_MODELS, MODELS
from ipu_chem.optim import OptimizerConfig, ScheduleConfig
from ipu_chem.options import Chosen, listed, make, nearest, walk
from ipu_chem.ranges import CUTOFF, SLOTS, THREADS, check_choice, check_fields
from packing import ALGORITHMS


@dataclass(frozen=True)
class DataConfig(Chosen):
    """Molecules, labels and splits; the data set that is named has options beside these.

    Attributes:
        name: of molecules with labels: nci3d (ships with RDKit), qm9, rmd17 and md17 (with forces), hydronet,
            ogbg-molesol and eight others of the Open Graph Benchmark, pcqm4mv2 (all of these also as text), or file for
            your own .csv (SMILES), .sdf, .xyz, .extxyz, .db (ASE) or .npz (frames). For chemgpt, of molecules as text:
            nci (ships with RDKit), moses, zinc250k, chembl, pubchem10m, or file for SMILES of your own (.smi, .csv,
            .txt, also compressed). Or package.module:Class of your own.
        cache: folder for prepared data; empty is $IPU_CHEM_CACHE or ~/.cache/ipu-chem.
        target: labels to learn, separated by commas, in double quotes where they hold some; empty: the set's first.
            Of a file: columns, SDF properties or keys of xyz comments. A chemgpt without any learns the text itself.
        limit: use only the first this many molecules; 0 uses all.
        workers: processes that prepare molecules; 0 is one per CPU core.
        references: what is subtracted from labels per element: none, atoms (the data set's atomic values),
            linear (least squares over the training molecules) or auto (linear for extensive targets).
        split: random, scaffold (whole Bemis-Murcko scaffolds), scaffold_deepchem (as DeepChem's ScaffoldSplitter, for
            published figures), official (as published; validation from the training molecules where there is none; also
            official_02 to official_05 of rmd17), or the path of an index file (.npz or .json): rows of data.path from
            0, its header not counted, whatever is left out of them; of a data set with a name, its molecules from 0.
        replicates: rows of a file that are the same molecule, together on one side of a random split, or apart.
        train: training molecules, a fraction below 1 or a number; 0 takes what validation and test leave.
        validation: validation molecules, a fraction below 1 or a number.
        test: test molecules, a fraction below 1 or a number.
        split_seed: of the random and the scaffold split.
        tokenizer: JSON file or Hugging Face folder of a vocabulary (chemgpt); empty makes one of the molecules' tokens.
        long: what becomes of molecules longer than pack.tokens (chemgpt): error, drop, or truncate.
        stereo: keep what SMILES say of stereochemistry, or drop it (chemgpt).
        unknown: policy for tokens that the vocabulary lacks (chemgpt): error, drop (such molecules), map (to the
            unknown one), extend (the vocabulary of training.start_from), or auto (error; of labels extend, else drop).
        fragments: of salts and other molecules of several: keep all (models of graphs do not), the largest, or error.
        condition: properties that chemgpt is given before every molecule, which `generate` then asks for: logp, qed,
            weight, tpsa, donors, acceptors, rotatable, rings (by RDKit) or columns of data.path; separated by commas.
        condition_bins: most bins of a property, about as many molecules in each.
        condition_hidden: fraction of training molecules' values that it is not given, so that it can do without them.
        representation: of molecules as tokens (chemgpt): selfies, smiles, safe, or package.module:Class of your own.
        atom_order: of the SMILES that it writes (chemgpt): canonical, or random, drawn once for every molecule.
    """

    key: ClassVar[str] = "data"
    filled: ClassVar[FrozenSet[str]] = frozenset(
        "name cache target targets limit workers progress executor stereo fragments representation atom_order".split()
    )
    fills_own: ClassVar[bool] = False

    name: str = "nci3d"
    cache: str = ""
    target: str = ""
    limit: int = 0
    workers: int = 0
    references: str = "auto"
    split: str = "random"
    replicates: Literal["together", "apart"] = "together"
    train: float = 0.0
    validation: float = 0.1
    test: float = 0.1
    split_seed: int = 0
    tokenizer: str = ""
    long: Literal["error", "drop", "truncate"] = "error"
    stereo: Literal["keep", "drop"] = "keep"
    unknown: Literal["auto", "error", "drop", "map", "extend"] = "auto"
    fragments: Literal["keep", "largest", "error"] = "keep"
    condition: str = ""
    condition_bins: int = 10
    condition_hidden: float = 0.1
    representation: str = "selfies"
    atom_order: Literal["canonical", "random"] = "canonical"

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("limit", "split_seed", "train", "validation", "test")
        check_fields(self, "data", **dict.fromkeys(sizes, "0 or more"), workers=THREADS)
        check_fields(self, "data", condition_bins="from 2 to 1,000", condition_hidden="0 or more and below 1")
        check_choice("data.references", self.references, REFERENCES)
        for name in ("train", "validation", "test"):
            value = getattr(self, name)
            if value >= 1 and value != int(value):
                raise ValueError(f"data.{name}={value}: give a fraction below 1, or a whole number of molecules.")
        taken = sum(value for value in (self.train, self.validation, self.test) if value < 1)
        if self.split in ("random", "scaffold", "scaffold_deepchem") and taken > (1 + 1e-9 if self.train else 1 - 1e-9):
            raise ValueError(
                f"data.train={self.train}, data.validation={self.validation}, data.test={self.test}: fractions of all "
                "molecules that leave none to train, or add up to more than 1; give smaller ones."
            )
        for option, what in (("target", "label"), ("condition", "property")):
            names = listed(getattr(self, option))
            for twice in (name for name in names if names.count(name) > 1):
                raise ValueError(
                    f"data.{option}={getattr(self, option)}: {twice} is named twice; name every {what} once."
                )

    @classmethod
    def registered(cls) -> Mapping[str, Any]:
        """Functions that prepare data sets, and those that read corpora."""
        from ipu_chem.data.corpora import CORPORA, load_corpus
        from ipu_chem.data.datasets import DATASETS

        sets = {name: one.prepare for name, one in DATASETS.items()}
        return {**sets, **{name: load_corpus for name in CORPORA if name not in sets}}

    def corpus_options(self) -> Dict[str, Any]:
        """Options of `load_corpus`: those that all data have, and those of a table of one's own."""
        plain = {name: getattr(self, name) for name in "limit workers fragments representation atom_order".split()}
        return {**plain, "stereo": self.stereo == "keep", **TableOptions.of(self, "data.").given()}

    @classmethod
    def unknown_option(cls, name: str, option: str) -> str:
        if option in ("unit", "extensive", "kind"):
            return f"{name} knows what its labels are; data.unit, data.extensive and data.kind are for data.name=file."
        return super().unknown_option(name, option)


@dataclass(frozen=True)
class PackConfig:
    """Shape of a pack and how molecules are put into it.

    Attributes:
        nodes: atom slots of a pack; 0 chooses them so that hardly any stays empty.
        edges: pairs of neighboring atoms of a pack, each counted once; 0 chooses what the molecules need.
        graphs: molecules of a pack, or of a packed sequence with labels; 0 takes what the fullest pack holds.
        tokens: tokens of a packed sequence (chemgpt); 0 chooses by the model's width and the molecules' lengths.
        device_neighbors: 0 makes edges on the host. Else only positions are transferred to the device, which
            searches this many nearest neighbors of every atom; -1 takes the most that any atom has within the cutoff.
        positions: format in which they are transferred: int16, in steps that fit the largest molecule and are printed,
            or float32, exactly; auto is int16 for labels of molecules and float32 for forces, which feel such steps.
        algorithm: column_generation, best_fit, first_fit or lpfhp, for all splits; auto takes best fit for validation
            and test, and for training where column generation would take more than 2 % of the time, and than a second.
        time_limit: seconds for column generation, however short the training; 0 leaves it to auto, and 10 s.
    """

    nodes: int = 0
    edges: int = 0
    graphs: int = 0
    tokens: int = 0
    device_neighbors: int = 0
    positions: str = "auto"
    algorithm: str = "auto"
    time_limit: float = 0.0

    def __post_init__(self) -> None:
        check_choice("pack.positions", self.positions, ("auto", "int16", "float32"))
        check_choice("pack.algorithm", self.algorithm, ALGORITHMS)
        sizes = dict.fromkeys(("nodes", "edges", "graphs", "tokens"), SLOTS)
        check_fields(self, "pack", **sizes, time_limit="0 or more", device_neighbors="-1 or more")
        if self.device_neighbors and self.edges:
            raise ValueError(
                f"pack.device_neighbors={self.device_neighbors}: the host makes no edges then; leave pack.edges out."
            )


@dataclass(frozen=True)
class ModelConfig(Chosen):
    """Architecture and size; the model that is named has options beside these.

    Attributes:
        name: schnet, painn, spookynet or chemgpt, or package.module:Class of your own.
        readout: how atoms make up a molecule: sum, mean, or auto (sum for extensive targets, else mean). Moments of
            charges on atoms: dipole and extent of schnet and painn, dipole_vectors of painn, for dipole moments and
            electronic spatial extents. Of the tokens of a chemgpt that learns labels also max, last or eos.
        filter: exact evaluates the filter network for every edge; table evaluates it on a grid of distances in every
            step, and edges read between its points, equal to float32's last digits; chebyshev reads by a matrix
            product; auto is table for schnet, exact for the others, and spookynet has no other.
        freeze: train the head alone, on what training.start_from brings (not for a chemgpt without labels).
        lora_rank: train the head and adapters of this rank (LoRA), such as 8, in layers that training.start_from
            brings and that stay as they are (a chemgpt with labels); 0 is without.
    """

    key: ClassVar[str] = "model"
    filled: ClassVar[FrozenSet[str]] = FILLED | {"readout", "filter"}

    name: str = "schnet"
    readout: str = "auto"
    filter: str = "auto"
    freeze: bool = False
    lora_rank: int = 0

    @classmethod
    def registered(cls) -> Mapping[str, Any]:
        """Models by name."""
        return {**MODELS, **LANGUAGE_MODELS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in LANGUAGE_MODELS and not hasattr(self, "cutoff"):
            raise ValueError(f"{self.name} has no cutoff: give its constructor `cutoff: float = 5.0`, Å, for edges.")
        check_fields(self, "model", cutoff=CUTOFF, lora_rank="0 or more")


REFERENCES = ("auto", "none", "atoms", "linear")
KINDS = (DataConfig, ModelConfig)


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the training, evaluations and what is kept.

    Attributes:
        epochs: passes over the training molecules.
        seed: of the initial weights and of the order of the molecules.
        evaluate_every: epochs between evaluations on the validation split.
        evaluate_calls: calls of the device program between evaluations, however long an epoch is; 0 goes by epochs.
        early_stopping: stop after this many evaluations without improvement; 0 never stops early.
        ema_decay: keep a moving average of the weights with this decay and evaluate it; 0 keeps none.
        checkpoint_every: calls of the device program between checkpoints inside an epoch; 0 writes one at
            the end of every epoch only.
        log_every: calls between lines of the metrics files.
        prefetch: batches that a thread makes ahead; 0 makes each when it is needed.
        loggers: also log to "tensorboard" and/or "wandb".
        progress: show a line for each evaluation and, on terminals, a progress bar.
        report: write report.html at the end.
        start_from: folder of a run (or, for chemgpt, of Hugging Face weights) to begin with instead of fresh weights,
            such as a run on energies for one on forces; a graph model goes on with that run's references and unit, or,
            when data.references is given, with references fitted anew; a chemgpt that learns labels takes its sizes.
        samples: molecules that are generated and scored at the end (chemgpt); 0 is none.
    """

    epochs: int = 100
    seed: int = 0
    evaluate_every: int = 1
    evaluate_calls: int = 0
    early_stopping: int = 0
    ema_decay: float = 0.0
    checkpoint_every: int = 0
    log_every: int = 10
    prefetch: int = 2
    loggers: List[str] = field(default_factory=list)
    progress: bool = True
    report: bool = True
    start_from: str = ""
    samples: int = 1000

    def __post_init__(self) -> None:
        counts = ("seed", "evaluate_calls", "early_stopping", "checkpoint_every")
        ranges = {**dict.fromkeys(counts, "0 or more"), "ema_decay": "0 or more and below 1"}
        ranges.update(prefetch="from 0 to 1,000", samples="from 0 to 10,000,000")  # all of which are held in memory
        check_fields(self, "training", **ranges, epochs="1 or more", evaluate_every="1 or more", log_every="1 or more")


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Attributes:
        data: molecules, labels and splits.
        pack: shape of a pack.
        model: architecture and size.
        loss: mse, mae or huber of the standardized targets, bce of classes, or auto: bce of classes, else mse.
        force_share: train on forces, too, exact derivatives of the energy: their weight in the loss, such as 0.95, the
            rest is the energy's; 0 trains on labels of molecules alone.
        optimizer: updates of the weights.
        schedule: of the learning rate.
        batching: packs of optimizer steps and of calls of the device program.
        precision: number formats.
        training: length, evaluations and what is kept.
        accelerator: auto, cpu, cuda or ipu.
        torch: options of the CPU and CUDA backend.
        ipu: options of the IPU backend.
        out: folder of the run; everything it writes goes there.
    """

    data: DataConfig = field(default_factory=DataConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: str = "auto"
    force_share: float = 0.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batching: Batching = field(default_factory=lambda: Batching(micro_batch_size=8))
    precision: Precision = field(default_factory=Precision)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    accelerator: str = "auto"
    torch: TorchOptions = field(default_factory=TorchOptions)
    ipu: IpuOptions = field(default_factory=IpuOptions)
    out: str = "runs/latest"

    def __post_init__(self) -> None:
        check_fields(self, force_share="from 0 to 1")
        check_choice("accelerator", self.accelerator, ACCELERATORS)
        if not self.out.strip():
            raise ValueError("out is empty: give the folder of the run, such as --out runs/first.")

    @property
    def short_positions(self) -> bool:
        """True if positions are transferred to the device in 16 bits."""
        return self.pack.positions == "int16" or (self.pack.positions == "auto" and not self.force_share)


# What must not change when a run is resumed; the rest (epochs, logging, device) may.
FIXED = ("data", "pack", "model", "loss", "force_share", "optimizer", "batching", "precision")
# Options of others in a saved section that tell that all were saved; one or two are a slip of the pen.
_SAVED_WITH_EACH = 3


def to_dict(config: Any) -> Dict[str, Any]:
    """A config as nested dicts of JSON values (tuples become lists)."""
    return _plain(asdict(config))


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The reverse of `to_dict`; missing keys take their defaults.

    Raises:
        ValueError: a key is unknown or another model's, or a value has the wrong type; names it.
    """
    values = of_any_version(values)
    check_keys(values)
    return make(RunConfig, values, chosen(values))


def chosen(values: Mapping[str, Any]) -> Dict[str, Any]:
    """The classes of the sections that nested values of a run ask for, {"data": ..., "model": ...}.

    Raises:
        ValueError: there is no such model or data set.
    """
    found = {}
    for kind in KINDS:
        section = values.get(kind.key) or {}
        if not isinstance(section, Mapping):
            raise ValueError(f"{kind.key}: give options of it, such as `{kind.key}: {{name: {section}}}`.")
        name = section.get("name")
        found[kind.key] = kind.of("" if name is None else name)
    return found


def of_any_version(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values of a whole run without options of other models and data sets, which earlier versions saved with each."""
    if not {"data", "model", "pack", "training", "out"} <= set(values):
        return values
    result = dict(values)
    for key, kind in chosen(values).items():
        foreign = {name for name in values[key] if name not in kind.__dataclass_fields__ and kind.owners(name)}
        if len(foreign) >= _SAVED_WITH_EACH:
            result[key] = {name: value for name, value in values[key].items() if name not in foreign}
    return result


def keys(values: Mapping[str, Any] = {}) -> List[str]:
    """Every dotted key of a run with such values: "data", "data.name", ..."""
    names = [option.name for option in walk(RunConfig, chosen(values))]
    return sorted({name.rpartition(".")[0] for name in names} - {""}) + names


def checked_sections(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Values of a run whose sections are mappings; those without any option are empty.

    Raises:
        ValueError: names the section or the option.
    """
    sections, result = {name.rpartition(".")[0] for name in keys() if "." in name}, dict(values)
    for key, section in values.items():
        if key in sections and section is None:
            result[key] = {}
        elif key in sections and not isinstance(section, Mapping):
            raise ValueError(f"{key}: give options of it, such as `{key}: {{name: value}}`.")
        elif key not in sections and isinstance(section, Mapping) and key in keys():
            raise ValueError(f"{key}: give one value, not options of it.")
    return result


def check_keys(values: Mapping[str, Any]) -> None:
    """Refuse keys that no option has, and options of another model or data set than the one that is chosen.

    Raises:
        ValueError: names the key and the nearest one that there is.
    """
    classes, known = chosen(values), keys(values)
    for section, value in values.items():
        for key in [section, *(f"{section}.{name}" for name in value)] if isinstance(value, Mapping) else [section]:
            if key not in known and section in classes:
                raise ValueError(classes[section].unknown_option(classes[section].chosen, key.partition(".")[2]))
            if key not in known:
                raise ValueError(f"unknown option {key}{nearest(key, known)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
