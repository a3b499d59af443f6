"""Train many candidates a little and the best of them to the end."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict

from ipu_chem.commands.parsing import part
from ipu_chem.commands.recipes import path_of
from ipu_chem.config import DataConfig, ModelConfig, RunConfig, to_dict
from ipu_chem.outputs import check_folder
from ipu_chem.scaling.search import SearchOptions
from ipu_chem.yaml_file import located, read_yaml

SECTIONS = {"data": DataConfig, "model": ModelConfig}


@dataclass(frozen=True)
class Options(SearchOptions):
    """Candidates to train.

    Attributes:
        grid: YAML file of options and their values, `optimizer.learning_rate: [...]`, or the name of a shipped one.
        out: folder; the same command goes on where it was.
    """

    grid: str = ""
    out: str = "runs/search"


def run(options: Options, config: RunConfig) -> int:
    """Search, print the table and say where everything is."""
    grid = read_grid(options.grid)
    check_folder("--out", options.out)
    from ipu_chem.scaling.candidates import make_candidates
    from ipu_chem.scaling.members import joined
    from ipu_chem.scaling.search import check_search, search
    from ipu_chem.scaling.search_report import table, write_result
    from ipu_chem.scaling.search_result import analyze
    from ipu_chem.scaling.selection import cost_of_rungs

    out, options = Path(options.out), part(options, SearchOptions)
    candidates = make_candidates(to_dict(config), grid, out)
    check_search(candidates, options)
    rungs = options.rungs(len({one.name for one in candidates}))
    words = [f"{len(candidates)} runs, {100 * options.budget:.3g}% of each"]
    for rung in rungs[1:]:
        where = f"{100 * rung.budget:.3g}%" if rung.budget < 1 else "the end"
        words.append(f"the best {rung.candidates} go on to {where}")
    more = ", more where some cannot win" if options.halving and options.confidence else ""
    words.append(
        "the others too" if options.finish_all else f"about {cost_of_rungs(rungs).saving:.0%} of all steps saved{more}"
    )
    print("; ".join(words), flush=True)
    with joined(out, "search", asdict(options), grid, config) as others:
        if others:
            print(f"{others} other processes are at work in {out}, and share the work with this one", flush=True)
        result = analyze(search(candidates, options), options)
        paths = write_result(out, result, options)
    print("\n".join(table(result)))
    print(f"written: {', '.join(map(str, paths))}; each run in a folder beside them")
    return 0


def read_grid(word: str) -> Dict[str, Any]:
    """Dotted options and their values, of a file or a shipped grid.

    Raises:
        ValueError: there is no grid, or a file that holds none.
    """
    if not word:
        raise ValueError("--grid is needed: a YAML file of options and their values, or one of `ipu-chem recipes`.")
    path = path_of("grid", word)
    try:
        return read_yaml(path, "options and their values, such as `optimizer.learning_rate: [1e-3, 3e-3]`")
    except ValueError as error:
        raise located([path], error) from None
