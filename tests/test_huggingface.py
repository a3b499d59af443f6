"""Folders of Hugging Face's libraries: what they write is read, what is written they read, and logits stay the same."""

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from torch import Tensor

from ipu_chem.backends.options import Batching
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.data.corpora.memory import corpus_in_memory
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from ipu_chem.huggingface import load_chemgpt, save_chemgpt
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.gpt_neo import from_gpt_neo, gpt_neo_name, to_gpt_neo
from packing import Budget, Ragged, make_plan

transformers = pytest.importorskip("transformers")
# As published, but for places where a model is written.
PUBLISHED: Dict[str, Any] = dict(
    vocab_size=684,
    hidden_size=128,
    num_layers=24,
    num_heads=16,
    max_position_embeddings=2048,
    attention_types=[[["global", "local"], 12]],
)


def neo(spread: float = 0.1, **changed: Any) -> Any:
    """transformers' own model with random weights that attend to some symbols more than to others."""
    torch.manual_seed(0)
    config = transformers.GPTNeoConfig(**{**PUBLISHED, "bos_token_id": 2, "eos_token_id": 3, **changed})
    config._attn_implementation = "eager"
    model = transformers.GPTNeoForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data += spread * torch.randn_like(parameter)
    return model


def symbols(rows: int, length: int, vocab: int) -> Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(1))


def agree(ours: ChemGPT, theirs: Any, length: int) -> None:
    ids = symbols(2, length, ours.config()["vocab_size"])
    with torch.no_grad():
        got = ours(ids, torch.arange(length).expand(2, -1))
        torch.testing.assert_close(got, theirs(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [16, 128])
def test_published_config_and_old_files_of_weights(width: int, shared: Path, tmp_path: Path) -> None:
    """As those of 2021 are: masks among the weights, ids of first and last symbols outside of the vocabulary."""
    config = json.loads((shared / "data/chemgpt_tokenizer/ChemGPT-4.7M/config.json").read_text())
    assert config["bos_token_id"] == 50256 > config["vocab_size"]
    model = neo(0.02, hidden_size=width)
    state = dict(model.state_dict())
    for layer in range(24):
        state[f"transformer.h.{layer}.attn.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        state[f"transformer.h.{layer}.attn.attention.masked_bias"] = torch.tensor(-1e9)
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": width}))
    ours, tokenizer = load_chemgpt(tmp_path)
    assert tokenizer is None and ours.config()["local_window"] == 256
    assert sum(parameter.numel() for parameter in ours.layers.parameters()) == 24 * (12 * width + 10) * width
    agree(ours, model, 60)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_layers": 3, "attention_types": [[["global"], 3]]},
        {"tie_word_embeddings": False},
        {"num_layers": 3, "attention_types": [[["global", "local"], 1], [["global"], 1]]},
    ],
)
def test_what_transformers_saves_is_read(changed: Dict[str, Any], tmp_path: Path) -> None:
    """With molecules longer than the window of local layers."""
    small = dict(vocab_size=30, hidden_size=12, num_layers=4, num_heads=3, max_position_embeddings=40, window_size=5)
    model = neo(0.3, **{**small, "attention_types": [[["global", "local"], 2]], **changed})
    model.save_pretrained(tmp_path)
    ours, _ = load_chemgpt(tmp_path)
    assert ours.config()["local_window"] == (0 if changed.get("attention_types") == [[["global"], 3]] else 5)
    assert (ours.head.weight is ours.embedding.wte.weight) != ("tie_word_embeddings" in changed)
    agree(ours, model, 24)


def test_weights_in_parts_and_without_a_head(tmp_path: Path) -> None:
    model = neo(vocab_size=30, hidden_size=32, num_layers=4, attention_types=[[["global", "local"], 2]])
    model.transformer.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    agree(load_chemgpt(tmp_path)[0], model, 10)


def chemgpt(**options: Any) -> ChemGPT:
    torch.manual_seed(0)
    sizes = dict(vocab_size=30, max_positions=40, hidden_features=12, num_layers=3, num_heads=3)
    model = ChemGPT(**{**sizes, **options})  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"scale_attention": False, "local_window": 5},
        {},
        {"tie_embeddings": False, "num_layers": 2, "local_window": 4},
        {"mup_base_width": 4},
    ],
)
def test_what_is_written_transformers_reads(options: Dict[str, Any], tmp_path: Path) -> None:
    """Factors of scores and logits are moved into weights; the model itself stays as it was."""
    ours = chemgpt(**options)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    save_chemgpt(ours, None, tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == "GPTNeoForCausalLM" and theirs.dtype == torch.float32
    agree(ours, theirs, 24)
    again, _ = load_chemgpt(tmp_path / "out")
    agree(again, theirs, 24)


def published_tokenizer(shared: Path) -> Tokenizer:
    return ChemGPTTokenizer.from_published(shared / "data/chemgpt_tokenizer/ChemGPT-4.7M")


def own_tokenizer(shared: Path) -> Tokenizer:
    return Tokenizer.build(["[C]", "[=C]", "[O]", "[N]", "[Ring1]", "[=Branch1]"])


@pytest.mark.parametrize("make", [own_tokenizer, published_tokenizer])
def test_vocabularies_go_with_the_weights(make: Any, shared: Path, tmp_path: Path) -> None:
    tokenizer = make(shared)
    save_chemgpt(chemgpt(vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "out")
    _, again = load_chemgpt(tmp_path / "out")
    assert again is not None and again.fingerprint() == tokenizer.fingerprint()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "[C][=C][O][Ring1][=Branch1][N]"
    assert theirs(text)["input_ids"] == tokenizer.encode(text).tolist()
    config = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    wanted = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == wanted
    assert [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id] == wanted


def test_a_vocabulary_larger_than_the_model_is_refused(shared: Path, tmp_path: Path) -> None:
    tokenizer = own_tokenizer(shared)
    with pytest.raises(ValueError, match="this model predicts 5 tokens, the vocabulary has"):
        save_chemgpt(chemgpt(vocab_size=5), tokenizer, tmp_path / "out")
    save_chemgpt(chemgpt(vocab_size=5), None, tmp_path / "out")
    tokenizer.save_huggingface(tmp_path / "out")
    with pytest.raises(ValueError, match="predicts 5 tokens"):
        load_chemgpt(tmp_path / "out")


def test_rotary_positions_and_local_layers_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="local_window=4 with positions='rope' cannot be written .* local_window=0 or"):
        save_chemgpt(chemgpt(positions="rope", local_window=4), None, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files already; give a new folder"):
        save_chemgpt(chemgpt(), None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def written(folder: Path, config: Dict[str, Any], state: Dict[str, Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


WTE, QUERY = "transformer.wte.weight", "transformer.h.1.attn.attention.q_proj.weight"


@pytest.mark.parametrize(
    "config, state, words",
    [
        ({"hidden_size": 24}, {}, "has shape \\[30, 12\\] in the weights, by config.json it is \\[30, 24\\]"),
        ({"num_layers": 4, "attention_types": [[["global"], 4]], "attention_layers": None}, {}, "lack transformer.h.3"),
        ({}, {"transformer.h.7.ln_1.bias": torch.zeros(12)}, "hold transformer.h.7.ln_1.bias"),
        (
            {},
            {QUERY: torch.zeros(3)},
            "q_proj.weight has shape \\[3\\] in the weights, by config.json it is \\[12, 12\\]",
        ),
        ({}, {"lm_head.weight": torch.zeros(30, 12)}, "lm_head.weight differs from transformer.wte.weight"),
        ({"model_type": "gpt2"}, {}, "a model of type 'gpt2'"),
        ({"activation_function": "relu"}, {}, "activation_function='relu'; ChemGPT has 'gelu_pytorch_tanh'"),
        ({"intermediate_size": 7}, {}, "intermediate_size=7; ChemGPT has 48"),
        ({"num_heads": 0}, {}, "num_heads=0: it should be an integer of 1 or more"),
        ({"attention_layers": ["global"]}, {}, "names 1 attention layers for num_layers=3"),
        (
            {"attention_layers": ["local"] * 3, "window_size": 8},
            {},
            "local attention in other layers than every second",
        ),
    ],
)
def test_what_does_not_fit_is_named(config: Any, state: Any, words: str, tmp_path: Path) -> None:
    good, weights = to_gpt_neo(chemgpt())
    folder = written(tmp_path / "in", {**good, **config}, {**weights, **state})
    with pytest.raises(ValueError, match=words):
        load_chemgpt(folder)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no config.json that can be read"):
        load_chemgpt(tmp_path / "nowhere")
    folder = written(tmp_path / "in", *to_gpt_neo(chemgpt()))
    (folder / "pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="pytorch_model.bin is no file of tensors"):
        load_chemgpt(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="there are no weights; put model.safetensors"):
        load_chemgpt(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="model.safetensors is missing or damaged"):
        load_chemgpt(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_chemgpt(folder)


SMILES = """
CC(=O)Oc1ccccc1C(=O)O CN1C=NC2=C1C(=O)N(C(=O)N2C)C CC(C)Cc1ccc(cc1)C(C)C(=O)O c1ccccc1 CCO C
OCC1OC(O)C(O)C(O)C1O CC(=O)NC1=CC=C(C=C1)O ClC(Cl)(Cl)Cl NC(=O)c1cccnc1 CS(=O)C Oc1ccc(cc1)C(c1ccccc1)=O
FC(F)(F)c1ccccc1 C1CCCCC1 C#N O=C1CCCN1 CCN(CC)CC c1ccc2ccccc2c1 NCC(=O)O NC(CO)C(=O)O O=[N+]([O-])c1ccccc1
CC(C)(C)O C=CC=C COc1cc(C=O)ccc1O CC1=CC(=O)C=CC1=O BrCCBr c1cc[nH]c1 c1ccoc1 c1ccsc1 CN(C)CCc1c[nH]c2ccccc12
CC(N)Cc1ccccc1 OC(=O)CC(O)(CC(O)=O)C(O)=O CCCCCCCCCCCCCCCC(=O)O C1=CC=C(C=C1)P(C2=CC=CC=C2)C3=CC=CC=C3
O=C(O)c1ccccc1O Nc1ncnc2[nH]cnc12 CCOC(=O)C=C N#CC1=CC=CC=C1 CC12CCC3C(C1CCC2O)CCC4=CC(=O)CCC34C
Clc1ccc(cc1)C(c1ccc(Cl)cc1)C(Cl)(Cl)Cl
""".split()


def molecules(smiles: List[str]) -> Any:
    """Vocabulary and ids of real molecules."""
    store, failures = corpus_in_memory(smiles)
    assert not failures
    tokenizer = Tokenizer.build(store.info["symbols"])
    return tokenizer, tokenizer.encode_store(store)


def test_packs_equal_their_molecules_one_by_one_in_transformers() -> None:
    """At the size of ChemGPT-4.7M: logits, loss and every gradient; whatever padding holds changes nothing."""
    tokenizer, ids = molecules(SMILES)
    theirs = neo(0.02, vocab_size=tokenizer.vocab_size, max_position_embeddings=96)
    ours = from_gpt_neo({**theirs.config.to_dict(), "model_type": "gpt_neo"}, theirs.state_dict())
    budget = Budget(tokens=96)
    batch, positions = packed(ids, budget, tokenizer.vocab_size)
    logits = ours(*batch.inputs)
    loss = token_cross_entropy(logits, *batch.targets)
    loss.backward()
    total = torch.zeros(())
    predicted = int((ids.lengths - 1).sum())
    for item, (row, first) in positions.items():
        alone = torch.from_numpy(ids[item].astype(np.int64))[None]
        expected = theirs(alone).logits[0]
        got = logits[row, first : first + alone.shape[1]]
        assert (got - expected).abs().max() <= 1e-5
        part = torch.nn.functional.cross_entropy(expected[:-1], alone[0, 1:], reduction="sum") / predicted
        part.backward()
        total = total + part.detach()
    assert len(positions) == len(SMILES) == 40
    assert abs(float(loss.detach() - total)) <= 1e-5
    by_name = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - by_name[gpt_neo_name(name)].grad).abs().max() <= 1e-5, name

    empty = torch.ones_like(batch.position_ids, dtype=torch.bool)
    for item, (row, first) in positions.items():
        empty[row, first : first + int(ids.lengths[item])] = False
    assert empty.any()
    dirty = [torch.where(empty, torch.full_like(field, 7), field) for field in batch.inputs]
    again = ours(*dirty)
    assert torch.equal(token_cross_entropy(again, *batch.targets), loss)


def packed(ids: Ragged, budget: Budget, vocab: int) -> Any:
    """All molecules in one batch, and row and first slot of each."""
    plan = make_plan(ids.lengths, budget)
    loader = TokenLoader(ids, plan, budget, Batching(plan.num_packs), vocab)
    (batch,) = (batch for batch, _ in loader.epoch(0, 0))
    found: Dict[int, Any] = {}
    rows = batch.ids.numpy()
    for row, starts in enumerate((batch.position_ids == 0).numpy()):
        for first in np.flatnonzero(starts):
            for item in range(len(ids)):
                symbols = ids[item]
                if item not in found and np.array_equal(rows[row, first : first + len(symbols)], symbols):
                    found[item] = (row, int(first))
                    break
    return batch, found
