"""Kernels of every part of a model that has some."""

from contextlib import suppress

from torch import nn

from ipu_chem.backends.pytorch.kernels import forces, spooky
from ipu_chem.backends.pytorch.kernels.convolution import use_kernels
from ipu_chem.backends.pytorch.kernels.decoding.reading import use_reading_kernels
from ipu_chem.backends.pytorch.kernels.features import use_feature_kernels
from ipu_chem.backends.pytorch.kernels.fused import use_fused_attention
from ipu_chem.backends.pytorch.kernels.native import NativeError
from ipu_chem.backends.pytorch.kernels.transformer import use_transformer_kernels


def use_native_kernels(
    model: nn.Module, differentiates: bool, whole: bool, frozen: bool = False, trained: bool = True
) -> int:
    """Let a model run in native kernels, as far as there are some; plain torch does the rest.

    Args:
        model: with float32 weights on the CPU; float64 goes, too, where it differentiates.
        differentiates: the model takes derivatives inside, as of forces, which most kernels do not have twice.
        whole: kernels may keep the weights of networks: they stay the same tensors, and torch.compile stays out.
        frozen: weights never change, see `forces.use_force_kernels`.
        trained: weights get gradients; else molecules of text may be read as a whole.

    Returns:
        How many parts have kernels that give forces.
    """
    native = 0
    if not differentiates:
        try:
            use_kernels(model)
            use_transformer_kernels(model)
            if whole:
                use_feature_kernels(model)
            if whole and not trained:
                use_reading_kernels(model)
        except NativeError:  # `ipu-chem doctor` says what is missing
            use_fused_attention(model)
    if whole:
        with suppress(NativeError):
            native += forces.use_force_kernels(model, frozen) if differentiates else 0
            native += spooky.use_spooky_kernels(model)
    return native


def add_gradients_in_place(model: nn.Module) -> None:
    """Let kernels that give forces add gradients of weights to what ``grad`` of each holds, without autograd."""
    forces.add_gradients_in_place(model)
    spooky.add_gradients_in_place(model)
