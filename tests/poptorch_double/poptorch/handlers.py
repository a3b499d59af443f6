"""Which operators end in PopTorch handlers, by the names that torch's dispatcher gives them.

PopTorch runs on torch 2.0.1 and on a device that has no kernels of torch's own; newer versions of torch and
CPUs have other names for the same. In-place operators lose their underscore (PopTorch runs them out of place).
"""

from typing import Dict, Tuple

import torch

from .supported_aten import SUPPORTED

# What torch 2.0.1 does on an IPU, where these have no kernel of their own. Derivatives of slices are copied into
# slices of zeros.
TAKEN_APART: Dict[str, Tuple[str, ...]] = {
    "_to_copy": ("empty_strided", "copy_"),
    "empty_like": ("empty",),
    "new_empty": ("empty",),
    "zero_": ("zeros_like",),
    "fill_": ("full_like",),
    "scalar_tensor": ("empty", "full_like"),
    "lift_fresh": ("copy_",),
    "slice_backward": ("zeros", "slice", "copy_"),
    "select_backward": ("zeros", "select", "copy_"),
    "rand_like": ("empty", "uniform_"),
    "randn_like": ("empty", "normal_"),
    "isinf": ("abs", "eq"),
    "unsafe_split": ("split",),
}
# Newer names of what 2.0.1 runs under another.
OLD_NAMES: Dict[str, str] = {
    "_native_batch_norm_legit": "native_batch_norm",
    "_native_batch_norm_legit_no_training": "native_batch_norm",
    "_safe_softmax": "_softmax",
    "_unsafe_index": "index",
    "_unsafe_index_put": "index_put",
    "_reshape_copy": "reshape",
    "_embedding_bag_forward_only": "_embedding_bag",
}
# 8- and 16-bit integers have no arithmetic on an IPU (Poplar's vertices begin at 32 bits, half and bool): they
# may be moved about and cast. Comparing int16 for equality would do; the double does not go that far.
NARROW = (torch.uint8, torch.int8, torch.int16)
MOVES = frozenset(
    "_to_copy copy_ clone detach view _unsafe_view reshape _reshape_alias unsqueeze squeeze select slice expand "
    "permute transpose t cat stack split split_with_sizes unbind zeros_like empty_like lift_fresh".split()
)
READS_VALUES = ("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose")
# Loss functions of torch that reach a CPU's dispatcher whole: PopTorch's handlers mark their results as losses
# (popart_canonicalization/LossOps.cpp and AtenHandlers.gen.cpp).
LOSSES = frozenset(
    "mse_loss smooth_l1_loss soft_margin_loss nll_loss_forward nll_loss2d_forward binary_cross_entropy "
    "binary_cross_entropy_with_logits".split()
)


def old_name(name: str) -> str:
    return OLD_NAMES.get(name, name)


def handled(name: str) -> bool:
    """Whether an operator, as torch's dispatcher names it, ends in PopTorch handlers."""
    name = old_name(name)
    if name in SUPPORTED:
        return True
    if name in TAKEN_APART:
        return all(part in SUPPORTED for part in TAKEN_APART[name])
    return name.endswith("_") and not name.endswith("__") and old_name(name[:-1]) in SUPPORTED
