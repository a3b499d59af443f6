"""Commands about data sets and runs: prepare, train, evaluate, predict, report, doctor.

On data's way: parsed arguments -> data sets, workflow, prediction, report.
"""

from pathlib import Path
from typing import Any, Dict, List, Sequence

from ipu_chem.config import DataConfig, RunConfig, check_keys, to_dict

_RECIPES = Path(__file__).parent.parent / "recipes"
_TAKE_CONFIG = ("train", "search", "scale")  # commands with all options of a run


def recipes() -> List[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def expand_config(argv: List[str]) -> List[str]:
    """Turn recipe names into paths, --resume into the saved config, and refuse unknown keys in YAML files.

    Raises:
        ValueError: no such file or recipe, a file that is no YAML mapping, or an unknown key.
    """
    if not argv or argv[0] not in _TAKE_CONFIG:
        return argv
    result: List[str] = []
    words = iter([part for word in argv for part in (word.split("=", 1) if _takes_path(word) else [word])])
    for word in words:
        if word == "--resume" and argv[0] == "train":
            folder = Path(next(words, ""))
            config = folder / "config.yaml"
            if not config.is_file():
                raise ValueError(f"{folder} holds no run to resume (no config.yaml).")
            # First, so that flags after it override the saved values.
            result[1:1] = ["--config", str(config)]
            result += ["--resume", str(folder)]
        elif word == "--config":
            path = config_path(next(words, ""))
            check_yaml(path)
            result += ["--config", str(path)]
        else:
            result.append(word)
    return result


def train(arguments: Any) -> int:
    """Train, or go on training; prints the resolved config first."""
    import yaml

    from ipu_chem.train import train as run_training

    config = _run_config(arguments)
    print(yaml.safe_dump(to_dict(config), sort_keys=False))
    result = run_training(config, resume=arguments.resume is not None)
    if result["stopped_by"]:
        print(f"stopped after step {result['step']}; continue with: ipu-chem train --resume {config.out}")
        return 128 + result["stopped_by"]
    return 0


def add_prepare_arguments(parser: Any) -> None:
    """Arguments of `prepare`."""
    parser.add_class_arguments(DataConfig, None)
    parser.add_argument("--cutoff", type=float, default=5.0, help="longest edge, in Å")
    parser.add_argument("--text", type=bool, default=False, help="name=file: SMILES as text, for chemgpt")
    parser.add_argument(
        "--check_forces",
        "--check-forces",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="compare forces with the energies of near frames: sign and units",
    )


def prepare(arguments: Any) -> int:
    """Prepare a data set and print its contents."""
    import numpy as np

    from ipu_chem.data.corpora import CORPORA, describe_corpus, load_corpus
    from ipu_chem.data.force_check import check_energy_forces, report
    from ipu_chem.metrics import is_binary
    from ipu_chem.tasks.graphs import load_store

    values = {name: value for name, value in vars(arguments).items() if name in DataConfig.__dataclass_fields__}
    data = DataConfig(**values)
    if arguments.text or (data.name in CORPORA and data.name != "file"):
        corpus = load_corpus(data.name, data.path or None, data.cache or None, limit=data.limit, workers=data.workers)
        print("\n".join(describe_corpus(corpus)))
        return 0
    store = load_store(data, arguments.cutoff)
    info = store.info
    sizes = store.sizes()
    print(f"name         {info.get('name', '')}")
    print(f"level        {info.get('level', '')}")
    print(f"source       {info.get('source', '')}")
    print(f"licence      {info.get('licence', '')}")
    print(f"molecules    {len(store):,}")
    print(f"left out     {info.get('failures', {}).get('count', 0):,}")
    for reason, count in info.get("failures", {}).get("by_reason", {}).items():
        print(f"             {count:,} {reason}")
    for note in info.get("notes", []):
        print(f"note         {note}")
    for axis in ("nodes", "edges"):
        print(f"{axis:13}{sizes[axis].mean():.1f} per molecule, {sizes[axis].min()} to {sizes[axis].max()}")
    for column, target in enumerate(info["targets"]):
        values = np.asarray(store.fields["y"])[:, column]
        mean, spread = np.nanmean(values), np.nanstd(values)
        what = f"{mean:.2%} are 1" if is_binary(target) else f"{mean:.6g} +- {spread:.4g} {target['unit']}"
        print(f"target       {target['name']}: {what}")
    if "forces" in store:
        forces = store.fields["forces"]
        size = float(np.sqrt(np.nanmean(np.square(forces, dtype=np.float64))))
        print(f"forces       of {info['forces_of']}, {size:.4g} (root mean square)")
    print(f"fingerprint  {store.fingerprint()}")
    if arguments.check_forces:
        unit = next((target["unit"] for target in info["targets"] if target["name"] == info.get("forces_of")), "")
        print("\n".join(report(check_energy_forces(store), unit)))
    return 0


def add_evaluate_arguments(parser: Any) -> None:
    """Arguments of `evaluate`."""
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"], help="which molecules")
    parser.add_argument(
        "--accelerator", type=str, default=None, help="auto, cpu, cuda or ipu; the run's own if not given"
    )


def evaluate(arguments: Any) -> int:
    """Print the metrics of a run's best checkpoint."""
    from ipu_chem.train import evaluate as run_evaluation

    for name, value in run_evaluation(Path(arguments.run), arguments.split, arguments.accelerator).items():
        print(f"{arguments.split}: {name} {value:.4g}")
    return 0


def add_predict_arguments(parser: Any) -> None:
    """Arguments of `predict`."""
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("input", help=".smi, .csv, .xyz, .extxyz or .sdf file, also gzipped")
    parser.add_argument("--output", type=str, default="predictions.csv", help="CSV to write, or .extxyz with forces")
    parser.add_argument("--smiles_column", type=str, default=None, help="column of a .csv file that holds SMILES")
    parser.add_argument("--strict", type=bool, default=False, help="stop at the first molecule that fails")
    parser.add_argument(
        "--accelerator", type=str, default=None, help="auto, cpu, cuda or ipu; the run's own if not given"
    )


def predict(arguments: Any) -> int:
    """Predict the molecules of a file and list those that could not be."""
    from ipu_chem.prediction.predict import predict_file

    done, refused = predict_file(
        arguments.run,
        arguments.input,
        arguments.output,
        arguments.smiles_column,
        arguments.strict,
        accelerator=arguments.accelerator,
    )
    for entry in refused:
        print(f"line {entry.line} ({entry.name}): {entry.reason}")
    print(f"{done:,} molecules predicted, {len(refused):,} refused: {arguments.output}")
    return 0 if done else 1


def report(arguments: Any) -> int:
    """Write the report of each run."""
    from ipu_chem.reports.report import write_report

    for folder in arguments.runs:
        print(write_report(folder))
    return 0


def add_doctor_arguments(parser: Any) -> None:
    """Arguments of `doctor`."""
    parser.add_argument(
        "--config", type=str, default=None, help="YAML file or shipped recipe: say whether and how it fits on IPUs"
    )
    parser.add_argument(
        "--ipus", type=int, default=None, help="IPUs that there will be, 1, 2, 4, ...; the config's own if not given"
    )
    parser.add_argument(
        "--loader_seconds",
        type=float,
        default=1.0,
        help="seconds for which this host's loader is measured, to see whether it keeps up with the IPUs; 0 leaves it "
        "out, e.g. where the IPUs will have another host",
    )
    parser.add_argument(
        "--atoms", type=float, default=None, help="atoms of a molecule on average, for molecules a second; QM9's 18"
    )
    parser.add_argument(
        "--link", type=float, default=None, help="GB/s from the host to all IPUs; if not given, from 1 to 12.5"
    )


def doctor(arguments: Any) -> int:
    """Print the diagnosis, or for a configuration how it fits on IPUs."""
    from ipu_chem.doctor.diagnosis import print_diagnosis, print_plan

    if arguments.config is None:
        if arguments.ipus is not None:
            raise ValueError("--ipus says on how many IPUs a run shall fit: name it with --config.")
        if arguments.atoms is not None or arguments.link is not None:
            raise ValueError("--atoms and --link say how fast a run will be: name it with --config.")
        return print_diagnosis()
    from ipu_chem.config import from_dict

    config = from_dict(check_yaml(config_path(arguments.config)))
    return print_plan(config, arguments.ipus, arguments.loader_seconds, arguments.atoms, arguments.link)


def add_run_arguments(parser: Any, skip: Sequence[str] = ()) -> None:
    """All options of a run, and --config, which sets many of them."""
    from jsonargparse import ActionConfigFile

    parser.add_argument("--config", action=ActionConfigFile, help="YAML file, or the name of a shipped recipe")
    parser.add_class_arguments(RunConfig, None, skip=set(skip))


def run_values(arguments: Any) -> Dict[str, Any]:
    """The options of a run among parsed arguments, nested."""
    values: Dict[str, Any] = arguments.clone().as_dict()
    return {name: value for name, value in values.items() if name in RunConfig.__dataclass_fields__}


def _run_config(arguments: Any) -> RunConfig:
    """The resolved config; a resumed run writes where it was found."""
    from ipu_chem.config import from_dict

    values = run_values(arguments)
    if arguments.resume is not None:
        values["out"] = arguments.resume
    return from_dict(values)


def grid_path(word: str) -> Path:
    """A file as it is, or a shipped grid by name.

    Raises:
        ValueError: there is neither.
    """
    path, shipped = Path(word), _RECIPES / "grids"
    if path.is_file():
        return path
    if (shipped / f"{word}.yaml").is_file():
        return shipped / f"{word}.yaml"
    names = ", ".join(sorted(one.stem for one in shipped.glob("*.yaml")))
    raise ValueError(f"--grid {word}: there is no such file, and the grids are {names}.")


def config_path(word: str) -> Path:
    """A file as it is, or a recipe by name.

    Raises:
        ValueError: there is neither.
    """
    path = Path(word)
    if path.is_file():
        return path
    if (_RECIPES / f"{word}.yaml").is_file():
        return _RECIPES / f"{word}.yaml"
    raise ValueError(f"--config {word}: there is no such file, and the recipes are {', '.join(recipes())}.")


def check_yaml(path: Path) -> Dict[str, Any]:
    """The options that a YAML file holds.

    Raises:
        ValueError: it is no YAML mapping, or a key is unknown.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options as `name: value` lines.")
    try:
        check_keys(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return values


def _takes_path(word: str) -> bool:
    return word.startswith(("--config=", "--resume="))
