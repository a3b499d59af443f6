import gzip
import zipfile

import pytest

from ipu_chem.data.files import table as lines
from ipu_chem.data.files.layout import Layout, TableOptions, read_layout
from ipu_chem.data.files.table import Failure, parse, read_chunks, read_smiles_file
from ipu_chem.data.files.text import DAMAGE, LONGEST, count_lines


def read(path, limit=0, with_split=False, **options):
    """Every line of a file as parsed."""
    layout = read_layout(path, TableOptions(**options), with_split)
    return [found for chunk in read_chunks(path, layout, limit) for record in chunk for found in parse(record, layout)]


def smiles(path, **options):
    """(line, SMILES) of a file without failures."""
    found = read(path, **options)
    assert not [line for line in found if isinstance(line, Failure)]
    return [(line.line, line.smiles) for line in found]


def failures(path, **options):
    return {line.line: line.reason for line in read(path, **options) if isinstance(line, Failure)}


FILES = {
    "a.smi": b"CCO ethanol, dry\n\n# a comment\n  \nC\n",
    "header.smi": b"# made by hand\nSMILES name\nCCO\tethanol\n\r\nC",
    "list.txt": b"CCO\n\n\n\nC\n",
    "mark.smi": b"\xef\xbb\xbfCCO\n\n\n\nC\n",
    "a.csv": b"id,Smiles\r\n1,CCO\r\n\r\n\r\n2, C \r\n",
    "mark.csv": b'\xef\xbb\xbfsmiles,y\n"CCO",1\n\n\nC,2\n',
    "a.tsv": b"smiles\ty\nCCO\t1\n\n\nC\t2\n",
    # ChEMBL's chemreps
    "c.txt": b"chembl_id\tcanonical_smiles\tstandard_inchi\nCHEMBL1\tCCO\tInChI\n\n\nCHEMBL2\tC\tInChI\n",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", ["", ".gz", ".zip"])
def test_every_kind_of_file(tmp_path, name, packed):
    path = tmp_path / (name + packed)
    if packed == ".gz":
        path.write_bytes(gzip.compress(FILES[name]))
    elif packed == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/._x", b"")
            archive.writestr(f"folder/{name}", FILES[name])
    else:
        path.write_bytes(FILES[name])
    found = smiles(path)
    assert [text for _, text in found] == ["CCO", "C"]
    assert found[1][0] == 5 and found[0][0] == (1 if name in ("a.smi", "list.txt", "mark.smi") else found[0][0])
    assert count_lines(path) == FILES[name].count(b"\n")


def test_column_of_choice(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,canonical_smiles,structure\nC,CC,CCC\n")
    assert smiles(path) == [(2, "C")]
    assert smiles(path, smiles_column="structure") == [(2, "CCC")]


def test_limit_counts_molecules(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("smiles\n\nC\n# no\nCC\nCCC\n")
    assert [line.line for line in read(path, limit=2)] == [3, 5]


def test_cells_with_line_breaks(tmp_path):
    """The published table of ZINC 250k writes one after every SMILES."""
    path = tmp_path / "a.csv"
    path.write_text('smiles,logP\n"CCO\n",1\n"C\n\n",2\nCC,3\n')
    assert smiles(path) == [(2, "CCO"), (4, "C"), (7, "CC")]


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_a_stray_quote_costs_no_neighbor(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(lines, "CHUNK", chunk)
    path = tmp_path / "a.csv"
    path.write_text('smiles,name\nC,1/2" pipe\nCC,two\nCCC,1/4" pipe\n"CCCC,three\nO,four\nN,five\nOO,six\nNN,seven\n')
    found = read(path)
    assert {line.line: line.smiles for line in found if not isinstance(line, Failure)} == {
        **{2: "C", 3: "CC", 4: "CCC"},
        **{6: "O", 7: "N", 8: "OO", 9: "NN"},
    }
    assert failures(path) == {5: "damaged line: a quote that is not closed within 3 lines"}


def test_damaged_lines_are_failures(tmp_path):
    path = tmp_path / "a.csv"
    long = b"C" * LONGEST + b",1\n"
    path.write_bytes("smiles,ä\nC,ö\nCC\n".encode() + b"\xff\xfe,1\n" + long + b"C\x00C,1\nCCC,2\nCC")
    assert [line.smiles for line in read(path) if not isinstance(line, Failure)] == ["C", "CCC"]
    assert failures(path) == {
        3: "row has 1 cell, header 2 (a line that is cut?)",
        4: "damaged line: not UTF-8",
        5: "damaged line: 100,000 characters or more",
        6: "damaged line: a NUL byte",
        8: "row has 1 cell, header 2 (a line that is cut?)",
    }
    (tmp_path / "a.smi").write_bytes(b"C\n\xff\n" + long * 3 + b"CC\n")
    assert list(failures(tmp_path / "a.smi")) == [2, 3, 4, 5]


def test_split_of_moses(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("SMILES,SPLIT\nC,train\nCC,test\nCCC,test_scaffolds\nCCCC,valid\n")
    found = read(path, with_split=True)
    assert [line.split for line in found[:3]] == [0, 1, 2]
    assert found[3] == Failure(5, "CCCC", "damaged line: its split is none of train, test, test_scaffolds")
    assert read_layout(path).split == -1 and read_layout(path, with_split=True).split == 1


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("empty.smi", b"", "is empty"),
        ("blank.smi", b"\n# nothing\n", "holds no SMILES"),
        ("a.sdf", b"x", r"SMILES are read from .csv, .tsv, .smi, .txt files, .*write the SMILES of the structures"),
        ("a.csv", b"structure,y\nC,1\n", "has no column named smiles; pass smiles_column, one of: structure, y"),
        ("notgzip.smi.gz", b"CCO\n", "cannot be read"),
        ("cut.csv.gz", gzip.compress(b"smiles\nC\n", mtime=0)[:12], "cannot be read"),
        ("a.zip", b"no zip", "cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.* {sentence}"):
        read_layout(tmp_path / name)


def test_bad_choices(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_layout(tmp_path / "none.smi")
    (tmp_path / "a.smi").write_text("C\n")
    with pytest.raises(ValueError, match="smiles_column=x is for tables; a .smi file has no columns"):
        read_layout(tmp_path / "a.smi", TableOptions("x"))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.smi", "C\n")
        archive.writestr("b.smi", "C\n")
    with pytest.raises(ValueError, match="two.zip holds a.smi, b.smi; a .zip of SMILES holds one file"):
        read_layout(tmp_path / "two.zip")


def test_a_cut_file_gives_its_whole_chunks_first(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK", 100)
    path = tmp_path / "a.smi.gz"
    whole = gzip.compress(b"".join(b"C" * (1 + i % 97) + b" %d\n" % (i * i) for i in range(20_000)))
    path.write_bytes(whole[: len(whole) // 2])
    chunks = []
    with pytest.raises(DAMAGE):
        chunks.extend(read_chunks(path, Layout()))  # keeps what came before the error
    assert 10 < len(chunks) < 200 and all(len(chunk) == 100 for chunk in chunks)


def test_the_same_lines_as_the_reader_of_small_files(shared_data):
    for name in ("chembl30_valid.csv.gz", "moses_train5k.smi.gz"):
        path = shared_data / "smiles" / name
        assert read(path) == read_smiles_file(path) and not failures(path)
