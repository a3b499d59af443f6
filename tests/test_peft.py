"""A ChemGPT in Hugging Face's form is tuned by peft, and what it merges is read again."""

import pytest
import torch

from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.huggingface import load_chemgpt, save_chemgpt
from ipu_chem.models.chemgpt import ChemGPT

peft = pytest.importorskip("peft", reason="peft is not installed (pip install peft, from Python 3.9 on)")
transformers = pytest.importorskip("transformers")


def test_peft_tunes_the_export_and_its_merged_weights_come_back(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.build(["[C]", "[O]", "[N]"], robust_alphabet=False)
    model = ChemGPT(vocab_size=tokenizer.vocab_size, max_positions=16, hidden_features=16, num_layers=2)
    save_chemgpt(model, tokenizer, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    layers = ["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"]
    tuned = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=layers, task_type="CAUSAL_LM"))
    ids = torch.from_numpy(tokenizer.encode("[C][O][N][C]").astype("int64"))[None]
    optimizer = torch.optim.Adam([weight for weight in tuned.parameters() if weight.requires_grad], 0.05)
    losses = []
    for _ in range(10):
        loss = tuned(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    tuned.eval()
    with torch.no_grad():
        wanted = tuned(input_ids=ids).logits
        tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
        tokenizer.save_huggingface(tmp_path / "merged")
        found, vocabulary = load_chemgpt(tmp_path / "merged")
        logits = found.eval()(ids, torch.arange(ids.shape[1])[None])
        before = model.eval()(ids, torch.arange(ids.shape[1])[None])
    assert vocabulary is not None and vocabulary.symbols == tokenizer.symbols
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert (logits - before).abs().max() > 1e-2
