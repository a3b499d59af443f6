"""Layouts as text: a table of every IPU's memory, and the options that give the layout."""

from dataclasses import asdict
from typing import Any, Dict, List

from ipu_chem.backends.poptorch.layout import Layout, blocks_text, counted
from ipu_chem.backends.poptorch.machine import MIB, machines
from ipu_chem.backends.poptorch.memory import KINDS
from ipu_chem.backends.poptorch.stages import needed_accumulation


def memory_table(layout: Layout) -> str:
    """One line for every IPU of a replica: stages, blocks, parameters, MiB of every kind, fraction of the IPU."""
    rows = [["ipu", "stage", "blocks", "parameters", *KINDS, "total", "full"]]
    for ipu in layout.memory:
        sizes = [getattr(ipu, kind) for kind in KINDS] + [ipu.total]
        stages = "+".join(str(stage) for stage in ipu.stages)
        blocks = " | ".join(blocks_text(layout.stages[stage]) for stage in ipu.stages)
        figures = [f"{size / MIB:,.1f}" for size in sizes]
        rows.append([str(ipu.ipu), stages, blocks, f"{ipu.parameters:,}", *figures, f"{ipu.fraction:.0%}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: List[str] = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (1, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def summary(layout: Layout) -> str:
    """A layout in a few lines."""
    batching = layout.batching
    lines = [
        f"{machines(layout.ipus)}: {layout.describe()}",
        f"{batching.packs_per_step:,} packs in an optimizer step: {batching.micro_batch_size} in a micro-batch x "
        f"{batching.gradient_accumulation} accumulated x {counted(batching.replication_factor, 'replica')}",
    ]
    stages = len(layout.stages)
    if needed_accumulation(layout.stages, layout.options.execution) > 1:
        accumulated = batching.gradient_accumulation
        lines.append(
            f"{stages} stages need an accumulation of {2 * stages - 1} or more; with {accumulated} the pipeline is "
            f"full {accumulated / (accumulated + stages - 1):.0%} of the time"
        )
    if layout.is_tight:
        lines.append(
            f"tight: IPU {layout.fullest.ipu} is full to {layout.fullest.fraction:.0%}, and the estimate may be off "
            "by a quarter"
        )
    return "\n".join(lines)


def to_options(layout: Layout) -> Dict[str, Any]:
    """The part of a run's configuration that gives the layout, as plain values; what is default is left out."""
    groups = {"precision": layout.precision, "ipu": layout.options}
    changed = {name: _changed(group) for name, group in groups.items()}
    result = {"accelerator": "ipu", "batching": asdict(layout.batching), **changed}
    return {name: values for name, values in result.items() if values}


def to_yaml(layout: Layout) -> str:
    """`to_options` as YAML."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Lists in one line."""

    tag = "tag:yaml.org,2002:seq"
    Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence(tag, value, flow_style=True))
    return yaml.dump(to_options(layout), Dumper=Dumper, sort_keys=False, width=1000).rstrip()


def _changed(options: Any) -> Dict[str, Any]:
    """Fields of a dataclass that are not at their default, tuples as lists."""
    default = asdict(type(options)())
    values = {name: value for name, value in asdict(options).items() if value != default[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
