"""The command `scale`: a grid of sizes and amounts of data, and how loss follows them.

On data's way: base config, grid -> plan -> runs -> points.json -> exponents, study.json, points.csv, figures.
"""

from pathlib import Path
from typing import Any

from ipu_chem.commands.runs import add_run_arguments, run_values
from ipu_chem.commands.search import read_grid


def add_arguments(parser: Any) -> None:
    """Arguments of `scale`."""
    add_run_arguments(parser, skip=["out"])
    parser.add_argument(
        "--grid",
        type=str,
        required=True,
        help="YAML file of values, `model.hidden_features: [...]`, `data.train: [...]`, `training.seed: [...]`, or the "
        "name of a shipped one",
    )
    parser.add_argument("--out", type=str, default="runs/scale", help="folder; the same command goes on where it was")
    parser.add_argument(
        "--rule", type=str, default="steps", help="when training ends: steps, the same for all, or the config's epochs"
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="that all runs make; 0 is what the config's epochs of the most data are"
    )
    parser.add_argument(
        "--evaluations", type=int, default=8, help="of every run, from which its best weights are chosen (--rule steps)"
    )
    parser.add_argument(
        "--metric", type=str, default="", help="validation metric that is the loss; nats_per_heavy_atom of text"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the CPU cores")


def run(arguments: Any) -> int:
    """Train, fit, print and say where everything is."""
    from ipu_chem.scaling.study import StudyOptions, make_plan, run_study
    from ipu_chem.scaling.study_report import analyse, lines, write_study

    options = StudyOptions(**{name: getattr(arguments, name) for name in StudyOptions.__dataclass_fields__})
    out = Path(arguments.out)
    plan = make_plan(run_values(arguments), read_grid(arguments.grid), out, options)
    print("\n".join(plan.lines()), flush=True)
    points = run_study(plan, out, options)
    study = analyse(points)
    paths = write_study(out, study)
    print("\n".join(lines(study)))
    print(f"written: {', '.join(map(str, paths))}; each run in a folder beside them")
    return 0
