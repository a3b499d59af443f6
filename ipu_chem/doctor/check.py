"""The check of a configuration: would PopTorch compile the programs that its run trains and evaluates with."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ipu_chem.backends.base import Program
from ipu_chem.backends.options import Precision
from ipu_chem.backends.poptorch.meta import to_meta
from ipu_chem.backends.poptorch.operators.check import Report, check_program, merge
from ipu_chem.batches.types import first_target
from ipu_chem.config import RunConfig
from ipu_chem.tasks.base import Task
from ipu_chem.tasks.registry import task_of


def check_config(config: RunConfig) -> Report:
    """Check the model and the loss of a run, in training and in evaluation, on two random examples.

    Args:
        config: of the run; sizes that only the data know are assumed, see `Task.planned`.

    Raises:
        ValueError: the config itself is wrong.
    """
    return check_task(task_of(config).planned(config), config.precision)


def check_task(task: Task, precision: Precision) -> Report:
    """`check_config` of a planned task."""
    loss, batching = task.loss(), task.batching
    device = "cpu" if task.values_decide else "meta"  # the values of a large language model would not fit here
    with torch.device(device):
        model = task.model()
    half: Any = nullcontext()
    if precision.weights == "float16":
        from ipu_chem.backends.half import HalfOnCpu, weights_to_half

        weights_to_half(model)
        half = HalfOnCpu()
    # More packs repeat the same operators; two tell an axis of packs from an axis of length 1.
    packs = min(batching.micro_batch_size, 2)
    examples = [task.random_packs(packs, seed) for seed in (0, 1)]
    if device == "meta":
        examples = [to_meta(example) for example in examples]
    reports = []
    with half:
        for training in (True, False):
            model.train(training)
            # Evaluation has no loss: a sum stands in for it.
            program = Program(model, loss if training else _sum, first_target(examples[0]))
            reports.append(check_program(program, *examples))
    findings = merge([list(report.findings) for report in reports])
    gathers = max(report.shapeless_gathers for report in reports)
    return Report(tuple(findings), reports[0].operators, gathers)


def _sum(prediction: Any, *_: Tensor) -> Tensor:
    """Of everything that a model gives out."""
    if isinstance(prediction, tuple):
        return prediction[0].sum() + prediction[1].sum()
    return prediction.sum()
