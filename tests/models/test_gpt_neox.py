"""ChemGPT with rotary positions as Hugging Face's GPT-NeoX, and back."""

import json
from pathlib import Path
from typing import Any, Dict

import pytest
import torch

from ipu_chem.huggingface import load_chemgpt, save_chemgpt
from ipu_chem.models.chemgpt import ChemGPT

transformers = pytest.importorskip("transformers")
SMALL = dict(vocab_size=30, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96)
FUSED = "gpt_neox.layers.1.attention.query_key_value.bias"


def rotary(**options: Any) -> ChemGPT:
    torch.manual_seed(0)
    sizes: Dict[str, Any] = dict(vocab_size=30, max_positions=40, hidden_features=24, num_layers=3, num_heads=3)
    model = ChemGPT(**{**sizes, "positions": "rope", **options}).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def agree(ours: ChemGPT, theirs: Any) -> None:
    ids = torch.randint(0, 30, (2, 33), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(ids, torch.arange(33).expand(2, -1)), theirs.eval()(ids).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False}, {"mup_base_width": 8}, {"scale_attention": False}])
def test_what_is_written_transformers_reads(options: Dict[str, Any], tmp_path: Path) -> None:
    ours = rotary(**options)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    save_chemgpt(ours, None, tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "GPTNeoXForCausalLM"
    agree(ours, theirs)
    again, _ = load_chemgpt(tmp_path / "out")
    agree(again, theirs)
    assert again.config()["tie_embeddings"] == ours.config()["tie_embeddings"]


def theirs_of(**changed: Any) -> Any:
    torch.manual_seed(0)
    values: Dict[str, Any] = {"hidden_act": "gelu_new", "use_parallel_residual": False, "rotary_pct": 1.0, **changed}
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**{**SMALL, **values}))
    for name, parameter in model.named_parameters():
        if not name.endswith("query_key_value.bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_what_transformers_saves_is_read(tied: bool, tmp_path: Path) -> None:
    model = theirs_of(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    agree(load_chemgpt(tmp_path)[0], model)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"use_parallel_residual": True}, "use_parallel_residual=True; ChemGPT has False"),
        ({"rotary_pct": 0.25}, "rotary_pct=0.25; ChemGPT has 1.0"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; ChemGPT has 'gelu_pytorch_tanh'"),
        ({"intermediate_size": 48}, "intermediate_size=48; ChemGPT has 96"),
    ],
)
def test_what_chemgpt_has_no_like_of_is_refused(changed: Dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs_of(**changed).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        load_chemgpt(tmp_path)


def test_biases_of_queries_and_missing_tensors_are_refused(tmp_path: Path) -> None:
    save_chemgpt(rotary(), None, tmp_path)
    from safetensors.torch import load_file, save_file

    state = load_file(str(tmp_path / "model.safetensors"))
    save_file({**state, FUSED: state[FUSED] + 0.1}, str(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match="query_key_value.bias is not zero; queries, keys and values of ChemGPT have"):
        load_chemgpt(tmp_path)
    del state[FUSED]
    save_file(state, str(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=f"the weights lack {FUSED}, which a GPT-NeoX of this config.json has"):
        load_chemgpt(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(ValueError, match="of a model of type 'llama'; ChemGPT is of type gpt_neo or gpt_neox"):
        load_chemgpt(tmp_path)
