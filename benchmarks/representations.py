"""SMILES against SELFIES: ChemGPTs of equal parameters learn the same molecules in each, and write new ones.

    python benchmarks/representations.py [--quick] [--seeds 3] [--jobs 1] [--names selfies smiles safe] [--shared PATH]

Molecules of MOSES (those that RDKit ships where MOSES is not there), the same splits, steps of the same number of
molecules as near as packs allow, the same learning rate. Parameters are equal but for the rows of the vocabularies,
which are printed. What compares is nats per heavy atom of held-out molecules: tokens differ, atoms do not. Beside it
what 2,000 molecules of each model are worth: validity, uniqueness, novelty, distances to held-out molecules, with FCD
where the package fcd is installed.

Figures are means over seeds with 95 % intervals (Student's t); differences are paired by seed. Runs finished in
--out are not trained again. About 20 minutes on one core. Writes representations.json.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import ROOT, machine_line, print_table
from ipu_chem.scaling.campaign import train_all
from ipu_chem.scaling.candidates import Candidate, make_candidates
from packing.files import atomic_file

LOSS = "nats_per_heavy_atom"
SHOWN = ("validity", "unique", "novelty", "FCD", "Frechet_descriptors", "SNN", "Scaf", "Frag", "IntDiv1")


class Setting(NamedTuple):
    """Model, molecules and samples.

    Attributes:
        features, layers: of the model.
        train, validation, test: molecules.
        epochs: passes over the training molecules.
        samples: molecules that each model writes.
    """

    features: int = 96
    layers: int = 4
    train: int = 20_000
    validation: int = 1000
    test: int = 5000
    epochs: int = 2
    samples: int = 2000


QUICK = Setting(32, 1, 300, 50, 200, 1, 100)


def candidates_of(
    setting: Setting, names: Sequence[str], seeds: int, shared: Path, out: Path, rate: float
) -> List[Candidate]:
    """All runs: every representation from every seed."""
    moses = shared / "data" / "smiles" / "moses_test.csv.gz"
    data = {"name": "moses", "path": str(moses)} if moses.is_file() else {"name": "nci"}
    base = {
        "data": {**data, **{name: getattr(setting, name) for name in ("train", "validation", "test")}, "long": "drop"},
        "pack": {"tokens": 128, "algorithm": "best_fit"},
        "model": {"name": "chemgpt", "hidden_features": setting.features, "num_layers": setting.layers},
        "optimizer": {"learning_rate": rate, "weight_decay": 0.1, "betas": [0.9, 0.95], "max_grad_norm": 1.0},
        "schedule": {"name": "cosine", "warmup_steps": min(100, setting.train // 100), "min_factor": 0.1},
        "batching": {"micro_batch_size": 8},
        "training": {"epochs": setting.epochs, "samples": 0, "report": False},
        "accelerator": "cpu",
        "torch": {"threads": 1},
    }
    return make_candidates(base, {"data.representation": list(names), "training.seed": list(range(seeds))}, out)


def worth(folder: Path, samples: int, seed: int) -> Dict[str, float]:
    """Metrics of what a run writes, against molecules that it has not seen; kept beside the run."""
    from ipu_chem.generation.metrics import novelty, score
    from ipu_chem.generation.molecules import decode_many, write_molecules
    from ipu_chem.generation.samples import known_molecules
    from ipu_chem.generation.sampling import generate
    from ipu_chem.tasks.language_model import load_language_model
    from ipu_chem.trained_run import TrainedRun

    kept = folder / f"written-{samples}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    language = load_language_model(folder)
    representation = language.tokenizer.representation.name
    written = generate(language.model, language.tokenizer, samples, seed=seed, progress=False)
    decoded = decode_many(written.texts, 1, representation=representation)
    write_molecules(folder / "written.csv", written, decoded, representation)
    known = known_molecules(TrainedRun.load(folder).loaded_task())
    valid = [one.smiles for one in decoded if one.smiles]
    found = {"validity": 0.0}
    if valid:  # without the training molecules: distances to those, which nothing here needs, take longest
        found = score([one.smiles for one in decoded], None, known.reference, workers=1)
        found["novelty"] = novelty(valid, known.train or [])
    with atomic_file(kept, "w") as file:
        json.dump(found, file, indent=1)
    return found


def mean_and_interval(values: Sequence[float]) -> Tuple[float, float]:
    """Mean, and half of its 95 % interval by Student's t; NaN for one value."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    return mean, float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def shown(values: Sequence[float], digits: int = 4) -> str:
    """Mean and interval as a cell."""
    mean, half = mean_and_interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Train all, write molecules with all, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model on 300 molecules")
    parser.add_argument("--names", nargs="+", default=["selfies", "smiles"], help="representations")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate (default: %(default)s)")
    for name, value in Setting()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=None, help=f"(default: {value})")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs and the results")
    options = parser.parse_args(argv)
    chosen = {name: getattr(options, name) for name in Setting._fields if getattr(options, name) is not None}
    setting = (QUICK if options.quick else Setting())._replace(**chosen)
    out = options.out or Path(tempfile.mkdtemp(prefix="representations-"))
    machine = machine_line(f"float32, {options.jobs} processes of 1 thread", "torch", "rdkit", "selfies")
    candidates = candidates_of(setting, options.names, options.seeds, options.shared, out, options.rate)
    print(f"{machine}\n{setting}\n{len(candidates)} runs in {out}", flush=True)
    reached = train_all(candidates, 1.0, options.jobs)
    failed = [one.folder for one, progress in zip(candidates, reached) if progress.status != "finished"]
    if failed:
        raise RuntimeError(f"{failed[0]} did not finish; see the messages there.")
    results: Dict[str, Dict[str, List[float]]] = {name: {} for name in options.names}
    vocabularies: Dict[str, Any] = {}
    for candidate, progress in zip(candidates, reached):
        name, seed = candidate.config["data"]["representation"], candidate.config["training"]["seed"]
        run = json.loads((candidate.folder / "run.json").read_text(encoding="utf-8"))
        vocabularies[name] = (run["vocabulary"], run["parameters without embeddings"], run["parameters"])
        values = {f"test {key}": value for key, value in run["results"]["test"].items()}
        values.update(worth(candidate.folder, setting.samples, seed), seconds=progress.seconds)
        for key, value in values.items():
            results[name].setdefault(key, []).append(value)
    names = list(options.names)
    losses = [f"test {key}" for key in ("nats_per_token", "nats_per_molecule", LOSS, "perplexity")]
    rows = [["vocabulary", *(vocabularies[name][0] for name in names)]]
    rows.append(["parameters without embeddings", *(f"{vocabularies[name][1]:,}" for name in names)])
    rows.append(["parameters", *(f"{vocabularies[name][2]:,}" for name in names)])
    for key in (*losses, *SHOWN, "seconds"):
        if all(len(results[name].get(key, ())) == options.seeds for name in names):
            rows.append([key.replace("_", " "), *(shown(results[name][key]) for name in names)])
    title = f"{options.seeds} seeds, {setting.train:,} molecules, {setting.epochs} epochs"
    print_table(title, ["mean and 95 % interval", *names], rows)
    print()
    for name in names[1:]:
        pairs = zip(results[name][f"test {LOSS}"], results[names[0]][f"test {LOSS}"])
        print(
            f"{name} - {names[0]}, nats per heavy atom, paired by seed: {shown([one - other for one, other in pairs])}"
        )
    if not any("FCD" in results[name] for name in names):
        print("FCD: not computed; it needs the package fcd")
    with atomic_file(out / "representations.json", "w") as file:
        json.dump({"machine": machine, **setting._asdict(), "rate": options.rate, "results": results}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
