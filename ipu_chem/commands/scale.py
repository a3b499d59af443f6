"""Train a grid of sizes and say how loss follows size and data."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import List, Optional

from ipu_chem.commands.parsing import part
from ipu_chem.commands.search import read_grid
from ipu_chem.config import DataConfig, ModelConfig, RunConfig, to_dict
from ipu_chem.outputs import check_folder
from ipu_chem.ranges import check_fields
from ipu_chem.scaling.intervals import LEVEL
from ipu_chem.scaling.study import StudyOptions

SECTIONS = {"data": DataConfig, "model": ModelConfig}
WITHOUT_RUN = True  # studies are compared without one


@dataclass(frozen=True)
class Options(StudyOptions):
    """Grid to study.

    Attributes:
        grid: YAML file of values, `model.hidden_features: [...]`, `data.train: [...]`, `training.seed: [...]`, or the
            name of a shipped one.
        out: folder; the same command goes on where it was.
        level: nominal coverage of the intervals of exponents, between 0 and 1.
        plan: print runs, sizes, FLOPs and an estimate of the time, and train nothing.
        plan_seconds: seconds for which steps of each size are measured for that estimate; 0 measures nothing, as where
            another machine will train.
    """

    grid: str = ""
    out: str = "runs/scale"
    level: float = LEVEL
    plan: bool = False
    plan_seconds: float = 1.0
    compare: List[str] = field(
        default_factory=list,
        metadata={
            "many": "+",
            "help": "folders of finished studies of different models, whose exponents are put side by side in a figure "
            "and tables in --out; nothing is trained",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, plan_seconds="from 0 to 600")
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level}: give a fraction between 0 and 1, such as 0.9.")


def run(options: Options, config: Optional[RunConfig]) -> int:
    """Train, fit, print and say where everything is; or compare studies."""
    if options.compare:
        return _compare(options, config)
    from ipu_chem.scaling.cost import cost_lines, costs_of
    from ipu_chem.scaling.members import joined
    from ipu_chem.scaling.study import held_of, make_plan, run_study
    from ipu_chem.scaling.study_report import analyze, lines, write_study

    planned, seconds, level = options.plan, options.plan_seconds, options.level
    grid, out, options = read_grid(options.grid), Path(options.out), part(options, StudyOptions)
    config = config or RunConfig()
    check_folder("--out", out)
    with joined(out, "scale", asdict(options), grid, config) as others:
        if others:
            shared = "" if planned else ", and share the work with this one"
            print(f"{others} other processes are at work in {out}{shared}", flush=True)
        plan = make_plan(to_dict(config), grid, out, options)
        print("\n".join(plan.lines()), flush=True)
        if planned:
            print("\n".join(held_of(plan, options).lines()), flush=True)
            print("\n".join(cost_lines(costs_of(plan, options.jobs, seconds), options.jobs)))
            return 0
        points = run_study(plan, out, options)
        study = analyze(points, level, held_of(plan, options))
        paths = write_study(out, study)
    print("\n".join(lines(study)))
    print(f"written: {', '.join(map(str, paths))}; each run in a folder beside them")
    return 0


def _compare(options: Options, config: Optional[RunConfig]) -> int:
    """Put studies side by side."""
    from ipu_chem.scaling.families import compare, family_lines
    from ipu_chem.scaling.family_figure import write_families

    if config is not None or options.grid:
        raise ValueError("--compare reads finished studies: leave --grid and the options of a run out.")
    usual = Options()
    names = (field.name for field in fields(Options) if field.name not in ("compare", "out", "level"))
    idle = [f"--{name}" for name in names if getattr(options, name) != getattr(usual, name)]
    if idle:
        raise ValueError(f"--compare reads finished studies and trains nothing: leave {', '.join(idle)} out.")
    check_folder("--out", options.out)
    families = compare([Path(folder) for folder in options.compare], options.level)
    paths = write_families(Path(options.out), families)
    print("\n".join(family_lines(families)))
    print(f"written: {', '.join(map(str, paths))}")
    return 0
