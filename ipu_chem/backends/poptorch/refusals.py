"""Why a program is not compiled for IPUs, in one sentence with the line of the model.

PopTorch gets some operators wrong without a word, and what it raises for others is of many kinds and often names no
line. So every program is checked before it is compiled, and whatever PopTorch raises then is translated.
"""

import os
import sysconfig
import traceback
from contextlib import contextmanager, nullcontext
from typing import Any, Iterator, Optional, Sequence

import torch
from torch import nn

from ipu_chem.backends.half import HalfOnCpu
from ipu_chem.backends.poptorch.meta import meta_copy, to_meta
from ipu_chem.backends.poptorch.operators.check import Report, check_program

_LONGEST = 200  # letters of an exception's message that are repeated; the exception itself is chained
_BACKENDS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_PACKAGES = ("site-packages", "dist-packages")


def check_operators(module: nn.Module, example: Any, training: bool) -> None:
    """Check every operator of a program, before it is compiled.

    Shapes say almost everything, so the program runs without values first: a large model costs a second. It runs on
    the CPU where it asks for values.

    Args:
        module: not yet marked or wrapped by PopTorch; it is left as it is.
        example: one micro-batch, a NamedTuple for one argument or a plain tuple of them.
        training: the mode in which the module runs.

    Raises:
        ValueError: PopTorch would refuse an operator or get it wrong; names the line and what to write instead.
    """
    call = tuple(example) if type(example) is tuple else (example,)
    report = _without_values(module, call, training)
    if report is None:
        with _left_as_it_is(module):
            report = _report(module, call, training)
    # PopTorch's own operators a model may use, if it knows the device.
    report = report._replace(findings=tuple(one for one in report.findings if "poptorch::" not in one.operator))
    report.raise_if_refused()


def _without_values(module: nn.Module, call: Any, training: bool) -> Optional[Report]:
    """The report of a copy that has shapes alone; None where it stops for want of values."""
    try:
        twin = meta_copy(module)
    except Exception:  # a copy of a user's module may fail in any way, and then the module itself must do
        return None
    report = _report(twin, to_meta(call), training)
    return None if any(finding.kind == "error" for finding in report.findings) else report


def _report(module: nn.Module, call: Any, training: bool) -> Report:
    is_half = any(weight.dtype == torch.float16 for weight in module.parameters())
    mode: Any = HalfOnCpu() if is_half else nullcontext()
    module.train(training)
    with torch.random.fork_rng(devices=[]), mode:
        return check_program(module, call)


@contextmanager
def _left_as_it_is(module: nn.Module) -> Iterator[None]:
    """Afterwards the modes and the buffers of a module are as before."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def compile_error(kind: str, error: BaseException, poptorch: Any) -> str:
    """Sentence about whatever PopTorch raised while it compiled.

    Args:
        kind: of program: training or evaluation.
        error: just caught.
        poptorch: the module.
    """
    # It tidies up with what an early error has left undefined; that error is the one to tell.
    while isinstance(error, UnboundLocalError) and error.__context__ is not None:
        error = error.__context__
    text = " ".join(str(error).split())
    if "device_ready_queues_" in text:
        return (
            f"PopTorch cannot compile the {kind} program: it was imported after the first backward() of this process, "
            "when torch knew no IPU; start a new Python and `import poptorch` before any backward(), or run on the "
            "IPU first."
        )
    text = text.rstrip(".") if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " .."
    if not isinstance(error, poptorch.Error):
        text = f"{type(error).__name__}: {text}"
    where = _line_of(error, [_TORCH, _BACKENDS, os.path.dirname(os.path.abspath(poptorch.__file__)) + os.sep])
    return f"PopTorch cannot compile the {kind} program: {where + ': ' if where else ''}{text}."


def _line_of(error: BaseException, inside: Sequence[str]) -> Optional[str]:
    """file:line of the innermost frame since the error was caught that is in no folder of these."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        standard = file.startswith(_STANDARD) and not any(folder in file for folder in _PACKAGES)
        if os.path.exists(file) and not standard and not any(os.path.abspath(file).startswith(one) for one in inside):
            relative = os.path.relpath(file)
            place = f"{file if relative.startswith('..') else relative}:{line}"
    return place
