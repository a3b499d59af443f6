"""MoleculeNet from text: a pretrained ChemGPT against the same one untrained and against fingerprints, by scaffolds.

    python benchmarks/moleculenet.py RUN [--sets esol,freesolv] [--seeds 5] [--minutes 60] [--rows FILE] [--shared PATH]

RUN is the folder of a run of a ChemGPT, such as that of the recipe chemgpt_moses. All methods see the same molecules in
DeepChem's scaffold split (80 : 10 : 10), of which the validation part chooses the epoch; seeds are those of weights and
of forests, so that spreads say nothing of other splits. Methods: the run tuned whole, with LoRA, and frozen with ridge
or logistic regression on its means of tokens; the same sizes from fresh weights; Morgan fingerprints (radius 2, 2,048
bits) with a random forest, and with ridge or logistic regression. Errors are RMSE, classes ROC-AUC, means over targets.

A row is kept in a JSON-lines file as soon as it is known, and an interrupted table goes on from there. After
``--minutes`` no further row is begun. Published figures are printed beside: the leaderboard of MoleculeNet (random
forest on 1,024 bits and a graph convolution; github.com/deepchem/moleculenet, README at 047f9c6, the same rule of
splitting), and MoLFormer, pretrained and from scratch, as T. Peng et al., npj Artif. Intell. 2025, table 1, found it in
scaffold splits of their own. Z. Wu et al., "MoleculeNet", Chem. Sci. 9, 513 (2018).
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.common import ROOT, machine_line, print_table
from ipu_chem.checkpoint import BEST, load_checkpoint
from ipu_chem.config import from_dict
from ipu_chem.data.molecule import decode_texts
from ipu_chem.embedding import embed
from ipu_chem.metrics import label_metrics
from ipu_chem.tasks.language_model import load_language_model
from ipu_chem.tasks.registry import load_task
from ipu_chem.train import train


class Set(NamedTuple):
    """A table of MoleculeNet.

    Attributes:
        file: in data/moleculenet of the shared folder.
        targets: columns, separated by commas; empty takes all but SMILES and names.
        binary: targets are classes.
        published: who -> value on the test split.
    """

    file: str
    targets: str
    binary: bool
    published: Dict[str, float]


_FOREST, _GCN, _MOLFORMER, _SCRATCH = "RF, ECFP4", "GCN", "MoLFormer", "MoLFormer, fresh"
SETS: Dict[str, Set] = {
    "esol": Set(
        "delaney-processed.csv.gz",
        "measured log solubility in mols per litre",
        False,
        {_FOREST: 1.7406, _GCN: 0.8851},
    ),
    "freesolv": Set("freesolv.csv.gz", "expt", False, {}),
    "lipophilicity": Set("Lipophilicity.csv.gz", "exp", False, {_FOREST: 0.9621, _GCN: 0.7806}),
    "bbbp": Set("bbbp.csv.gz", "p_np", True, {_FOREST: 0.9540, _GCN: 0.9214, _MOLFORMER: 0.9037, _SCRATCH: 0.8636}),
    "clintox": Set(
        "clintox.csv.gz",
        "FDA_APPROVED,CT_TOX",
        True,
        {_FOREST: 0.7829, _GCN: 0.9065, _MOLFORMER: 0.9451, _SCRATCH: 0.7317},
    ),
    "tox21": Set("tox21.csv.gz", "", True, {_MOLFORMER: 0.7734, _SCRATCH: 0.7461}),
    "sider": Set("sider.csv.gz", "", True, {_FOREST: 0.6504, _GCN: 0.6265, _MOLFORMER: 0.5826, _SCRATCH: 0.5667}),
}
_NO_TARGETS = ("smiles", "mol_id")
PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0)  # of ridge and logistic regression, chosen by validation
BITS, TREES = 2048, 300


class Molecules(NamedTuple):
    """A set as all methods see it: SMILES, labels [I, T] with NaN where missing, and items of each split."""

    smiles: List[str]
    y: np.ndarray
    items: Dict[str, np.ndarray]
    targets: List[Any]


def main() -> int:
    """Fill the table, print it."""
    options = _options()
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "sklearn", "rdkit", "selfies", "numpy"))
    started, kept = time.monotonic(), options.rows
    settings = {"run": _fingerprint(options.run), "epochs": options.epochs, "learning_rate": options.learning_rate}
    settings.update(patience=options.patience, seen=options.seen)
    rows = [row for row in _read(kept) if row["settings"] == settings]
    if kept.is_file() and not kept.read_bytes().endswith(b"\n"):
        kept.write_bytes(kept.read_bytes() + b"\n")  # behind a line that was cut
    known = {(row["set"], row["method"], row["seed"]) for row in rows}
    print(f"{kept}: {len(rows)} rows of these settings are known")
    late = False
    for name in options.sets:
        molecules: Any = None
        for seed in range(options.seeds):
            for method, function in METHODS.items():
                again = seed > 0 and method.endswith("linear")  # nothing in it is drawn
                if again or (name, method, seed) in known or method not in options.methods:
                    continue
                if time.monotonic() - started > 60 * options.minutes:
                    late = True
                    break
                molecules = molecules or _molecules(name, options)
                began = time.process_time()
                value = function(name, molecules, seed, options)
                seconds = time.process_time() - began
                row = {"set": name, "method": method, "seed": seed, "value": value, "seconds": round(seconds, 1)}
                rows.append({**row, "settings": settings})
                with open(kept, "a", encoding="utf-8") as file:
                    file.write(f"{json.dumps(rows[-1])}\n")
                print(f"{name}, {method}, seed {seed}: {value:.4f} in {seconds:.0f} CPU s", flush=True)
    _print(rows, options)
    if late:
        print(f"stopped after {options.minutes:g} minutes; the same command goes on.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of a ChemGPT")
    parser.add_argument(
        "--sets", default="esol,freesolv,bbbp", help=f"of {', '.join(SETS)}, or all (default: %(default)s)"
    )
    parser.add_argument("--methods", default="all", help=f"of {'; '.join(METHODS)}, separated by ; (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="at most (default: %(default)s)")
    seen = "molecules that a run trains on at most, counted with repetitions, but 5 epochs (default: %(default)s)"
    parser.add_argument("--seen", type=int, default=15000, help=seen)
    parser.add_argument("--patience", type=int, default=4, help="epochs without improvement (default: %(default)s)")
    rate = "of the run tuned whole; twice as much from fresh weights, four times for LoRA (default: %(default)s)"
    parser.add_argument("--learning-rate", type=float, default=5e-4, help=rate)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so many")
    parser.add_argument("--rows", type=Path, default=Path("moleculenet.jsonl"), help="(default: %(default)s)")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    options = parser.parse_args()
    options.sets = list(SETS) if options.sets == "all" else options.sets.split(",")
    options.methods = list(METHODS) if options.methods == "all" else [one.strip() for one in options.methods.split(";")]
    for chosen, there in ((options.sets, SETS), (options.methods, METHODS)):
        unknown = [one for one in chosen if one not in there]
        if unknown:
            parser.error(f"there is no {unknown[0]!r}; there are {'; '.join(there)}")
    for number in ("seeds", "epochs", "seen"):
        if getattr(options, number) < 1:
            parser.error(f"--{number} {getattr(options, number)}: give 1 or more")
    for path in (options.run / BEST, options.shared / "data" / "moleculenet", options.rows.absolute().parent):
        if not path.exists():  # before the first row is paid for
            parser.error(f"there is no {path}")
    return options


def _read(path: Path) -> Iterator[Dict[str, Any]]:
    """Rows of an earlier start; a last line that was cut is left out."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            print(f"{path}: a line is cut, its row is made again")


def _fingerprint(run: Path) -> str:
    """Name, data and step of a pretrained model, that its rows are known by."""
    _, state = load_checkpoint(run / BEST)
    return f"{run.name}, {state['fingerprint']}, step {state.get('step', state.get('progress', {}).get('step', '?'))}"


def _config(name: str, seed: int, options: argparse.Namespace, **more: Any) -> Any:
    """A run on a set; ``more`` are sections that differ."""
    one = SETS[name]
    data = {
        "name": "file",
        "path": str(options.shared / "data" / "moleculenet" / one.file),
        "target": one.targets or _all_targets(options.shared / "data" / "moleculenet" / one.file),
        "kind": "binary" if one.binary else "number",
        "extensive": False,
        "split": "scaffold_deepchem",
        "long": "truncate",
        "representation": load_checkpoint(options.run / BEST)[1]["config"]["data"]["representation"],
        "workers": 1,
    }
    training = {"epochs": options.epochs, "early_stopping": options.patience, "seed": seed, "progress": False}
    training.update({"report": False, "samples": 0, **more.pop("training", {})})
    sections = {
        "data": data,
        "training": training,
        "schedule": {"name": "cosine", "warmup_steps": 50},
        "batching": {"micro_batch_size": 8},
        "torch": {"threads": 1},
        "accelerator": "cpu",
        **more,
    }
    return from_dict(sections)


def _all_targets(path: Path) -> str:
    import csv
    import gzip

    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    return ",".join(f'"{name}"' for name in header if name not in _NO_TARGETS)


def _molecules(name: str, options: argparse.Namespace) -> Molecules:
    """A set, split."""
    task: Any = load_task(_config(name, 0, options, model=_sizes(options)))
    counts = ", ".join(f"{split} {len(items):,}" for split, items in task.items.items())
    print(f"{name}: {len(task.store):,} molecules ({counts}), {len(task.targets)} targets")
    return Molecules(decode_texts(task.store, "smiles"), task.labels.known.y, task.items, task.targets)


def _sizes(options: argparse.Namespace) -> Dict[str, Any]:
    """The model section of the pretrained run."""
    config = load_checkpoint(options.run / BEST)[1]["config"]["model"]
    return {key: value for key, value in config.items() if key not in ("filter", "freeze", "readout", "lora_rank")}


def _value(metrics: Dict[str, float], targets: List[Any]) -> float:
    """RMSE of the target, or the mean of ROC-AUC."""
    if targets[0].binary:
        return metrics["rocauc" if len(targets) > 1 else targets[0].metric("rocauc")]
    return metrics[targets[0].metric("rmse")]


def _epochs(molecules: int, options: argparse.Namespace) -> int:
    """Of a training split of so many molecules: as many as their limits allow, and 5 of a large one."""
    return min(options.epochs, max(5, options.seen // molecules))


def _tuned(**more: Any) -> Callable[..., float]:
    """A method that trains a ChemGPT: the run, with options of its model, or with ``fresh`` the same sizes."""

    def method(name: str, molecules: Molecules, seed: int, options: argparse.Namespace) -> float:
        fresh = more.get("fresh", False)
        model = _sizes(options) if fresh else {"name": "chemgpt", **more}
        training = {"epochs": _epochs(len(molecules.items["train"]), options)}
        training.update({} if fresh else {"start_from": str(options.run)})
        with tempfile.TemporaryDirectory() as folder:
            out = {"out": str(Path(folder) / "run")}
            rate = options.learning_rate * (2 if fresh else 4 if more.get("lora_rank") else 1)
            optimizer = {"learning_rate": rate, "weight_decay": 0.1, "max_grad_norm": 1.0}
            config = _config(name, seed, options, model=model, training=training, optimizer=optimizer, **out)
            return _value(train(config)["results"]["test"], molecules.targets)

    return method


def _linear(name: str, molecules: Molecules, features: np.ndarray) -> float:
    """Ridge or logistic regression for each target, its penalty chosen by validation."""
    from sklearn.linear_model import LogisticRegression, Ridge

    binary = SETS[name].binary

    def fit(x: np.ndarray, y: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        if binary:
            model = LogisticRegression(C=1.0 / penalty, max_iter=2000).fit(x, y)
            return lambda other: model.predict_proba(other)[:, 1]
        return Ridge(alpha=penalty).fit(x, y).predict

    return _each_target(molecules, features, PENALTIES, fit)


def _each_target(
    molecules: Molecules, features: np.ndarray, choices: Tuple[Any, ...], fit: Callable[..., Callable[..., np.ndarray]]
) -> float:
    """Metric on the test split of one model for each target; its choice is that of the best validation metric."""
    train_items, validation, test = (molecules.items[split] for split in ("train", "validation", "test"))
    predictions = np.full((len(test), molecules.y.shape[1]), 0.5)
    for column, target in enumerate(molecules.targets):
        y = molecules.y[:, column]
        known = train_items[np.isfinite(y[train_items])]
        if target.binary and len(np.unique(y[known])) < 2:
            continue  # nothing to learn: 0.5 for all
        best = np.inf
        for choice in choices:
            model = fit(features[known], y[known], choice)
            loss = 0.0
            if len(choices) > 1:
                found = label_metrics(model(features[validation])[:, None], y[validation][:, None], [target])
                loss = _value(found, [target]) * (-1.0 if target.binary else 1.0)
            if loss < best or choice == choices[0]:
                best = loss if np.isfinite(loss) else np.inf
                predictions[:, column] = model(features[test])
    return _value(label_metrics(predictions, molecules.y[test], molecules.targets), molecules.targets)


def _morgan(smiles: List[str]) -> np.ndarray:
    from rdkit import Chem
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    generator = GetMorganGenerator(radius=2, fpSize=BITS)
    return np.stack([generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles]).astype(np.float64)


def _forest(name: str, molecules: Molecules, seed: int, options: argparse.Namespace) -> float:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    def fit(x: np.ndarray, y: np.ndarray, _: Any) -> Callable[[np.ndarray], np.ndarray]:
        if SETS[name].binary:
            model = RandomForestClassifier(TREES, random_state=seed, min_samples_leaf=1).fit(x, y)
            return lambda other: model.predict_proba(other)[:, 1]
        return RandomForestRegressor(TREES, max_features="sqrt", random_state=seed).fit(x, y).predict

    return _each_target(molecules, _morgan(molecules.smiles), (None,), fit)


def _fingerprint_linear(name: str, molecules: Molecules, seed: int, options: argparse.Namespace) -> float:
    return _linear(name, molecules, _morgan(molecules.smiles))


def _frozen(name: str, molecules: Molecules, seed: int, options: argparse.Namespace) -> float:
    """Means of tokens of the run, standardized; nothing in it depends on the seed."""
    from sklearn.preprocessing import StandardScaler

    language = load_language_model(options.run)
    found = embed(language.model, language.tokenizer, molecules.smiles, unknown="map", long="truncate")
    values = np.where(np.isfinite(found.values), found.values, 0.0)
    scaler = StandardScaler().fit(values[molecules.items["train"]])
    return _linear(name, molecules, scaler.transform(values))


METHODS: Dict[str, Callable[..., float]] = {
    "Morgan, random forest": _forest,
    "Morgan, linear": _fingerprint_linear,
    "pretrained, frozen, linear": _frozen,
    "pretrained, LoRA": _tuned(lora_rank=8),
    "pretrained, tuned": _tuned(),
    "fresh": _tuned(fresh=True),
}


def _print(rows: List[Dict[str, Any]], options: argparse.Namespace) -> None:
    """Mean and standard deviation over seeds, published figures beside."""
    published = list(dict.fromkeys(who for one in SETS.values() for who in one.published))
    table = []
    for name in options.sets:
        cells = [f"{name}, {'ROC-AUC' if SETS[name].binary else 'RMSE'}"]
        for method in METHODS:
            values = [row["value"] for row in rows if row["set"] == name and row["method"] == method]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread} ({len(values)})" if values else "")
        table.append(
            cells + [f"{SETS[name].published[who]:.3f}" if who in SETS[name].published else "" for who in published]
        )
    header = ["test", *METHODS, *(f"published: {who}" for who in published)]
    print_table("MoleculeNet, DeepChem's scaffold split: mean ± standard deviation (seeds)", header, table)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="sklearn")
    sys.exit(main())
