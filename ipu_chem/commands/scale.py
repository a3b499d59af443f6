"""Train a grid of sizes and say how loss follows size and data."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ipu_chem.commands.parsing import part
from ipu_chem.commands.search import read_grid
from ipu_chem.config import DataConfig, ModelConfig, RunConfig, to_dict
from ipu_chem.outputs import check_folder
from ipu_chem.scaling.intervals import LEVEL
from ipu_chem.scaling.study import StudyOptions

SECTIONS = {"data": DataConfig, "model": ModelConfig}


@dataclass(frozen=True)
class Options(StudyOptions):
    """Grid to study.

    Attributes:
        grid: YAML file of values, `model.hidden_features: [...]`, `data.train: [...]`, `training.seed: [...]`, or the
            name of a shipped one.
        out: folder; the same command goes on where it was.
        level: nominal coverage of the intervals of exponents, between 0 and 1.
    """

    grid: str = ""
    out: str = "runs/scale"
    level: float = LEVEL

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level}: give a fraction between 0 and 1, such as 0.9.")


def run(options: Options, config: RunConfig) -> int:
    """Train, fit, print and say where everything is."""
    from ipu_chem.scaling.members import joined
    from ipu_chem.scaling.study import make_plan, run_study
    from ipu_chem.scaling.study_report import analyze, lines, write_study

    grid, out, level = read_grid(options.grid), Path(options.out), options.level
    options = part(options, StudyOptions)
    check_folder("--out", out)
    with joined(out, "scale", asdict(options), grid, config) as others:
        if others:
            print(f"{others} other processes are at work in {out}, and share the work with this one", flush=True)
        plan = make_plan(to_dict(config), grid, out, options)
        print("\n".join(plan.lines()), flush=True)
        points = run_study(plan, out, options)
        study = analyze(points, level)
        paths = write_study(out, study)
    print("\n".join(lines(study)))
    print(f"written: {', '.join(map(str, paths))}; each run in a folder beside them")
    return 0
