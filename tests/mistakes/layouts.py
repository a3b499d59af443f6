"""Mistakes in how work is laid out: replicas, iterations, accumulation, pipelines, processes."""

from mistakes.mechanism import mutation
from mistakes.seam import BACKEND, PIPELINES, at_poptorch

OPTIONS = f"{BACKEND}::test_program_options_are_what_was_asked_for"
LAYOUTS = f"{PIPELINES}::test_every_layout_trains_and_evaluates_alike"
STAGES = "tests/backends/poptorch/test_stages.py"


@at_poptorch("gradients are averaged, not added", tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]")
def _(poptorch, wrong):
    @wrong(type(poptorch.Options().Training), "accumulationAndReplicationReductionType")
    def mean(original, training, reduction):
        return original(training, poptorch.ReductionType.Mean)


@at_poptorch("gradients are not accumulated", tests=OPTIONS)
def _(poptorch, wrong):
    @wrong(type(poptorch.Options().Training), "gradientAccumulation")
    def ignored(original, training, micro_batches):
        return training


@at_poptorch("no replicas", tests=OPTIONS)
def _(poptorch, wrong):
    @wrong(poptorch.Options, "replicationFactor")
    def ignored(original, options, replicas):
        return options


@at_poptorch("no device iterations", tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]")
def _(poptorch, wrong):
    @wrong(poptorch.Options, "deviceIterations")
    def ignored(original, options, iterations):
        return options


@at_poptorch("only the last micro-batch's loss comes back", tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]")
def _(poptorch, wrong):
    @wrong(poptorch.Options, "outputMode")
    def the_last(original, options, mode):
        return original(options, poptorch.OutputMode.Final)


@at_poptorch("stages in the wrong order", tests=f"{LAYOUTS}[ipus_per_replica=2]", refused="a stage is on one IPU")
def _(poptorch, wrong):
    @wrong(poptorch.PipelinedExecution, "__init__")
    def reversed_order(original, execution, *stages):
        original(execution, *reversed(stages))


@at_poptorch(
    "a block's mark is left out",
    tests=f"{LAYOUTS}[ipus_per_replica=2-available_memory_proportion=(0.3, 0.4)]",
    refused="the program has IPUs 0 to 0 only",
)
def _(poptorch, wrong):
    @wrong(poptorch, "BeginBlock")
    def only_on_the_first(original, layer, user_id, ipu_id):
        return original(layer, user_id=user_id, ipu_id=ipu_id) if ipu_id == 0 else layer


@mutation(
    "too few micro-batches fill a pipeline",
    "ipu_chem.backends.poptorch.stages",
    tests=f"{STAGES}::test_accumulation_fills_the_pipeline",
)
def _(stages, wrong):
    @wrong(stages, "needed_accumulation")
    def one_less(original, *args):
        return max(original(*args) - 1, 1)


@mutation(
    "a tied head is left alone on the last IPU",
    "ipu_chem.backends.poptorch.stages",
    tests=f"{STAGES}::test_tied_head_comes_back_as_a_stage_of_its_own",
)
def _(stages, wrong):
    @wrong(stages, "plan_stages")
    def not_brought_home(original, blocks, costs, ipus, *rest, **named):
        planned = original(blocks, costs, ipus, *rest, **named)
        if planned[-1].ipu == ipus - 1:
            return planned
        *others, last, head = planned
        return [*others, last._replace(blocks=last.blocks + head.blocks)]


@mutation(
    "every process takes all replicas",
    "ipu_chem.backends.options",
    tests="tests/training/test_ipu_processes.py",
    calls_from="ipu_chem.backends.poptorch.backend",
)
def _(options, wrong):
    @wrong(options.Batching, "for_one_of")
    def all_of_them(original, batching, world):
        return batching
