"""Mistakes in the programs that PopTorch compiles, and in what is looked at before: true on IPUs, not on CPUs."""

import contextlib
import sys

from mistakes.mechanism import mutation
from mistakes.seam import at_poptorch

PROGRAMS = "tests/backends/poptorch/test_programs.py"
FACTS = "tests/backends/poptorch/test_facts.py"
REFUSALS = "tests/backends/poptorch/test_refusals.py"
GATHERS = "tests/backends/poptorch/operators/test_gathers.py"


@at_poptorch(
    "programs name their tensors as checkpoints do",
    tests=f"{PROGRAMS}::test_tied_chemgpt_trains_and_evaluates_as_on_the_cpu[learned-1]",
    refused="PopTorch cannot compile the training program: AttributeError",
)
def _(poptorch, wrong):
    def as_the_model(original, program, *rest):
        own = program.state_dict
        program.state_dict = lambda *args, **named: {
            name.split(".", 1)[-1]: tensor for name, tensor in own(*args, **named).items()
        }
        return original(program, *rest)

    wrong(poptorch, "trainingModel")(as_the_model)
    wrong(poptorch, "inferenceModel")(as_the_model)


@mutation(
    "single columns are gathered as they are",
    "ipu_chem.models.layers",
    tests=f"{FACTS}::test_graph_models[spookynet-0.9]",
    refused="PopTorch knows no shapes of this gather and merges it",
)
def _(layers, wrong):
    @wrong(layers, "take_rows")
    def taken(original, values, index):
        return values.gather(0, layers.as_index(index).unsqueeze(1).expand(-1, values.shape[1]))

    @wrong(layers, "sum_into")
    def summed(original, values, index, slots):
        zeros = values.new_zeros((slots, values.shape[1]))
        return zeros.scatter_add(0, layers.as_index(index).unsqueeze(1).expand(-1, values.shape[1]), values)


@mutation(
    "indices inside programs have 64 bits",
    "ipu_chem.models.layers",
    tests=f"{FACTS}::test_a_program_is_quiet",
)
def _(layers, wrong):
    @wrong(layers, "indices_in")
    def as_wide_as_ever(original, dtype):
        return contextlib.nullcontext()


@mutation(
    "nobody looks at the operators before compiling",
    "ipu_chem.backends.poptorch.operators.check",
    tests="tests/backends/poptorch/test_silence.py::test_derivatives_of_slices",
    calls_from="ipu_chem.backends",
)
def _(op_support, wrong):
    @wrong(op_support, "check_program")
    def nothing_found(original, *args, **named):
        return original(*args, **named)._replace(findings=())


@mutation(
    "only PopTorch's own errors are explained",
    "ipu_chem.backends.poptorch.refusals",
    tests=f"{REFUSALS}::test_whatever_poptorch_raises_is_one_sentence[TypeError]",
    refused="TypeError: no\nsuch thing",
)
def _(refusals, wrong):
    @wrong(refusals, "compile_error")
    def or_raised(original, kind, error, poptorch):
        if not isinstance(error, poptorch.Error):
            raise error
        return original(kind, error, poptorch)


@mutation(
    "PopTorch is imported after the first derivative",
    "ipu_chem.backends.poptorch.backend",
    tests=f"{REFUSALS}::test_a_cpu_backend_loads_poptorch_first_where_it_is_installed",
)
def _(backend, wrong):
    @wrong(backend, "import_before_backward")
    def ignored(original):
        pass


@mutation(
    "gathers in derivatives are not looked at",
    "ipu_chem.backends.poptorch.operators.gathers",
    tests=f"{GATHERS}::test_gathers_without_a_shape_are_counted[derivative of a sum of one column-check]",
)
def _(op_gathers, wrong):
    @wrong(op_gathers.Gathers, "note")
    def outside_autograd(original, gathers, *args):
        frame = sys._getframe(1)
        while frame is not None and "autograd" not in frame.f_globals.get("__name__", ""):
            frame = frame.f_back
        if frame is None:
            original(gathers, *args)
