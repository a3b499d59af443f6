"""ChemGPT with rotary positions under the names of Hugging Face's GPT-NeoX, and back.

GPT-NeoX (S. Black et al., 2022) turns the same pairs of features by the same angles, and has the layers of GPT-Neo if
its residuals are not parallel. Its queries, keys and values are one matrix, head by head, with a bias that is zero
here; factors of scores and logits are moved into weights as in `gpt_neo`.
"""

import math
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor

from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.gpt_neo import EPSILON, check_tensors, check_values, number_of

MODEL_TYPE = "gpt_neox"
_BASE = 10_000.0  # of the angles
_PREFIX, _HEAD, _NEWER_HEAD = "gpt_neox.", "embed_out.weight", "lm_head.weight"
_FUSED = "attention.query_key_value."
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
# Our names in a layer, GPT-NeoX's.
_IN_LAYER = (
    ("ln_1.", "input_layernorm."),
    ("ln_2.", "post_attention_layernorm."),
    ("attention.out_proj.", "attention.dense."),
    ("mlp.c_fc.", "mlp.dense_h_to_4h."),
    ("mlp.c_proj.", "mlp.dense_4h_to_h."),
)
_OUTSIDE = {"embedding.wte.weight": f"{_PREFIX}embed_in.weight", "head.weight": _HEAD}


def to_gpt_neox(model: ChemGPT) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
    """The GPT-NeoX that gives the same logits as a ChemGPT with rotary positions.

    Returns:
        config.json's values but for the tokenizer's, and float32 tensors by name; a tied head is left out.

    Raises:
        ValueError: the model has local layers, which GPT-NeoX has not.
    """
    config = model.config()
    assert config["positions"] == "rope"
    if config["local_window"]:
        raise ValueError(
            f"local_window={config['local_window']} with positions='rope' cannot be written for Hugging Face: GPT-NeoX "
            "has no local layers, GPT-Neo no rotary positions; train with local_window=0 or positions=learned."
        )
    state: Dict[str, Tensor] = {}
    ours = {name: value.detach().float().clone() for name, value in model.state_dict().items()}
    for index, layer in enumerate(model.layers):
        head = config["hidden_features"] // config["num_heads"]
        ours[f"layers.{index}.attention.q_proj.weight"] *= layer.attention.scale * math.sqrt(head)  # type: ignore[union-attr]
        parts = [ours.pop(f"layers.{index}.attention.{name}.weight") for name in _PROJECTIONS]
        fused = torch.stack([part.reshape(config["num_heads"], head, -1) for part in parts], 1)
        fused = fused.reshape(-1, fused.shape[-1])
        state[f"{_PREFIX}layers.{index}.{_FUSED}weight"] = fused
        state[f"{_PREFIX}layers.{index}.{_FUSED}bias"] = torch.zeros(len(fused))
    state.update({_name(name): value for name, value in ours.items()})
    if config["tie_embeddings"]:
        del state[_HEAD]
    for part in ("weight", "bias"):
        state[f"{_PREFIX}final_layer_norm.{part}"] *= model.head.multiplier
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["max_positions"],
        "hidden_size": config["hidden_features"],
        "intermediate_size": 4 * config["hidden_features"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "hidden_act": "gelu_new",
        "rotary_pct": 1.0,  # of older versions of transformers
        "rotary_emb_base": int(_BASE),
        "rope_parameters": {"rope_type": "default", "rope_theta": _BASE, "partial_rotary_factor": 1.0},
        "use_parallel_residual": False,
        "attention_bias": True,
        "layer_norm_eps": EPSILON,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": config["tie_embeddings"],
        "torch_dtype": "float32",
        "use_cache": True,
    }, state


def from_gpt_neox(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ChemGPT:
    """The ChemGPT that gives a GPT-NeoX's logits, in float32.

    Args:
        config: values of config.json.
        state: tensors by GPT-NeoX's names, with or without that of a language model's head.

    Raises:
        ValueError: a value or a bias that ChemGPT has no like of, or tensors that do not fit the config; names them.
    """
    model = ChemGPT(**_options_of(config))
    heads, width = model.config()["num_heads"], model.config()["hidden_features"]
    # Tables of angles and causal masks, which older files hold, are no weights.
    state = {name: value for name, value in state.items() if "rotary_emb" not in name}
    state = {name: value for name, value in state.items() if not name.endswith(("attention.bias", "masked_bias"))}
    if _NEWER_HEAD in state:
        state[_HEAD] = state.pop(_NEWER_HEAD)
    if not any(name.startswith(_PREFIX) for name in state):  # saved without its head
        state = {_PREFIX + name: value for name, value in state.items()}
    tied = bool(model.config()["tie_embeddings"])
    table = state.get(f"{_PREFIX}embed_in.weight")
    if tied and table is not None and not torch.equal(state.setdefault(_HEAD, table), table):
        raise ValueError(
            f"{_HEAD} differs from {_PREFIX}embed_in.weight, which config.json says are one (tie_word_embeddings); "
            "set that to false there."
        )
    found = {name: value for name, value in model.state_dict().items() if not _is_projection(name)}
    expected = {_name(name): list(value.shape) for name, value in found.items()}
    for index in range(len(model.layers)):
        expected[f"{_PREFIX}layers.{index}.{_FUSED}weight"] = [3 * width, width]
        expected[f"{_PREFIX}layers.{index}.{_FUSED}bias"] = [3 * width]
    check_tensors(state, expected, "GPT-NeoX")
    weights = {name: state[_name(name)].float() for name in found}
    for index in range(len(model.layers)):
        fused = f"{_PREFIX}layers.{index}.{_FUSED}"
        if state[f"{fused}bias"].any():
            raise ValueError(f"{fused}bias is not zero; queries, keys and values of ChemGPT have no bias.")
        parts = state[f"{fused}weight"].float().reshape(heads, 3, -1, width).unbind(1)
        for name, part in zip(_PROJECTIONS, parts):
            weights[f"layers.{index}.attention.{name}.weight"] = part.reshape(width, width)
    model.load_state_dict(weights)
    return model


def _name(ours: str) -> str:
    """GPT-NeoX's name of a tensor of ChemGPT's state dict that is not one of the projections."""
    if ours in _OUTSIDE:
        return _OUTSIDE[ours]
    if ours.startswith("head.ln_f."):
        return f"{_PREFIX}final_layer_norm.{ours[len('head.ln_f.') :]}"
    layer, index, rest = ours.split(".", 2)
    for start, theirs in _IN_LAYER:
        if layer == "layers" and rest.startswith(start):
            return f"{_PREFIX}layers.{index}.{theirs}{rest[len(start) :]}"
    raise AssertionError(f"{ours} is no name of a ChemGPT with rotary positions")


def _is_projection(name: str) -> bool:
    return any(f".{part}." in name for part in _PROJECTIONS)


def _options_of(config: Mapping[str, Any]) -> Dict[str, Any]:
    width = number_of(config, "hidden_size", 6144)
    turns: Mapping[str, Any] = config.get("rope_parameters") or {}
    base = turns.get("rope_theta", config.get("rotary_emb_base", _BASE))
    fraction = turns.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    fixed: Dict[str, Tuple[Any, Any]] = {
        "hidden_act": (config.get("hidden_act", "gelu"), ("gelu_new", "gelu_pytorch_tanh")),
        "layer_norm_eps": (config.get("layer_norm_eps", EPSILON), (EPSILON,)),
        "intermediate_size": (config.get("intermediate_size", 4 * width), (4 * width,)),
        "use_parallel_residual": (config.get("use_parallel_residual", True), (False,)),
        "attention_bias": (config.get("attention_bias", True), (True,)),
        "rotary_emb_base": (base, (_BASE,)),
        "rotary_pct": (fraction, (1.0,)),
        "rope_type": (turns.get("rope_type", "default"), ("default",)),
        "rope_scaling": (config.get("rope_scaling"), (turns, None)),
    }
    check_values(fixed)
    return {
        "vocab_size": number_of(config, "vocab_size", 50432),
        "max_positions": number_of(config, "max_position_embeddings", 2048),
        "hidden_features": width,
        "num_layers": number_of(config, "num_hidden_layers", 44),
        "num_heads": number_of(config, "num_attention_heads", 64),
        "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
        "positions": "rope",
    }
