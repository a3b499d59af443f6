"""The command `search`: a grid of options, trained as far as each of its candidates deserves.

On data's way: base config, grid -> candidates -> search -> report: table, search.json, search.csv, search.png.
"""

from pathlib import Path
from typing import Any, Dict

from ipu_chem.commands.runs import add_run_arguments, grid_path, run_values


def add_arguments(parser: Any) -> None:
    """Arguments of `search`."""
    add_run_arguments(parser, skip=["out"])
    parser.add_argument(
        "--grid",
        type=str,
        required=True,
        help="YAML file of options and their values, `optimizer.learning_rate: [...]`, or the name of a shipped one",
    )
    parser.add_argument("--out", type=str, default="runs/search", help="folder; the same command goes on where it was")
    parser.add_argument("--budget", type=float, default=0.2, help="share of its steps that every candidate trains for")
    parser.add_argument("--keep", type=int, default=3, help="candidates that train to the end, 2 or more")
    parser.add_argument(
        "--halving",
        type=int,
        default=0,
        help="look again at this many times the steps, each time going on with the best of this many; 0 looks once",
    )
    parser.add_argument(
        "--estimator",
        type=str,
        default="tail",
        help="tail, the mean training loss of the last steps; validation, the metric of the last evaluation, best with "
        "training.ema_decay; tse, tse_e, tse_ema",
    )
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.1,
        help="last share of the steps up to a look whose mean loss is the estimate",
    )
    parser.add_argument(
        "--calibration",
        type=str,
        default="line",
        help="of final values by estimates: line, or power where they span a decade",
    )
    parser.add_argument("--finish_all", type=bool, default=False, help="train all to the end, to judge the estimates")
    parser.add_argument(
        "--metric", type=str, default="", help="validation metric that counts; the forces' error, else the first"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the CPU cores")


def run(arguments: Any) -> int:
    """Search, print the table and say where everything is."""
    from ipu_chem.scaling.candidates import make_candidates
    from ipu_chem.scaling.search import SearchOptions, search
    from ipu_chem.scaling.search_report import analyse, table, write_result
    from ipu_chem.scaling.selection import cost_of_rungs

    chosen = {name: getattr(arguments, name) for name in SearchOptions.__dataclass_fields__}
    options = SearchOptions(**chosen)
    out = Path(arguments.out)
    candidates = make_candidates(run_values(arguments), read_grid(arguments.grid), out)
    rungs = options.rungs(len({one.name for one in candidates}))
    words = [f"{len(candidates)} runs, {100 * options.budget:.3g}% of each"]
    for rung in rungs[1:]:
        where = f"{100 * rung.share:.3g}%" if rung.share < 1 else "the end"
        words.append(f"the best {rung.candidates} go on to {where}")
    words.append(
        "the others too" if options.finish_all else f"about {cost_of_rungs(rungs).saving:.0%} of all steps saved"
    )
    print("; ".join(words), flush=True)
    result = analyse(search(candidates, options), options)
    paths = write_result(out, result, options)
    print("\n".join(table(result)))
    print(f"written: {', '.join(map(str, paths))}; each run in a folder beside them")
    return 0


def read_grid(word: str) -> Dict[str, Any]:
    """Dotted options and their values, of a file or a shipped grid."""
    import yaml

    path = grid_path(word)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options and their values, such as `optimizer.learning_rate: [1e-3, 3e-3]`.")
    return {str(key): value for key, value in values.items()}
