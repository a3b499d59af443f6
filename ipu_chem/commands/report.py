"""Write report.html for one or more runs."""

from dataclasses import dataclass
from typing import List

from ipu_chem.commands.parsing import positional


@dataclass(frozen=True)
class Options:
    """Runs to report on."""

    runs: List[str] = positional("folders of runs", "+")


def run(options: Options) -> int:
    """Write the report of each run."""
    from ipu_chem.reports.report import write_report

    for folder in options.runs:
        print(write_report(folder))
    return 0
