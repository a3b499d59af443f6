"""float16 training against float32 on real molecules: does it reach the same loss?

    python benchmarks/half_precision.py [--quick] [--no-goals]

The recipe nci3d_demo is trained in float32 and, emulated on the CPU as IPUs compute it, with float16 weights:
rounded to the nearest value, and stochastically with float16 accumulators. Goal: the loss of the last epoch
and the validation MAE are within 2 % of float32's, or better. Emulation says nothing about speed.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Tuple

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import yaml

from benchmarks.common import ROOT, Goals, arguments, machine_line, print_table
from ipu_chem.config import from_dict
from ipu_chem.train import train
from ipu_chem.training.logging import read_rows

PRECISIONS: Dict[str, Dict[str, Any]] = {
    "float32": {},
    "float16": {"weights": "float16", "loss_scaling": 1024.0},
    "float16, stochastic rounding, float16 accumulators": {
        "weights": "float16",
        "loss_scaling": 64.0,  # the first steps' gradients, added up and scaled, end at 65,504
        "stochastic_rounding": True,
        "accumulation": "float16",
    },
}


def trained(precision: Dict[str, Any], quick: bool, out: Path) -> Tuple[float, float]:
    """Loss of the last epoch and validation MAE in kcal/mol."""
    recipe = ROOT / "ipu_chem" / "recipes" / "nci3d_demo.yaml"
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values["training"] = {**values["training"], "epochs": 2 if quick else 10, "report": False}
    if quick:
        values["data"]["limit"] = 400
    values.update(precision=precision, accelerator="cpu", out=str(out))
    result = train(from_dict(values))
    last = [row for row in read_rows(out) if row["kind"] == "validation"][-1]
    return float(last["loss"]), next(iter(result["results"]["validation"].values()))


def main() -> int:
    """Train in every precision, print and judge."""
    options = arguments(__doc__)
    print(machine_line("float32 and emulated float16", "numpy", "torch"))
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, precision) in enumerate(PRECISIONS.items()):
            print(f"\n--- {name}", flush=True)
            figures[name] = trained(precision, options.quick, Path(folder) / str(number))
    loss, mae = figures["float32"]
    rows = [
        [name, f"{one:.5f}", f"{100 * (one / loss - 1):+.2f} %", f"{other:.3f}", f"{100 * (other / mae - 1):+.2f} %"]
        for name, (one, other) in figures.items()
    ]
    header = ["format", "loss of the last epoch", "against float32", "validation MAE, kcal/mol", "against float32"]
    print_table("SchNet on the NCI molecules", header, rows)
    goals = Goals()
    for name, (one, other) in list(figures.items())[1:]:
        goals.at_most(f"{name}: loss over float32's", one / loss, 1.02)
        goals.at_most(f"{name}: validation MAE over float32's", other / mae, 1.02)
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
