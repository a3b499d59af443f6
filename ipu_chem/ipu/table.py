"""Layouts as text: a table of every IPU's memory, and the options that give the layout.

On data's way: Layout -> lines on the terminal, YAML to paste.
"""

from dataclasses import asdict
from typing import Any, Dict, List

from ipu_chem.ipu.layout import Layout
from ipu_chem.ipu.machine import MIB, machines
from ipu_chem.ipu.memory import KINDS, IpuMemory
from ipu_chem.ipu.stages import needed_accumulation


def memory_table(layout: Layout) -> str:
    """One line for every IPU of a replica: stages, blocks, parameters, MiB of every kind, share of the IPU."""
    rows = [["ipu", "stage", "blocks", "parameters", *KINDS, "total", "share"]]
    for ipu in layout.memory:
        sizes = [getattr(ipu, kind) for kind in KINDS] + [ipu.total]
        stages = "+".join(str(stage) for stage in ipu.stages)
        figures = [f"{size / MIB:,.1f}" for size in sizes]
        rows.append(
            [str(ipu.ipu), stages, blocks_text(layout, ipu), f"{ipu.parameters:,}", *figures, f"{ipu.share:.0%}"]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: List[str] = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (1, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def blocks_text(layout: Layout, ipu: IpuMemory) -> str:
    """Blocks of an IPU, stage by stage: ``wte..layers.1 | head``."""
    parts = []
    for number in ipu.stages:
        blocks = layout.stages[number].blocks
        parts.append(blocks[0] if len(blocks) == 1 else f"{blocks[0]}..{blocks[-1]}")
    return " | ".join(part or "(whole model)" for part in parts)


def summary(layout: Layout) -> str:
    """What the layout is, in two or three lines."""
    batching = layout.batching
    lines = [
        f"{machines(layout.ipus)}: {layout.describe()}",
        f"{batching.packs_per_step:,} packs in an optimizer step: {batching.micro_batch_size} in a micro-batch x "
        f"{batching.gradient_accumulation} accumulated x {batching.replication_factor} replicas",
    ]
    stages = len(layout.stages)
    if needed_accumulation(layout.stages, layout.options.execution) > 1:
        accumulated = batching.gradient_accumulation
        lines.append(
            f"{stages} stages need an accumulation of {2 * stages - 1} or more; with {accumulated} the pipeline is "
            f"full {accumulated / (accumulated + stages - 1):.0%} of the time"
        )
    return "\n".join(lines)


def to_options(layout: Layout) -> Dict[str, Any]:
    """The part of a run's configuration that gives the layout, as plain values; what is default is left out."""
    options, default = layout.options, type(layout.options)()
    ipu = {name: value for name, value in asdict(options).items() if value != getattr(default, name)}
    precision = {
        name: value
        for name, value in asdict(layout.precision).items()
        if value != getattr(type(layout.precision)(), name)
    }
    ipu = {name: list(value) if isinstance(value, tuple) else value for name, value in ipu.items()}
    result: Dict[str, Any] = {"batching": asdict(layout.batching), "precision": precision, "ipu": ipu}
    return {name: values for name, values in result.items() if values}


def to_yaml(layout: Layout) -> str:
    """`to_options` as YAML."""
    lines = []
    for group, values in to_options(layout).items():
        lines.append(f"{group}:")
        lines += [f"  {name}: {_scalar(value)}" for name, value in values.items()]
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(str(part) for part in value)}]" if isinstance(value, list) else str(value)
