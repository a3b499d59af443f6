"""Embeddings from file to file and by the command: every line has its row, in every format."""

import csv
import gzip
import sys
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest

from ipu_chem.cli import parse
from ipu_chem.commands import embed as command
from ipu_chem.embedding import Embedder, EmbeddingOptions, embed, embed_file
from ipu_chem.embedding.files import index_path

BROKEN = {2: "C1CC", 5: "C[Pt]C"}


@pytest.fixture
def source(tmp_path, smiles) -> Path:
    """14 lines, two of which are no molecules of the model's, and one that is longer than 40 tokens."""
    texts = [*smiles[:12]]
    for line, text in sorted(BROKEN.items()):
        texts.insert(line - 1, text)
    texts[9] = "C" * 60
    (tmp_path / "in.smi").write_text("".join(f"{text} name{line}\n" for line, text in enumerate(texts, 1)))
    return tmp_path / "in.smi"


def rows_of(path: Path) -> List[Dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def written(path: Path):
    """(lines, SMILES, vectors [n, F], reasons) of an output of any kind."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path).to_pydict()
        return table["line"], table["smiles"], np.array(table["embedding"], np.float32), table["reason"]
    rows = rows_of(index_path(path) if path.suffix == ".npy" else path)
    lines, texts, reasons = ([row[key] for row in rows] for key in ("line", "smiles", "reason"))
    if path.suffix == ".npy":
        values = np.load(path)
    else:
        columns = [name for name in rows[0] if name.startswith("f")]
        values = np.array([[float(row[name]) for name in columns] for row in rows], np.float32)
    return [int(line) for line in lines], texts, values, reasons


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_every_line_has_its_row(chemgpt, tokenizer, source, tmp_path, suffix):
    texts = [line.split()[0] for line in source.read_text().splitlines()]
    output = tmp_path / f"out{suffix}"
    options = EmbeddingOptions(chunk=4, tokens=40, long="drop")
    with Embedder(chemgpt, tokenizer, options) as embedder:
        summary = embed_file(embedder, source, output, progress=False)
    assert summary[:4] == (11, 3, 1, 0) and [failure.line for failure in summary.failures] == [2, 5, 10]
    lines, read, values, reasons = written(output)
    assert lines == list(range(1, 15)) and read == texts and values.shape == (14, 32) and values.dtype == np.float32
    expected = embed(chemgpt, tokenizer, texts, tokens=40, long="drop", chunk=4)
    assert np.array_equal(values, expected.values, equal_nan=True)
    assert [line for line, reason in zip(lines, reasons) if reason] == [2, 5, 10]
    assert "parse" in reasons[1] and "vocabulary" in reasons[4] and reasons[9].startswith("dropped: 62 tokens")


def test_tables_in_gzip_are_read_and_a_cut_file_ends_with_a_reason(chemgpt, tokenizer, smiles, tmp_path):
    text = "id,Molecule\n" + "".join(f"{row},{one}\n" for row, one in enumerate(smiles * 20))
    whole = gzip.compress(text.encode())
    for name, content in (("all.csv.gz", whole), ("cut.csv.gz", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
    with Embedder(chemgpt, tokenizer, EmbeddingOptions(notation="selfies")) as embedder:  # fast: all are refused
        with pytest.raises(ValueError, match="no column named smiles; pass --smiles_column, one of: id, Molecule"):
            embed_file(embedder, tmp_path / "all.csv.gz", tmp_path / "out.npy", progress=False)
        summary = embed_file(embedder, tmp_path / "all.csv.gz", tmp_path / "out.npy", "Molecule", progress=False)
        assert summary.embedded + summary.failed == 6000 and len(summary.failures) == 100
        assert [row["line"] for row in rows_of(tmp_path / "out.index.csv")] == [str(n) for n in range(2, 6002)]
        embed_file(embedder, tmp_path / "cut.csv.gz", tmp_path / "cut.npy", "Molecule", progress=False)
    rows = rows_of(tmp_path / "cut.index.csv")
    assert 1000 < len(rows) < 6000 and "damaged from here on, or cut short" in rows[-1]["reason"]
    assert len(np.load(tmp_path / "cut.npy")) == len(rows)


def test_selfies_are_not_read_as_smarts(chemgpt, tokenizer, tmp_path):
    texts = ["[C][#N]", "[C][C][O]", "[C][#C]"]
    (tmp_path / "in.smi").write_text("".join(f"{text} name\n" for text in texts))
    (tmp_path / "in.csv").write_text("id,smiles\n" + "".join(f"1,{text}\n" for text in texts))
    with Embedder(chemgpt, tokenizer, EmbeddingOptions(notation="selfies")) as embedder:
        for name in ("in.smi", "in.csv"):
            assert embed_file(embedder, tmp_path / name, tmp_path / "out.npy", progress=False).embedded == 3
            expected = embed(chemgpt, tokenizer, texts, notation="selfies").values
            np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_what_was_there_stays_until_all_is_written(chemgpt, tokenizer, source, tmp_path, suffix):
    output = tmp_path / f"out{suffix}"
    output.write_text("earlier")
    before = sorted(path.name for path in tmp_path.iterdir())
    with Embedder(chemgpt, tokenizer, EmbeddingOptions(chunk=4, tokens=40)) as embedder:
        with pytest.raises(ValueError, match="line 10 .* has 62 tokens, the limit is 40: --tokens 62 would hold it"):
            embed_file(embedder, source, output, progress=False)
    assert output.read_text() == "earlier" and sorted(path.name for path in tmp_path.iterdir()) == before


def run(words: List[str]) -> int:
    return command.run(*parse(["embed", *words])[1])


def test_the_command_embeds_and_says_what_it_could_not(run_folder, chemgpt, tokenizer, source, tmp_path, capsys):
    output = tmp_path / "out.npy"
    words = [str(run_folder), str(source), f"--output={output}", "--pooling=last", "--tokens=40", "--long=truncate"]
    assert run([*words, "--workers=1", "--accelerator=cpu"]) == 0
    texts = [line.split()[0] for line in source.read_text().splitlines()]
    expected = embed(chemgpt, tokenizer, texts, "last", tokens=40, long="truncate").values
    np.testing.assert_allclose(np.load(output), expected, rtol=1e-5, atol=1e-6)
    printed = capsys.readouterr().out
    assert "line 2 (C1CC): RDKit cannot parse the SMILES" in printed
    assert "\nline 5 (C[Pt]C): token '[" in printed  # the line is named once
    assert "12 molecules embedded in 32 numbers each, 2 without; too long: 0 of those, 1 truncated" in printed
    (tmp_path / "bad.smi").write_text("C1CC\n")
    assert run([str(run_folder), str(tmp_path / "bad.smi"), f"--output={output}", "--workers=1"]) == 1


def test_what_cannot_be_written_is_refused_before_the_model_is_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="out.h5: embeddings are written to .npy, .csv, .parquet files"):
        run(["no-run", "no-file.smi", "--output=out.h5"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        run(["no-run", "no-file.smi", "--output=out.parquet"])


def test_salts_and_unknown_symbols_are_options_of_the_command(text_options, tmp_path):
    from ipu_chem.cli import main
    from ipu_chem.config import from_dict
    from ipu_chem.train import train

    text_options["training"]["epochs"] = 1
    train(from_dict(text_options))
    (tmp_path / "in.smi").write_text("CCO.Cl\nCCO\n[Ru+2]\n")
    words = ["embed", text_options["out"], str(tmp_path / "in.smi"), "--output", str(tmp_path / "e.npy"), "--workers=1"]
    assert main([*words, "--fragments", "largest", "--accelerator", "cpu"]) == 0
    cut = np.load(tmp_path / "e.npy")
    np.testing.assert_allclose(cut[0], cut[1], rtol=1e-5)
    assert np.isnan(cut[2]).all()
    assert main([*words, "--unknown", "map", "--fragments", "error", "--accelerator", "cpu"]) == 0
    mapped = np.load(tmp_path / "e.npy")
    assert np.isnan(mapped[0]).all() and np.isfinite(mapped[1:]).all()


def test_log_likelihoods_have_a_column_of_their_own(chemgpt, tokenizer, source, tmp_path):
    options = EmbeddingOptions(likelihoods=True)
    with Embedder(chemgpt, tokenizer, options) as embedder:
        for name in ("nats.csv", "nats.npy", "nats.parquet"):
            embed_file(embedder, source, tmp_path / name, progress=False)
    rows = rows_of(tmp_path / "nats.csv")
    assert list(rows[0]) == ["line", "smiles", "log_likelihood", "reason"] and len(rows) == 14
    values = np.array([float(row["log_likelihood"]) for row in rows], np.float32)
    assert sorted(BROKEN) == (np.flatnonzero(np.isnan(values)) + 1).tolist() and np.nanmax(values) < 0
    np.testing.assert_array_equal(np.load(tmp_path / "nats.npy")[:, 0], values)
    pyarrow = pytest.importorskip("pyarrow.parquet")
    np.testing.assert_array_equal(
        np.array(pyarrow.read_table(tmp_path / "nats.parquet").to_pydict()["log_likelihood"], np.float32), values
    )
