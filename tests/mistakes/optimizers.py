"""Mistakes in what an optimizer is told: scaling, clipping, rates and decay of groups."""

from mistakes.mechanism import mutation
from mistakes.seam import BACKEND, PIPELINES, at_poptorch

MUP = "tests/models/test_mup.py"


def _optimizers(poptorch):
    return (poptorch.optim.SGD, poptorch.optim.Adam, poptorch.optim.AdamW)


@at_poptorch("loss scaling is forgotten", tests=f"{PIPELINES}::test_loss_scaling_saves_small_gradients")
def _(poptorch, wrong):
    for kind in _optimizers(poptorch):

        @wrong(kind, "__init__")
        def unscaled(original, *args, **named):
            original(*args, **{**named, "loss_scaling": 1.0})


@at_poptorch("gradients are not clipped", tests=f"{BACKEND}::test_every_optimizer_does_the_same")
def _(poptorch, wrong):
    for kind in _optimizers(poptorch):

        @wrong(kind, "__init__")
        def unclipped(original, *args, **named):
            original(*args, **{**named, "max_grad_norm": None})


@mutation(
    "all groups of parameters learn equally fast",
    "ipu_chem.optim",
    tests=f"{MUP}::test_both_backends_give_every_group_its_rate[float32]",
)
def _(optim, wrong):
    @wrong(optim.ParameterGroups, "set_learning_rate")
    def one_for_all(original, groups, optimizer, learning_rate):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate


@mutation(
    "decay grows with the learning rate of a group",
    "ipu_chem.optim",
    tests=f"{MUP}::test_both_backends_give_every_group_its_rate[float32]",
)
def _(optim, wrong):
    @wrong(optim.ParameterGroups, "__init__")
    def one_for_all(original, groups, config, *rest):
        original(groups, config, *rest)
        for group in groups.groups:
            group.pop("weight_decay", None)
