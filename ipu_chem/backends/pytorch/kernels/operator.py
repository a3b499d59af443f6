"""A Python function as an operator with a gradient of its own, which torch.compile keeps whole where torch can."""

from typing import Any, Callable, Optional

import torch

COMPILES_WHOLE = hasattr(torch.library, "custom_op")  # torch 2.4: torch.compile takes such operators as they are


def operator(
    name: str,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    save: Optional[Callable[..., None]] = None,
    gradient: Optional[Callable[..., Any]] = None,
) -> Callable[..., Any]:
    """Make an operator.

    Args:
        name: of the operator.
        function: of tensors and plain values, annotated; it changes none of them.
        fake: the same for shapes alone.
        save: (ctx, inputs, output), keeps what ``gradient`` needs.
        gradient: (ctx, gradient of the output) -> gradients of the inputs; None makes an operator that has none.

    Returns:
        A function with the arguments of ``function``.
    """
    if COMPILES_WHOLE:
        made = torch.library.custom_op(f"ipu_chem::{name}", function, mutates_args=())
        made.register_fake(fake)
        if gradient is not None:
            made.register_autograd(gradient, setup_context=save)
        return made
    if gradient is None:
        return function

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = function(*inputs)
        save(ctx, inputs, output)
        return output

    backward = torch.autograd.function.once_differentiable(gradient)
    made = type(
        name, (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    )
    return made.apply
