"""Operators that PopTorch 3.4 lowers, by their names in ATen, and what to write instead of the others.

PopTorch runs on torch 2.0.1; `SAME_AS` and `TAKEN_APART` translate what newer versions of torch and CPUs
call by other names. `overloads`, beside this file, knows the handlers that refuse some of their arguments.
"""

from typing import Dict, FrozenSet, Optional, Tuple

# In-place operators stand without their underscore (PopTorch runs them out of place), except those that exist
# in place only.
HANDLED: FrozenSet[str] = frozenset(
    """
Int __and__ __or__ __xor__ _cdist_forward _convolution _embedding_bag _log_softmax _prelu_kernel _reshape_alias
_softmax _unsafe_view _weight_norm _weight_norm_interface abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d add addcdiv addcmul addmm addmv all amax amin any arange argmax argmin argsort as_strided asin
asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bilinear binary_cross_entropy
binary_cross_entropy_with_logits bincount bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_to bucketize
cartesian_prod cat cdist ceil celu chunk clamp clamp_max clamp_min clone col2im constant_pad_nd contiguous conv2d
convolution convolution_overrideable copy_ cos cosh cosine_embedding_loss cosine_similarity count_nonzero cross
cross_entropy_loss ctc_loss cumprod cumsum detach div dot dropout einsum elu embedding embedding_bag empty
empty_strided eq erf erfc exp expand expand_as expm1 exponential_ feature_dropout flatten flip floor floor_divide
fmod frac frobenius_norm full full_like gather ge gelu glu group_norm gru gt hardshrink hardsigmoid hardswish
hardtanh hinge_embedding_loss im2col index index_fill index_put index_reduce index_select instance_norm is_complex
isnan kl_div l1_loss layer_norm le leaky_relu linalg_cross linalg_vector_norm linear log log10 log1p log2
log_sigmoid log_sigmoid_forward log_softmax logical_and logical_not logical_or logsumexp lstm lt
margin_ranking_loss masked_fill matmul max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
max_pool3d max_pool3d_with_indices maximum mean median meshgrid min minimum mish mkldnn_convolution mm mse_loss mul
multilabel_soft_margin_loss mv nansum narrow native_batch_norm native_group_norm native_layer_norm ne neg new_full
new_ones new_zeros nll_loss2d nll_loss2d_forward nll_loss_forward nll_loss_nd norm normal normal_ numpy_T one_hot
ones ones_like pairwise_distance permute pixel_shuffle poisson_nll_loss pow prelu prod rand randint randn random_
randperm reciprocal reflection_pad1d reflection_pad2d relu remainder repeat replication_pad1d replication_pad2d
replication_pad3d reshape rnn_relu rnn_tanh roll round rrelu rrelu_with_noise rsqrt rsub scatter scatter_add
scatter_reduce select selu sigmoid sign silu sin sinh size slice smooth_l1_loss soft_margin_loss softmax softplus
softshrink sort split split_with_sizes sqrt square squeeze stack std std_mean sub sum t take_along_dim tan tanh
tensordot threshold to topk transpose triplet_margin_loss triu true_divide trunc type_as unbind unfold uniform_
unsafe_chunk unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean view where zeros zeros_like
""".split()
)

# Without a kernel of their own on IPUs: torch 2.0.1 writes them in these.
TAKEN_APART: Dict[str, Tuple[str, ...]] = {
    "_to_copy": ("empty_strided", "copy_"),
    "empty_like": ("empty",),
    "new_empty": ("empty",),
    "zero": ("zeros_like",),
    "fill": ("full_like",),
    "scalar_tensor": ("empty", "full_like"),
    "lift_fresh": ("copy_",),
    "rand_like": ("empty", "uniform_"),
    "randn_like": ("empty", "normal_"),
    "isinf": ("abs", "eq"),
    "unsafe_split": ("split",),
}
# Newer names of what 2.0.1 runs under another.
SAME_AS: Dict[str, str] = {
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention": "scaled_dot_product_attention",
    "_scaled_dot_product_efficient_attention": "scaled_dot_product_attention",
    "_native_batch_norm_legit": "native_batch_norm",
    "_native_batch_norm_legit_no_training": "native_batch_norm",
    "_safe_softmax": "_softmax",
    "_unsafe_index": "index",
    "_unsafe_index_put": "index_put",
    "_reshape_copy": "reshape",
    "_embedding_bag_forward_only": "_embedding_bag",
}
# Functions that PopTorch lowers, or refuses, as a whole before torch takes them apart. What a CPU makes of them
# says nothing about an IPU: one_hot reads values there, repeat_interleave of a number became a view after 2.0.1.
WHOLE: FrozenSet[str] = frozenset(
    "one_hot kl_div bilinear lstm scaled_dot_product_attention repeat_interleave take_along_dim adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d".split()
)

# Evaluated while the program is compiled when all they take is known then; never these.
RANDOM: FrozenSet[str] = frozenset(
    "normal normal_ feature_dropout dropout native_dropout randint bernoulli uniform_ randperm exponential_ random_ "
    "rand randn rand_like randn_like rrelu rrelu_with_noise multinomial poisson".split()
)
# 8- and 16-bit integers have no arithmetic on IPUs (Poplar begins at 32 bits, half and bool): moved and cast only.
MOVES: FrozenSet[str] = frozenset(
    "_to_copy copy_ clone detach view _unsafe_view reshape _reshape_alias unsqueeze squeeze select slice expand "
    "permute transpose t cat stack split split_with_sizes unbind zeros_like empty_like lift_fresh empty "
    "empty_strided zeros ones full arange".split()
)
HOST_READS: FrozenSet[str] = frozenset("_local_scalar_dense item is_nonzero equal allclose".split())
# Functions that make tensors on the host unless they are given a device: PopTorch replaces arange, empty, full,
# linspace, logspace, ones, rand, randint, randn, randperm, range, tensor and zeros by ones that make them on the
# IPU, and none of these.
MADE_ON_HOST: FrozenSet[str] = frozenset(
    "eye scalar_tensor tril_indices triu_indices as_tensor asarray frombuffer from_numpy from_file empty_strided "
    "hann_window hamming_window bartlett_window blackman_window kaiser_window".split()
)
# Derivatives that torch 2.0.1 writes into a part of a tensor of zeros. PopTorch evaluates that part of a constant
# while it compiles, has nowhere left to write to, and gives the zeros out without a word.
LOST_DERIVATIVES: FrozenSet[str] = frozenset(["slice_backward", "select_backward"])
# Functions that torch takes apart before it differentiates, and PopTorch takes whole: no derivative is recorded,
# so that one taken inside forward leaves them out without a word.
NO_DERIVATIVES: FrozenSet[str] = frozenset(
    "take_along_dim dropout feature_dropout bilinear lstm kl_div l1_loss adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d".split()
)

_MASK = "keep the shape and a mask: torch.where(mask, values, 0)"
# Results as long as their arguments' values say.
BY_VALUE: Dict[str, str] = {
    "nonzero": _MASK,
    "masked_select": _MASK,
    "_unique": "count on the host and pass the result as an input",
    "_unique2": "count on the host and pass the result as an input",
    "unique_dim": "count on the host and pass the result as an input",
    "unique_consecutive": "count on the host and pass the result as an input",
    "repeat_interleave": "use expand and reshape, or gather with an index made on the host",
}

_ELEMENTARY = "write the activation in elementary operators (exp, log1p, clamp, division)"
_PARTS = (
    "use split, chunk or unbind, or gather with an expanded index, and unsqueeze instead of x[:, None], which slices "
    "too"
)
_REMEDIES: Dict[str, str] = {
    "slice_backward": _PARTS,
    "select_backward": _PARTS,
    "index_add": "use scatter_add with an expanded index (ipu_chem.models.layers.sum_into), and gather with an "
    "expanded index instead of index_select where a derivative is taken inside forward",
    "index_copy": "use scatter with an expanded index",
    "segment_reduce": "use scatter_add or scatter_reduce with the segment of each row as index",
    "scaled_dot_product_attention": "write matmul, additive bias, softmax and matmul",
    "sgn": "use sign, and no abs in what is differentiated inside forward: sqrt(x * x + eps), or clamp(x, min=0) "
    "+ clamp(-x, min=0)",
    "nonzero": _MASK,
    "tril": "make the triangle from constants, or compare torch.arange with itself and use torch.where",
    "triu": "make the triangle from constants, or compare torch.arange with itself and use torch.where",
    "huber_loss": "use ipu_chem.losses.huber, or smooth_l1_loss",
    "xlogy": "write x * log(x + eps)",
    "logaddexp": "use torch.logsumexp of the two stacked",
    "hypot": "write sqrt(x * x + y * y)",
    "lerp": "write a + weight * (b - a)",
    "exp2": "write exp(x * ln 2)",
    "searchsorted": "use torch.bucketize",
    "masked_scatter": _MASK,
    "take": "use gather on the flattened tensor",
    "diagonal": "multiply with a constant identity matrix and sum, or gather",
    "diag_embed": "multiply with a constant identity matrix",
    "nan_to_num": "use torch.where(torch.isnan(x), 0, x)",
    "logical_xor": "use a != b",
    "embedding_dense_backward": "gather rows of the weight with an expanded index",
    "_softmax_backward_data": "write exp(x) / exp(x).sum()",
    "native_layer_norm_backward": "write the normalization with mean, sub, mul and rsqrt",
    "_cdist_backward": "write distances as sqrt(sum(d * d) + eps)",
    "alias": "leave out an index that takes everything",
    "_efficientzerotensor": "give every differentiated tensor a use in the result",
}


def operator_name(schema_name: str) -> str:
    """An operator's name in torch 2.0.1, without overload; ATen's without their namespace.

    Args:
        schema_name: as newer versions of torch may have it, e.g. aten::add_.Tensor.
    """
    name = schema_name.split(".")[0]
    name = name[len("aten::") :] if name.startswith("aten::") else name
    return SAME_AS.get(name, name)


def base_name(name: str) -> str:
    """`operator_name` without the underscore of in-place operators, except of those that exist in place only."""
    name = operator_name(name)
    if name.endswith("_") and not name.endswith("__") and name not in HANDLED:
        name = name[:-1]
    return SAME_AS.get(name, name)


def handled(name: str) -> bool:
    """Tell if an operator, as torch's dispatcher names it, ends in PopTorch handlers."""
    name = base_name(name)
    return name in HANDLED or (name in TAKEN_APART and all(part in HANDLED for part in TAKEN_APART[name]))


def remedy(name: str) -> Optional[str]:
    """Advice on what to write instead of an operator, if there is some."""
    name = base_name(name)
    if name not in _REMEDIES and name.endswith("_backward"):
        return _ELEMENTARY
    return _REMEDIES.get(name)
