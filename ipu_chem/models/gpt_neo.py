"""ChemGPT's weights under the names of Hugging Face's GPT-Neo, and back.

GPT-Neo has learned positions, unscaled scores and no multiplier of its logits. A factor of the scores is moved
into the weights of the queries, one of the logits into the last normalization: the logits stay what they are.
"""

import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import Tensor

from ipu_chem.models.chemgpt import ChemGPT

EPSILON = 1e-5  # of normalizations
_WINDOW = 256  # GPT-Neo's own; without local layers nothing reads it
_PARTS = (("embedding.", ""), ("layers.", "h."), ("head.ln_f.", "ln_f."))  # our beginning of a name, GPT-Neo's
_HEAD, _PREFIX = "lm_head.weight", "transformer."
# Causal masks, which older files hold: no weights.
_BUFFER = re.compile(r".*\.attn\.attention\.(masked_)?bias$")


def gpt_neo_name(name: str) -> str:
    """GPT-Neo's name of a tensor of ChemGPT's state dict."""
    if name == "head.weight":
        return _HEAD
    for ours, theirs in _PARTS:
        if name.startswith(ours):
            return _PREFIX + theirs + name[len(ours) :].replace(".attention.", ".attn.attention.")
    raise AssertionError(f"{name} is no name of ChemGPT's")


def to_gpt_neo(model: ChemGPT) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
    """The GPT-Neo that gives the same logits as a ChemGPT with learned positions.

    Returns:
        config.json's values but for the tokenizer's, and float32 tensors by name; a tied head is left out.
    """
    config = model.config()
    assert config["positions"] == "learned"
    state = {gpt_neo_name(name): value.detach().float().clone() for name, value in model.state_dict().items()}
    if config["tie_embeddings"]:
        del state[_HEAD]
    for index, layer in enumerate(model.layers):
        state[f"{_PREFIX}h.{index}.attn.attention.q_proj.weight"] *= layer.attention.scale  # type: ignore[union-attr]
    for part in ("weight", "bias"):
        state[f"{_PREFIX}ln_f.{part}"] *= model.head.multiplier
    layers, is_local = config["num_layers"], bool(config["local_window"])
    pairs: List[Any] = [[["global", "local"], layers // 2]] + [[["global"], 1]] * (layers % 2)
    return {
        "model_type": "gpt_neo",
        "architectures": ["GPTNeoForCausalLM"],
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["max_positions"],
        "hidden_size": config["hidden_features"],
        "intermediate_size": None,
        "num_layers": layers,
        "num_heads": config["num_heads"],
        "attention_types": [pair for pair in pairs if pair[1]] if is_local else [[["global"], layers]],
        "attention_layers": [("global", "local")[is_local and index % 2] for index in range(layers)],
        "window_size": config["local_window"] or _WINDOW,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": EPSILON,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": config["tie_embeddings"],
        "torch_dtype": "float32",
        "use_cache": True,
    }, state


def from_gpt_neo(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ChemGPT:
    """The ChemGPT that gives a GPT-Neo's logits, in float32.

    Args:
        config: values of config.json. Its dropouts are left behind: this model has none.
        state: tensors by GPT-Neo's names, with or without those of a language model's head.

    Raises:
        ValueError: a value that ChemGPT has no like of, or tensors that do not fit the config; names them.
    """
    options = _options_of(config)
    state = {name: value for name, value in state.items() if not _BUFFER.match(name)}
    if not any(name.startswith(_PREFIX) for name in state):  # saved without its head
        state = {_PREFIX + name: value for name, value in state.items()}
    table = state.get(_PREFIX + "wte.weight")
    if options["tie_embeddings"] and table is not None:
        if not torch.equal(state.setdefault(_HEAD, table), table):
            raise ValueError(
                f"{_HEAD} differs from {_PREFIX}wte.weight, which config.json says are one "
                "(tie_word_embeddings); set that to false there."
            )
    model = ChemGPT(**options)
    wanted = {gpt_neo_name(name): (name, value) for name, value in model.state_dict().items()}
    check_tensors(state, {name: value.shape for name, (_, value) in wanted.items()}, "GPT-Neo")
    model.load_state_dict({ours: state[name].float() for name, (ours, _) in wanted.items()})
    return model


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], kind: str) -> None:
    """Refuse tensors by name that are not those of a model of some kind: the first that differs in name or shape."""
    for name in sorted(set(expected) | set(state)):
        if name not in state:
            raise ValueError(f"the weights lack {name}, which a {kind} of this config.json has.")
        if name not in expected:
            raise ValueError(f"the weights hold {name}, which a {kind} of this config.json has not.")
        there, wanted = list(state[name].shape), list(expected[name])
        if there != wanted:
            raise ValueError(f"{name} has shape {there} in the weights, by config.json it is {wanted}.")


def check_values(fixed: Mapping[str, Tuple[Any, Sequence[Any]]]) -> None:
    """Refuse values of config.json that ChemGPT has no like of; name -> value, those that it has."""
    for name, (value, known) in fixed.items():
        if value not in known:
            raise ValueError(f"config.json has {name}={value!r}; ChemGPT has {known[-1]!r}.")


def _options_of(config: Mapping[str, Any]) -> Dict[str, Any]:
    """ChemGPT's arguments out of config.json's values."""
    width = number_of(config, "hidden_size", 2048)
    fixed = {
        "activation_function": (config.get("activation_function", "gelu_new"), ("gelu_new", "gelu_pytorch_tanh")),
        "layer_norm_epsilon": (config.get("layer_norm_epsilon", EPSILON), (EPSILON,)),
        "intermediate_size": (config.get("intermediate_size"), (None, 4 * width)),
    }
    check_values(fixed)
    layers, positions = number_of(config, "num_layers", 24), number_of(config, "max_position_embeddings", 2048)
    return {
        "vocab_size": number_of(config, "vocab_size", 50257),
        "max_positions": positions,
        "hidden_features": width,
        "num_layers": layers,
        "num_heads": number_of(config, "num_heads", 16),
        "scale_attention": False,
        "tie_embeddings": bool(config.get("tie_word_embeddings", True)),
        "local_window": _window(config, layers, positions),
    }


def _window(config: Mapping[str, Any], layers: int, positions: int) -> int:
    """Symbols that every other layer sees, 0 where all see all."""
    kinds = config.get("attention_layers")
    if kinds is None:
        types = config.get("attention_types", [[["global", "local"], 12]])
        kinds = [kind for group, times in types for _ in range(times) for kind in group]
    window = number_of(config, "window_size", _WINDOW)
    if len(kinds) != layers:
        raise ValueError(f"config.json names {len(kinds)} attention layers for num_layers={layers}.")
    if "local" not in kinds:
        return 0
    alternate = [("global", "local")[index % 2] for index in range(layers)]
    if list(kinds) != alternate and window < positions:
        raise ValueError("config.json has local attention in other layers than every second one; ChemGPT has not.")
    return window if list(kinds) == alternate else 0


def number_of(config: Mapping[str, Any], name: str, default: int) -> int:
    """A value of config.json that has to be an integer of 1 or more."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"config.json has {name}={value!r}: it should be an integer of 1 or more.")
    return value
