"""Tables as people have them: the same value, or the same sentence, for runs of graphs and of text."""

import gzip

import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data.corpora import load_corpus
from ipu_chem.data.corpora.labels import load_labeled_corpus
from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.files.table import Failure, read_table
from ipu_chem.data.molecule import decode_texts


def as_graphs(path, target, kind="number", **table):
    return load_dataset(
        "file", path, path.parent / "graphs", target=target, kind=kind, progress=False, workers=1, **table
    )


def as_text(path, target, kind="number", **table):
    return load_labeled_corpus(path, [target], kind=kind, cache=str(path.parent / "text"), workers=1, **table)


PATHS = pytest.mark.parametrize("load", [as_graphs, as_text])


def write(tmp_path, content, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


HEADER = "smiles,logS\n"
# name -> (content, target, SMILES, labels)
READ = {
    "plain": (HEADER + "CCO,-0.5\nC,1\n", "logS", ["CCO", "C"], [-0.5, 1]),
    "carriage returns": (b"smiles,logS\rCCO,-0.5\rC,1\r", "logS", ["CCO", "C"], [-0.5, 1]),
    "ends of Windows": (b"smiles,logS\r\nCCO,-0.5\r\n\r\nC,1\r\n", "logS", ["CCO", "C"], [-0.5, 1]),
    "blanks": ("smiles , logS\n CCO , -0.5\nC,\t1\n", "logS", ["CCO", "C"], [-0.5, 1]),
    "blank behind a quote": ('smiles,logS\n"CCO" , -0.5\n "C", "1"\n', "logS", ["CCO", "C"], [-0.5, 1]),
    "utf-16": ((HEADER + "CCO,-0.5\nC,1\n").encode("utf-16"), "logS", ["CCO", "C"], [-0.5, 1]),
    "utf-16 without a mark": ((HEADER + "CCO,-0.5\nC,1\n").encode("utf-16-le"), "logS", ["CCO", "C"], [-0.5, 1]),
    "utf-32": ((HEADER + "CCO,-0.5\nC,1\n").encode("utf-32"), "logS", ["CCO", "C"], [-0.5, 1]),
    "utf-8 with a mark": ((HEADER + "CCO,-0.5\nC,1\n").encode("utf-8-sig"), "logS", ["CCO", "C"], [-0.5, 1]),
    "latin": ("smiles,name,L\xf6s\nCCO,caf\xe9,-0.5\nC,b,1\n".encode("cp1252"), "L\xf6s", ["CCO", "C"], [-0.5, 1]),
    "sep of Excel": ("sep=;\nsmiles;logS\nCCO;-0.5\nC;1\n", "logS", ["CCO", "C"], [-0.5, 1]),
    "tabs in a .csv": ("smiles\tlogS\nCCO\t-0.5\nC\t1\n", "logS", ["CCO", "C"], [-0.5, 1]),
    "ChEMBL": (
        '"ChEMBL ID";"Smiles";"Standard Value"\n"C1";"CCO";"120,5"\n"C2";"C";"95"\n',
        *("Standard Value", ["CCO", "C"], [120.5, 95]),
    ),
    "PubChem": (
        "cid,canonicalsmiles,isosmiles,xlogp\n1,CC(F)O,C[C@@H](O)F,-0.1\n2,C,C,2\n",
        *("xlogp", ["C[C@@H](O)F", "C"], [-0.1, 2]),
    ),
    "decimal commas": ("smiles;y\nCCO;-0,5\nC;1,250\nCC;\nCCC;2\n", "y", ["CCO", "C", "CCC"], [-0.5, 1.25, 2]),
    "missing": (HEADER + "CCO,1\nC, \nCC,NA\nCCC,NaN\nCCCC,nan\nCCCCC,2\n", "logS", ["CCO", "CCCCC"], [1, 2]),
    "quoted cells": ('smiles,note,logS\n"CCO\n","a, ""b""\nc",1\nC,,2\n', "logS", ["CCO", "C"], [1, 2]),
    "CXSMILES": ('smiles,logS\nCCO |$;;O$|,1\n"C[CH2] |^1:1|",2\n', "logS", ["CCO", "[CH2]C"], [1, 2]),
    "thousands of points": ("smiles;y\nCCO;1.250\nC;0.125\n", "y", ["CCO", "C"], [1.25, 0.125]),
}
ACROSS = r"row has 3 cells, header 2 \(a decimal comma, or a comma without quotes\?\)\."
# name -> (content, target, sentence)
REFUSED = {
    "decimal comma": (HEADER + "CCO,-0,5\nC,1\n", "logS", f"a.csv line 2: {ACROSS}"),
    "thousands": (HEADER + "CCN,2\nCCO,1,250\n", "logS", f"a.csv line 3: {ACROSS}"),
    "cut row": (
        "smiles,name,logS\nCCO,a,1\nC,1\n",
        "logS",
        r"a.csv line 3: row has 2 cells, header 3 \(a line that is cut\?\)",
    ),
    "semicolons": ("smiles;logS\nCCO;1;2\n", "logS", r"line 2: row has 3 cells, header 2 \(a semicolon without"),
    "two columns": ("smiles,logS,logS\nCCO,1,2\n", "logS", r"a.csv has 2 columns 'logS' \(2 and 3\); rename or remove"),
    "two columns of SMILES": ("smiles,smiles,logS\nCCO,C,2\n", "logS", "a.csv has 2 columns 'smiles'"),
    "no such column": (HEADER + "CCO,1\n", "logP", "a.csv has no column 'logP'; it has smiles, logS"),
    "no SMILES": ("Structure,logS\nCCO,1\n", "logS", "pass data.smiles_column, one of: Structure, logS"),
    "comments above": ("# mine\n\n# 2021\nsmiles,logS\nC,1\n", "logS", "a.csv line 4 looks like the header; take out"),
    "title above": ("Table 1,,\nid,smiles,logS\n1,C,1\n", "logS", "a.csv line 2 looks like the header; take out what"),
    "bars": (
        "smiles|logS\nC|1\n",
        "logS",
        r"a.csv: its cells seem to be separated otherwise; pass data.delimiter '\|'",
    ),
    "infinity": (HEADER + "C,1\nCCO,-inf\n", "logS", "a.csv line 3: logS is -inf, no number; correct it"),
    "too large": (HEADER + "C,1e999\n", "logS", "a.csv line 2: logS is inf, no number"),
    "text": (HEADER + "C,>50\n", "logS", "a.csv line 2: logS is '>50', no number; correct it, or empty the cell"),
    "digits of Python": (HEADER + "C,1_000\n", "logS", "a.csv line 2: logS is '1_000', no number"),
    "quoted thousands": (HEADER + 'C,"1,250"\nCC,3\n', "logS", "logS has cells such as '1,250', whose comma may be"),
    "comma and point": ("smiles;y\nC;0,5\nCC;1.250,5\n", "y", "no number|other cells of the column have a comma"),
    "comma and points": (
        "smiles;y\nC;0,5\nCC;1.5\n",
        "y",
        "line 3: y is '1.5', and other cells of the column",
    ),
    "points beside commas": (
        "smiles;y;t\nC;1.250;0,5\nCC;2;1\n",
        "y",
        "line 2: y is '1.250', whose point may",
    ),
    "behind a comma at the end": ("smiles,y,\nC,1,\nC,0,5\n", "y", "line 3: a value stands behind y in a column with"),
    "no header": ("CCO,1\nC,2\n", "y", r"no column named smiles \(does it begin with a header\?\); .* one of: CCO, 1"),
    "one line": (b"\0" * 300_000, "y", "a.csv line 1 has more than 100,000 characters"),
    "a lone quote": (
        HEADER + 'C,1\n"CC,2\n',
        "logS",
        "line 3: damaged line: a quote that is not closed within 3 lines",
    ),
    "NUL": (b"smiles,logS\nC,1\x002\n", "logS", "a.csv line 2: damaged line: a NUL byte"),
    "endless": ("smiles,logS\n" + "C" * 200_000 + ",1\n", "logS", "line 2: damaged line: 100,000 characters or more"),
    "header alone": (HEADER, "logS", "a.csv.* holds no SMILES"),
    "Excel": (b"PK\x03\x04\x14\x00", "logS", r"a.csv is no text but an Excel file.*; save the sheet as CSV"),
    "Parquet": (b"PAR1\x15\x04\xff", "logS", "a.csv is no text but a Parquet file; write it as CSV"),
    "binary": (b"\x01\x02\x03\n\x04", "logS", "a.csv line 1 is no text"),
    "web page": ("<!DOCTYPE html>\n<html>", "logS", "a.csv is no text but a web page; download the file itself"),
}


@PATHS
@pytest.mark.parametrize("case", READ)
def test_what_is_read_is_what_was_meant(tmp_path, load, case):
    content, target, smiles, labels = READ[case]
    store = load(write(tmp_path, content), target)
    y = np.asarray(store.fields["y"])[:, 0]
    known = np.flatnonzero(np.isfinite(y))
    assert y[known].tolist() == labels
    assert [decode_texts(store, "smiles")[item] for item in known] == smiles
    assert store.info["failures"]["count"] == 0


@PATHS
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(tmp_path, load, case):
    content, target, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        load(write(tmp_path, content), target)


@PATHS
@pytest.mark.parametrize("value", ["2", "-1", "0.5"])
def test_classes_are_0_or_1(tmp_path, load, value):
    path = write(tmp_path, f"smiles,active\nC,0\nCC,1\nCCC,{value}\n")
    with pytest.raises(ValueError, match=f"a.csv line 4: active is {value}, but a class is 0 or 1; write"):
        load(path, "active", "binary")
    assert load(write(tmp_path, "smiles,active\nC,0\nCC,1.0\nCCC,\n"), "active", "binary").info["targets"]


@PATHS
def test_what_is_given_is_taken(tmp_path, load, capsys):
    path = write(tmp_path, "Structure|logS|na\xe9ve\nCCO|1|\xe9\n".encode("cp1250"))
    store = load(path, "logS", smiles_column="structure", delimiter="|", encoding="cp1250")
    assert decode_texts(store, "smiles") == ["CCO"] and "UTF-8" not in capsys.readouterr().err
    for choice, sentence in {
        "delimiter": "data.delimiter=xx: give one character, or comma, semicolon or tab",
        "encoding": "data.encoding=xx: there is no such encoding; try utf-8, cp1252 or utf-16",
        "smiles_column": "no column 'xx'; pass data.smiles_column, one of: ",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            load(path, "logS", **{choice: "xx"})


def test_a_run_of_text_takes_what_is_given(tmp_path):
    path = write(tmp_path, "Structure|caf\xe9\nCCO|\xe9\n".encode("cp1250"))
    chosen = DataConfig("file", path=str(path), smiles_column="Structure", delimiter="|", encoding="cp1250", workers=1)
    store = load_corpus("file", path, tmp_path / "cache", progress=False, **chosen.corpus_options())
    assert decode_texts(store, "smiles") == ["CCO"]


@PATHS
def test_smarts_are_no_molecules(tmp_path, load):
    store = load(write(tmp_path, HEADER + "[#6]C,1\nCC,2\nC#[CH],3\n"), "logS")
    assert decode_texts(store, "smiles") == ["CC", "C#C"]
    assert store.info["failures"]["list"][0][2].startswith("SMARTS, no SMILES: [# stands for any atom")


ROWS = "smiles,name,logS\nCCO,a,1\n,b,2\nCC OC,c,3\nCCO .Cl,d,4\nC1CC,e,5\nOCC,f,6\nC,g,\nC\xa0C,h,7\nCCC,i,8\n"


def test_both_keep_and_leave_out_the_same_rows(tmp_path):
    path = write(tmp_path, ROWS)
    graphs, text = as_graphs(path, "logS"), as_text(path, "logS")
    failures = graphs.info["failures"]["list"]
    assert failures == text.info["failures"]["list"]
    assert [failure[:2] for failure in failures] == [
        *([3, "b"], [4, "CC OC"], [5, "CCO .Cl"], [6, "C1CC"], [9, "C\xa0C"]),
    ]
    blank = "a blank inside of the SMILES, and what stands behind it is no CXSMILES block |...|"
    reasons = ["no SMILES", blank, blank, "RDKit cannot parse the SMILES", "the SMILES have characters beyond ASCII"]
    assert [failure[2] for failure in failures] == reasons
    assert decode_texts(graphs, "smiles") == ["CCO", "CCO", "C", "CCC"]
    assert decode_texts(text, "smiles") == ["CCO", "CCO", "CCC"] and text.info["left out"] == {"without label": 1}
    assert np.asarray(text.fields["y"])[:, 0].tolist() == [1, 6, 8]


def test_every_row_keeps_its_name_and_its_cells(tmp_path):
    table = read_table(write(tmp_path, ROWS + "CF,j\n\nCCl,,9\n"))
    assert table.header == ["smiles", "name", "logS"] and len(table.rows) == 11
    assert [row.line for row in table.rows] == [*range(2, 12), 13]
    assert [row.name for row in table.rows] == [*"abcdefghij", "13"]
    assert table.rows[1].cells == ["", "b", "2"] and table.rows[1].entry.reason == "no SMILES"
    assert table.rows[3].smiles == "CCO .Cl" and isinstance(table.rows[3].entry, Failure)
    assert table.rows[9].cells == [""] * 3 and "row has 2 cells, header 3" in table.rows[9].entry.reason


def test_names_in_smi_files(tmp_path):
    path = write(tmp_path, "CC OC\nCCO ethyl alcohol\nCCO .Cl\nC[CH2] |^1:1| ethyl\nC\t.5 M\n", "a.smi")
    rows = read_table(path).rows
    assert [(row.smiles, row.name) for row in rows] == [
        *[("CC", "OC"), ("CCO", "ethyl alcohol"), ("CCO", ".Cl"), ("C[CH2] |^1:1|", "ethyl"), ("C", ".5 M")],
    ]
    assert [getattr(row.entry, "reason", "")[:30] for row in rows] == ["", "", "a blank inside of the SMILES? ", "", ""]


def test_lines_that_are_not_as_the_others(tmp_path, capsys):
    """One damaged line among many of UTF-8 is damage; most of them are another encoding, which is said once."""
    good = write(tmp_path, "smiles,name\nC,\xe9\nCC,\xe8\n".encode() + b"CCC,\xe9\n", "good.csv")
    assert [type(row.entry).__name__ for row in read_table(good).rows] == ["Line", "Line", "Failure"]
    latin = write(tmp_path, b"smiles,name\n" + b"C,x\n" * 3 + b"CC,caf\xe9\n", "latin.csv")
    assert read_table(latin).rows[3].name == read_table(latin).rows[3].name == "caf\xe9"
    said = capsys.readouterr().err
    assert said == "latin.csv is no UTF-8 and is read as cp1252; encoding gives another encoding\n"


def test_a_table_that_is_cut(tmp_path):
    whole = gzip.compress((HEADER + "".join(f"{'C' * (1 + row % 90)},{row}\n" for row in range(20_000))).encode())
    path = write(tmp_path, whole[: len(whole) // 2], "a.csv.gz")
    for load in (as_graphs, as_text):
        with pytest.raises(ValueError, match=r"a.csv.gz (line \d+: the file )?is damaged (from|or cut short after l)"):
            load(path, "logS")


def test_the_best_of_several_columns_is_said(tmp_path, capsys):
    path = write(tmp_path, "canonical_smiles,SMILES,y\nC,CC,1\n", "several.csv")
    assert read_table(path).rows[0].smiles == read_table(path).rows[0].smiles == "CC"
    said = "several.csv: SMILES are those of the column 'SMILES', not of 'canonical_smiles'; smiles_column chooses\n"
    assert capsys.readouterr().err == said
