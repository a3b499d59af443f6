"""Whether PopTorch would compile a program: every operator of its forward pass, with the line that ran it.

The program runs on the CPU and is watched where PopTorch's dispatcher sits, so that what a model really does
is judged, derivatives taken inside forward included. What is not judged: device memory, and arguments that a
handler checks without a rule in `ipu_chem.backends.poptorch.operators.overloads`.

On data's way: beside it; model, loss, example packs -> `check_program` -> Report.
"""

import inspect
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from torch import nn

from ipu_chem.backends.poptorch.operators.watch import Record, Remark, Watched, watch
from ipu_chem.backends.poptorch.profile import tensors_of


class Finding(NamedTuple):
    """Something that an IPU would not take.

    Attributes:
        kind: no handler, overload, data-dependent shape, dynamic shape, host read, host tensor, float64,
            bfloat16, narrow integers, empty tensor or error.
        operator: e.g. aten::index_add.
        where: file:line outside torch that ran it; for derivatives, of the call that took them.
        text: what is wrong and what to write instead.
        count: how often that line ran it.
    """

    kind: str
    operator: str
    where: str
    text: str
    count: int = 1


class Report(NamedTuple):
    """What a check found.

    Attributes:
        findings: in the order of execution; empty if PopTorch would take the program.
        operators: how often each ran, by name.
    """

    findings: Tuple[Finding, ...]
    operators: Dict[str, int]

    def text(self) -> str:
        """The findings in lines for printing."""
        if not self.findings:
            return f"{sum(self.operators.values())} calls of {len(self.operators)} operators: PopTorch lowers them all"
        lines = []
        for finding in self.findings:
            times = f" ({finding.count} times)" if finding.count > 1 else ""
            lines.append(f"{finding.where}: {finding.kind}: {finding.operator}{times}: {finding.text}")
        return "\n".join(lines)

    def raise_if_refused(self) -> None:
        """Stop at findings.

        Raises:
            ValueError: names the first and the number of the others.
        """
        if self.findings:
            first, others = self.findings[0], len(self.findings) - 1
            more = f" ({others} more finding{'s' if others > 1 else ''})" if others else ""
            raise ValueError(f"{first.where}: IPUs cannot run {first.operator}: {first.text}{more}.")


def check_program(module: nn.Module, *examples: Any) -> Report:
    """Run a module's forward on examples and judge every operator, as PopTorch would before compiling.

    Args:
        module: e.g. `Program(model, loss)`; runs in the mode, training or evaluation, that it is in.
        *examples: one or more arguments of forward, of equal shapes and different contents: with two or more,
            shapes that follow contents are found. A plain tuple or list is taken apart into several arguments.

    Raises:
        ValueError: no example, or examples of different shapes or dtypes.
    """
    if not examples:
        raise ValueError("check_program needs an example to run the module on, better two with different contents.")
    calls = [tuple(example) if type(example) in (tuple, list) else (example,) for example in examples]
    signatures = [[(tensor.dtype, tensor.shape) for tensor in tensors_of(call)] for call in calls]
    if any(signature != signatures[0] for signature in signatures):
        raise ValueError("check_program compares runs of one compiled shape; give examples of equal shapes and dtypes.")
    own = [*module.parameters(), *module.buffers()]
    runs = [watch(module, call, own, _definition(module)) for call in calls]
    findings = merge([_findings(run.remarks) for run in runs])
    for run in runs[1:]:
        moved = _difference(runs[0], run, findings)
        if moved is not None:
            findings.append(moved)
            break
    counts = Counter(record.operator for record in runs[0].records)
    return Report(tuple(findings), {name: counts[name] for name in sorted(counts)})


def merge(runs: List[List[Finding]]) -> List[Finding]:
    """Findings of several runs of one program: each once, with its largest count."""
    merged: Dict[Tuple[str, str, str], Finding] = {}
    for finding in (finding for run in runs for finding in run):
        key = finding[:3]
        if key not in merged or merged[key].count < finding.count:
            merged[key] = finding
    return list(merged.values())


def _findings(remarks: List[Remark]) -> List[Finding]:
    """Remarks with equal ones counted."""
    first: Dict[Tuple[str, str, str], Remark] = {}
    counts: Counter = Counter()
    for remark in remarks:
        first.setdefault(remark[:3], remark)
        counts[remark[:3]] += 1
    return [Finding(*remark, count=counts[key]) for key, remark in first.items()]


def _difference(one: Watched, other: Watched, findings: List[Finding]) -> Optional[Finding]:
    """The first operator at which two runs part, unless it is among the findings already."""
    records: List[Tuple[Optional[Record], Optional[Record]]] = list(zip(one.records, other.records))
    if len(one.records) != len(other.records):
        shorter = min(len(one.records), len(other.records))
        records.append((dict(enumerate(one.records)).get(shorter), dict(enumerate(other.records)).get(shorter)))
    for first, second in records:
        if first == second:
            continue
        at = first or second
        assert at is not None
        known = {finding.where for finding in findings if finding.kind in ("data-dependent shape", "error")}
        if at.where in known:
            return None
        text = f"with one example {_told(first)}, with another {_told(second)}; shapes and operators must not "
        return Finding("dynamic shape", f"aten::{at.operator}", at.where, text + "depend on values")
    return None


def _told(record: Optional[Record]) -> str:
    return "the program has ended" if record is None else f"{record.operator} at {record.where} gives {record.shapes}"


def _definition(module: nn.Module) -> str:
    """file:line of a module's class, for operators that none of its lines ran."""
    try:
        return f"{inspect.getsourcefile(type(module))}:{inspect.getsourcelines(type(module))[1]}"
    except (OSError, TypeError):
        return type(module).__name__
