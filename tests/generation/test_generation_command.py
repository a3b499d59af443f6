"""`ipu-chem generate`: files and counts of a small model, and what is refused."""

import csv

import pytest
import torch
from rdkit import Chem

from ipu_chem.cli import parse
from ipu_chem.commands import generate
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.huggingface import save_chemgpt
from ipu_chem.models.chemgpt import ChemGPT

LETTERS = ["[C]", "[=C]", "[O]", "[N]", "[Branch1]", "[Ring1]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model with random weights as Hugging Face keeps it."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.build(LETTERS, robust_alphabet=False)
    model = ChemGPT("", tokenizer.vocab_size, 24, hidden_features=32, num_layers=1, num_heads=1, scale_attention=False)
    path = tmp_path_factory.mktemp("model") / "saved"
    save_chemgpt(model, tokenizer, path)
    return path


def arguments(folder, **changed):
    """What the parser makes of defaults and a few flags."""
    flags = [f"--{name}={value}" for name, value in {"accelerator": "cpu", **changed}.items()]
    return parse(["generate", str(folder), *flags])[1][0]


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_molecules_go_to_a_csv_and_counts_to_the_screen(folder, tmp_path, capsys):
    output = tmp_path / "new" / "molecules.csv"
    assert generate.run(arguments(folder, output=output, count=40, workers=1)) == 0
    found = rows(output)
    assert list(found[0]) == ["smiles", "selfies", "finished", "log_likelihood", "reason"] and len(found) == 40
    for row in found:
        assert (row["smiles"] == "") == (row["reason"] != "")
        assert not row["smiles"] or Chem.CanonSmiles(row["smiles"]) == row["smiles"]
        assert float(row["log_likelihood"]) < 0 and row["finished"] in "01"
    empty = sum(row["smiles"] == "" for row in found)  # the first draw may be the end
    printed = capsys.readouterr().out
    assert 0 < empty < 20 and f"{empty} empty: no atom" in printed
    assert f"valid        {40 - empty}\n" in printed
    cut = [row for row in found if row["finished"] == "0"]
    assert f"generated    40, {len(cut)} of them cut" in printed and cut
    mean = sum(float(row["log_likelihood"]) for row in found) / 40
    assert f"nats         {-mean:.2f} per molecule" in printed


def test_flags_reach_the_sampler(folder, tmp_path):
    def made(**flags):
        generate.run(arguments(folder, output=tmp_path / "m.csv", count=12, workers=1, **flags))
        return [row["selfies"] for row in rows(tmp_path / "m.csv")]

    plain = made()
    assert made() == plain == made(batch=5) and made(seed=1) != plain
    assert len(set(made(top_k=1))) == len(set(made(top_p=0.01))) == len(set(made(temperature=0.001))) == 1
    assert all(selfies.startswith("[C][O]") for selfies in made(prefix="CO"))
    assert max(selfies.count("[") for selfies in made(max_length=5)) == 4


def test_a_smi_file_holds_the_valid_ones(folder, tmp_path):
    for name in ("m.csv", "m.smi"):
        generate.run(arguments(folder, output=tmp_path / name, count=20, workers=1))
    expected = [f"{row['smiles']} {i}" for i, row in enumerate(rows(tmp_path / "m.csv"), start=1) if row["smiles"]]
    assert (tmp_path / "m.smi").read_text(encoding="utf-8").splitlines() == expected


def test_metrics_against_files(folder, tmp_path, capsys):
    generate.run(arguments(folder, output=tmp_path / "m.smi", count=30, workers=1))
    (tmp_path / "known.smi").write_text("OCC\nc1ccc2ccccc2c1\nCCN\n", encoding="utf-8")
    files = {"train": tmp_path / "m.smi", "reference": tmp_path / "known.smi"}
    capsys.readouterr()
    assert generate.run(arguments(folder, output=tmp_path / "n.csv", count=30, workers=1, metrics=True, **files)) == 0
    printed = capsys.readouterr().out
    assert f"compared with 3 molecules of {files['reference']}" in printed
    table = {line.split()[0]: line.split()[1] for line in printed.splitlines() if line.count("  ")}
    assert table["novelty"] == "0"  # the training file is what the same seed has written
    assert 0 < float(table["SNN"]) < 1 and float(table["W1_weight"]) > 0


def test_a_scaffold_is_in_all_molecules_and_counted(folder, tmp_path, capsys):
    flags = {"scaffold": "CCO", "output": tmp_path / "m.csv", "count": 15, "workers": 1, "only": "C,O"}
    assert generate.run(arguments(folder, **flags)) == 0
    found = rows(tmp_path / "m.csv")
    query = Chem.MolFromSmiles("CCO")
    assert len(found) == 15 and all(Chem.MolFromSmiles(row["smiles"]).HasSubstructMatch(query) for row in found)
    assert not any("[N]" in row["selfies"] for row in found)
    printed = capsys.readouterr().out
    assert printed.startswith("drawn        256, of which ") and "keep --scaffold CCO" in printed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scaffold": "CC", "motif": "O"}, "--scaffold and --motif say both"),
        ({"linker": "CC"}, "two fragments with a dot"),
        ({"condition": "logp=2"}, "knows no property logp, it was trained without any"),
        ({"ban": "[Zz]"}, r"--ban \[Zz\]"),
        ({"output": "m.txt"}, "ends in .csv or .smi"),
        ({"accelerator": "ipu"}, "on cpu or cuda"),
        ({"metrics": True}, "give --reference FILE"),
        ({"temperature": 0}, "temperature=0.0: give a number above 0"),
        ({"prefix": "CCl"}, r"\[Cl\]"),
    ],
)
def test_refusals(folder, tmp_path, monkeypatch, changed, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        generate.run(arguments(folder, **changed))
    assert not list(tmp_path.iterdir())
