"""Mistakes in when the backend tells PopTorch something: modes, learning rates, weights, who has the IPUs."""

from mistakes.mechanism import mutation
from mistakes.seam import BACKEND, PIPELINES, at_poptorch


@at_poptorch(
    "a new learning rate is never told to the device", tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]"
)
def _(poptorch, wrong):
    @wrong(poptorch.PoplarExecutor, "setOptimizer")
    def ignored(original, executor, optimizer):
        pass


@at_poptorch(
    "an option is changed after a program has it",
    tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]",
    refused="frozen",
)
def _(poptorch, wrong):
    @wrong(poptorch, "trainingModel")
    def then_changed(original, model, options, optimizer):
        executor = original(model, options, optimizer)
        options.deviceIterations(options.device_iterations)
        return executor


@at_poptorch("the loss is not marked", tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]", refused="loss")
def _(poptorch, wrong):
    @wrong(poptorch, "identity_loss")
    def summed(original, loss, reduction):
        return loss.sum()


@at_poptorch("a checkpoint holds stale weights", tests=f"{BACKEND}::test_resumes_where_it_was_saved[adamw-False]")
def _(poptorch, wrong):
    @wrong(poptorch.PoplarExecutor, "copyWeightsToHostIfNeeded")
    def ignored(original, executor):
        return False


@at_poptorch(
    "loaded weights stay on the host",
    tests=f"{BACKEND}::test_resumes_where_it_was_saved[adamw-False]",
)
def _(poptorch, wrong):
    @wrong(poptorch.PoplarExecutor, "copyWeightsToDevice")
    def ignored(original, executor):
        pass


@at_poptorch(
    "a resumed optimizer starts from nothing", tests=f"{BACKEND}::test_resumes_where_it_was_saved[adamw-False]"
)
def _(poptorch, wrong):
    @wrong(poptorch.optim.Optimizer, "load_state_dict")
    def ignored(original, optimizer, state):
        pass


@at_poptorch(
    "both programs want the IPUs", tests=f"{BACKEND}::test_training_goes_on_after_evaluation", refused="in use"
)
def _(poptorch, wrong):
    @wrong(poptorch.PoplarExecutor, "detachFromDevice")
    def ignored(original, executor):
        pass


@at_poptorch("losses of different steps are mixed", tests=f"{BACKEND}::test_trains_like_the_torch_backend[mse]")
def _(poptorch, wrong):
    @wrong(poptorch.PoplarExecutor, "__call__")
    def dealt_out(original, executor, *args):
        result = original(executor, *args)
        if len(args) > 1:  # an evaluation: a batch of inputs, not one tuple
            return result
        return result.reshape(-1, executor.options.device_iterations).t().reshape(result.shape)


@at_poptorch("evaluation in training mode", tests=f"{BACKEND}::test_evaluates_in_eval_mode_and_trains_in_train_mode")
def _(poptorch, wrong):
    @wrong(poptorch, "inferenceModel")
    def in_training(original, model, options):
        return original(model.train(), options)


@mutation(
    "outputs are not marked for overlapped transfers",
    "ipu_chem.backends.poptorch.program_options",
    tests=f"{PIPELINES}::test_io_tiles_carry_every_input_and_output",
)
def _(poptorch_options, wrong):
    # At the seam it would not be noticed: only IPUs compute otherwise. The test looks at the seam itself.
    @wrong(poptorch_options, "host_overlap")
    def of_inputs(original, poptorch):
        return original(poptorch)[0], lambda tensors: tensors
