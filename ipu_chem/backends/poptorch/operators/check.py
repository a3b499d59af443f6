"""Verdict on a program before PopTorch compiles it: every operator of its forward pass, with the line that ran it.

The program runs on the CPU, or without values on torch's meta device, and is recorded where PopTorch's dispatcher
sits, so that what a model really does is judged, derivatives taken inside forward included. What is not judged:
device memory, and arguments that a handler checks without a rule in `ipu_chem.backends.poptorch.operators.overloads`.
"""

from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

from ipu_chem.backends.poptorch.meta import tensors_of
from ipu_chem.backends.poptorch.operators.lines import definition
from ipu_chem.backends.poptorch.operators.log import Record, Remark
from ipu_chem.backends.poptorch.operators.recording import Recording, record_run
from ipu_chem.models.wrapper import wrapped_name


class Finding(NamedTuple):
    """Something that an IPU would not take.

    Attributes:
        kind: no handler, overload, data-dependent shape, dynamic shape, host read, host tensor, float64,
            bfloat16, narrow integers, empty tensor, lost derivative, lost write, merged gathers or error.
        operator: e.g. aten::index_add; for weights, what and which.
        where: file:line outside torch that ran it; for derivatives, of the call that took them, or of the code
            that they are derivatives of where those are known; for weights, of their module's class.
        text: what is wrong and what to write instead.
        count: how often that line ran it.
    """

    kind: str
    operator: str
    where: str
    text: str
    count: int = 1


class Report(NamedTuple):
    """Result of a check.

    Attributes:
        findings: in the order of execution; empty if PopTorch would take the program.
        operators: how often each ran, by name.
        shapeless_gathers: how many gathers, those of derivatives included, have an index whose shape PopTorch's
            graph does not know (see `ipu_chem.backends.poptorch.operators.gathers`); one is no harm.
    """

    findings: Tuple[Finding, ...]
    operators: Dict[str, int]
    shapeless_gathers: int = 0

    def text(self) -> str:
        """The findings, or that there are none, and the number of gathers without a shape, in lines for printing."""
        if not self.findings:
            calls, names = sum(self.operators.values()), len(self.operators)
            gathers = f"{self.shapeless_gathers or 'no'} gather{'' if self.shapeless_gathers == 1 else 's'}"
            return f"{calls} calls of {names} operators, {gathers} without a shape: PopTorch lowers them all"
        lines = []
        for finding in self.findings:
            times = f" ({finding.count} times)" if finding.count > 1 else ""
            lines.append(f"{finding.where}: {finding.kind}: {finding.operator}{times}: {finding.text}")
        if self.shapeless_gathers:
            lines.append(f"gathers without a shape: {self.shapeless_gathers}")
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

    @property
    def needs_values(self) -> bool:
        """True for a program that cannot run without values, or not at all, so that nothing can be measured on it."""
        return any(found.kind in ("host read", "data-dependent shape", "error") for found in self.findings)


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
    runs = [record_run(module, call, own, definition(type(module)), module.training) for call in calls]
    weights = _weights(module)
    # What operators make of such weights says nothing new, and mixed formats end in exceptions.
    known = {kind for finding in weights for kind in (finding.kind, "error")}
    findings = weights + [found for found in merge([_findings(r.remarks) for r in runs]) if found.kind not in known]
    for run in runs[1:]:
        moved = _difference(runs[0], run, findings)
        if moved is not None:
            findings.append(moved)
            break
    counts = Counter(record.operator for record in runs[0].records)
    gathers = max(run.shapeless_gathers for run in runs)
    return Report(tuple(findings), {name: counts[name] for name in sorted(counts)}, gathers)


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


def _difference(one: Recording, other: Recording, findings: List[Finding]) -> Optional[Finding]:
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
        text = f"with one example {_in_words(first)}, with another {_in_words(second)}; shapes and operators must not "
        return Finding("dynamic shape", f"aten::{at.operator}", at.where, text + "depend on values")
    return None


def _in_words(record: Optional[Record]) -> str:
    return "the program has ended" if record is None else f"{record.operator} at {record.where} gives {record.shapes}"


def _weights(module: nn.Module) -> List[Finding]:
    """Parameters and buffers in formats that IPUs do not have: the first of each, and how many there are."""
    found: Dict[torch.dtype, Finding] = {}
    named = [("parameter", *item) for item in module.named_parameters()]
    named += [("buffer", *item) for item in module.named_buffers()]
    for sort, path, tensor in named:
        if tensor.dtype not in (torch.float64, torch.bfloat16):
            continue
        if tensor.dtype in found:
            found[tensor.dtype] = found[tensor.dtype]._replace(count=found[tensor.dtype].count + 1)
            continue
        name = str(tensor.dtype).replace("torch.", "")
        place = path.rpartition(".")[0]
        while type(module.get_submodule(place)).__module__.startswith("torch."):  # a line of torch helps nobody
            if not place:
                break
            place = place.rpartition(".")[0]
        owner = module.get_submodule(place)
        text = f"it is {name}, and IPUs have float32 and float16; call .float() on the model"
        found[tensor.dtype] = Finding(name, f"{sort} {wrapped_name(path)}", definition(type(owner)), text)
    return list(found.values())
