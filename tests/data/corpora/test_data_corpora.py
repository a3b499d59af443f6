import subprocess
import sys
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from ipu_chem.data.corpora import CORPORA, corpus_in_memory, describe_corpus, encode_smiles, load_corpus
from ipu_chem.data.corpora.assemble import first_of_each
from ipu_chem.data.corpora.sources import Source
from ipu_chem.data.molecule import decode_text, decode_texts
from ipu_chem.data.representations.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[3]
QUIET = dict(workers=1, progress=False)


def selfies_of(store, item):
    return "".join(store.info["symbols"][index] for index in store.ragged("symbols")[item])


@pytest.fixture(scope="module")
def nci(tmp_path_factory):
    """400 lines of nci, encoded once."""
    return load_corpus("nci", cache=tmp_path_factory.mktemp("nci"), limit=400, **QUIET)


def test_molecules_come_back_from_their_symbols(nci):
    import selfies
    from rdkit import Chem

    assert len(nci) > 380
    for item in range(len(nci)):
        canonical = decode_text(nci, "smiles", item)
        assert Chem.CanonSmiles(canonical) == canonical
        decoded = Chem.MolFromSmiles(selfies.decoder(selfies_of(nci, item)))
        # The encoder may choose a tautomer's stereochemistry that RDKit then drops; atoms and bonds are the same.
        assert Chem.MolToSmiles(decoded, isomericSmiles=False) == Chem.MolToSmiles(
            Chem.MolFromSmiles(canonical), isomericSmiles=False
        )
        assert nci["heavy_atoms"][item] == decoded.GetNumHeavyAtoms()


def test_the_store_counts_what_it_holds(nci):
    info = nci.info
    assert info["lines"] == 400 == len(nci) + info["duplicates"] + info["failures"]["count"]
    assert nci["symbols"].values.dtype == np.uint8 and nci["heavy_atoms"].dtype == np.uint16
    counts = np.bincount(nci["symbols"].values, minlength=len(info["symbols"]))
    assert counts.tolist() == info["symbol_counts"] == sorted(counts.tolist(), reverse=True)
    assert counts.min() > 0 and len(set(info["symbols"])) == len(counts)
    assert (np.diff(nci["line"]) > 0).all() and nci["line"].dtype == np.int64
    assert len(set(decode_texts(nci, "smiles"))) == len(nci)
    assert {"name", "source", "licence", "citation", "versions", "options"} <= set(info)


def test_a_tokenizer_takes_the_store(nci):
    tokenizer = Tokenizer.build(nci.info["symbols"])
    ids = tokenizer.encode_store(nci)
    assert len(ids) == len(nci) and tokenizer.decode(ids[7]) == selfies_of(nci, 7)


def test_failures_and_duplicates(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,y\nCCO,1\nC1CC,1\n,1\nOCC,1\n*,1\nCC\nc1ccccc1.Cl,1\nC(C)O,1\n[CH5],1\n")
    store = load_corpus("file", path, tmp_path / "cache", **QUIET)
    assert decode_texts(store, "smiles") == ["CCO", "Cl.c1ccccc1"] and store["line"].tolist() == [2, 8]
    assert store.info["duplicates"] == 2 and store.info["lines"] == 9
    assert store.info["failures"]["list"] == [
        [3, "C1CC", "RDKit cannot parse the SMILES"],
        [4, "", "no SMILES"],
        [6, "*", "selfies cannot encode the molecule"],
        [7, "CC", "row has 1 cell, header 2 (a line that is cut?)"],
        [10, "[CH5]", "RDKit cannot parse the SMILES"],
    ]
    assert selfies_of(store, 1) == "[Cl].[C][=C][C][=C][C][=C][Ring1][=Branch1]"


def test_first_of_each():
    random = np.random.default_rng(0)
    digests = random.integers(0, 6, (500, 2)).astype(np.uint64)  # equal words in one column alone, too
    seen, expected = set(), []
    for row in map(tuple, digests.tolist()):
        expected.append(row not in seen)
        seen.add(row)
    assert first_of_each(digests).tolist() == expected
    assert first_of_each(digests[:1]).tolist() == [True] and first_of_each(digests[:0]).tolist() == []


def test_more_symbols_than_a_byte_tells_apart(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("".join(f"[{mass}CH3]O\n" for mass in range(1, 300)))
    store = load_corpus("file", path, tmp_path / "cache", **QUIET)
    assert store["symbols"].values.dtype == np.uint16 and store.info["symbols"][0] == "[O]"
    assert len(store.info["symbols"]) == 300 and selfies_of(store, 298) == encode_smiles("[299CH3]O")[1]


def test_stereochemistry_is_an_option(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("C[C@H](N)O\nC[C@@H](N)O\nC/C=C/C\n[13CH4]\n")
    with_it = load_corpus("file", path, tmp_path / "cache", **QUIET)
    without = load_corpus("file", path, tmp_path / "cache", stereo=False, **QUIET)
    assert len(with_it) == 4 and with_it.info["duplicates"] == 0
    assert decode_texts(without, "smiles") == ["CC(N)O", "CC=CC", "[13CH4]"] and without.info["duplicates"] == 1
    assert encode_smiles("C[C@H](N)O", stereo=False) == ("CC(N)O", "[C][C][Branch1][C][N][O]")


def test_content_decides_which_store_is_taken(tmp_path, capsys):
    path = tmp_path / "a.smi"
    path.write_text("C\nCC\nCCC\n")
    load = partial(load_corpus, "file", path, tmp_path / "cache", progress=False)
    first = load(workers=1)
    assert load(workers=2).fingerprint() == first.fingerprint()
    assert "prepared before" in capsys.readouterr().out
    assert len(load(limit=2)) == 2
    path.write_text("C\nCC\nCCO\n")
    assert decode_texts(load(), "smiles") == ["C", "CC", "CCO"]
    assert len(list((tmp_path / "cache").iterdir())) == 3  # parts are removed


def test_split_of_moses_is_kept(tmp_path):
    (tmp_path / "dataset_v1.csv").write_text("SMILES,SPLIT\nCCO,train\nCCN,test\nOCC,test\nCCC,test_scaffolds\n")
    store = load_corpus("moses", tmp_path, tmp_path / "cache", **QUIET)
    assert store["split"].tolist() == [0, 1, 2] and store["split"].dtype == np.uint8
    assert "MIT" in store.info["licence"] and "Polykovskiy" in store.info["citation"][0]
    path = tmp_path / "test.csv"
    path.write_text("SMILES\nCCO\n")
    assert "split" not in load_corpus("moses", path, tmp_path / "cache", **QUIET)


def test_corpus_in_memory():
    smiles = ["CCO", "C1CC", None, " OCC ", "", "c1ccccc1"]
    store, failures = corpus_in_memory(smiles, names=list("abcdef"))
    assert decode_texts(store, "smiles") == ["CCO", "CCO", "c1ccccc1"] and decode_texts(store, "name") == [
        "a",
        "d",
        "f",
    ]
    assert store["line"].tolist() == [1, 4, 6] and store.info["duplicates"] == 0
    assert [(one.line, one.reason) for one in failures] == [
        (2, "RDKit cannot parse the SMILES"),
        (3, "no text but NoneType"),
        (5, "no SMILES"),
    ]
    many = ["C" * (1 + index % 30) for index in range(1100)]
    assert corpus_in_memory(many, workers=2)[0].fingerprint() == corpus_in_memory(many)[0].fingerprint()
    with pytest.raises(ValueError, match="no molecule of the corpus could be encoded; the first failed with: RDKit"):
        corpus_in_memory(["C1CC"])
    with pytest.raises(ValueError, match="2 names for 1 SMILES"):
        corpus_in_memory(["C"], ["a", "b"])
    with pytest.raises(ValueError, match="takes a list of SMILES"):
        corpus_in_memory("CCO")


def test_encode_smiles():
    assert encode_smiles("OC(=O)C") == ("CC(=O)O", "[C][C][=Branch1][C][=O][O]")
    for smiles, reason in {"C1CC": "RDKit cannot parse", "": "no SMILES", "*C": "selfies cannot encode"}.items():
        with pytest.raises(ValueError, match=f"'{smiles}'.*: {reason}".replace("*C'", r"\*C'")):
            encode_smiles(smiles)


def test_a_symbol_that_does_not_decode_is_a_failure():
    # The encoder writes any number of hydrogens, the decoder takes no more than eight.
    with pytest.raises(ValueError, match=r"selfies cannot decode its own symbol \[FeH9\]"):
        encode_smiles("[FeH9]")


def test_description(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("CCO\nOCC\nC1CC\nCCCC\n")
    lines = describe_corpus(load_corpus("file", path, tmp_path / "cache", **QUIET))
    assert lines[:4] == [
        f"molecules: 2 of 4 lines of {path}",
        "duplicates left out: 1",
        "failures: 1",
        "  1 RDKit cannot parse the SMILES",
    ]
    assert lines[4] == "tokens of selfies: 2 different (2 of them fewer than 10 times), [C] 85.7%, [O] 14.3%"
    assert lines[5].startswith("tokens of a molecule: mean 3.5, median 3.5, 99% up to 3.99, at most 4, 7 in all")
    assert lines[-1] == "sample: CCCC  [C][C][C][C]"


def test_wrong_names_and_places(tmp_path):
    load = partial(load_corpus, cache=tmp_path / "cache", **QUIET)
    with pytest.raises(ValueError, match=r"no corpus 'mose' \(did you mean 'moses'\?\); there are nci, moses"):
        load("mose")
    with pytest.raises(
        ValueError, match=r"corpus nci has no option 'sterio' \(did you mean 'stereo'\?\); it has stereo"
    ):
        load("nci", sterio=False)
    with pytest.raises(ValueError, match="limit=-1 and workers=1 are 0 or more"):
        load("nci", limit=-1)
    with pytest.raises(ValueError, match=r"there is no file .*none.csv \(moses is dataset_v1.csv\)"):
        load("moses", tmp_path / "none.csv")
    with pytest.raises(ValueError, match="corpus file is molecules of the user's own; pass the path"):
        load("file")
    with pytest.raises(ValueError, match="corpus chembl is .*chemreps.txt.gz.*; pass the path"):
        load("chembl")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache folder .* cannot be made"):
        load_corpus("nci", cache=tmp_path / "file" / "cache")
    (tmp_path / "a.csv").write_text("smiles\n")
    with pytest.raises(ValueError, match="a.csv holds no SMILES"):
        load("file", tmp_path / "a.csv")


@pytest.fixture()
def server(tmp_path):
    """A folder served over HTTP, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download(tmp_path, monkeypatch, server):
    folder, url = server
    (folder / "x.smi").write_text("CCO\nC\n")
    digest = "3bd2a66ae2f0ba0b3b2a6a1d0b7d4c3a5e1df0f2"
    source = Source("two molecules", "none", (), "x.smi", f"{url}/x.smi", 6)
    load = partial(load_corpus, "small", cache=tmp_path / "cache", **QUIET)
    wrong = {
        "its checksum is sha256:": source._replace(sha256=digest),
        "6 bytes came, not 7": source._replace(bytes=7),
        "404": source._replace(url=f"{url}/y.smi"),
        "refused": source._replace(url="http://127.0.0.1:9/x.smi"),
    }
    for reason, one in wrong.items():
        monkeypatch.setitem(CORPORA, "small", one)
        with pytest.raises(
            ValueError, match=f"cannot be downloaded.*{reason}.*put it at .*cache/x.smi, or pass its path"
        ):
            load()
        assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setitem(CORPORA, "small", source)
    assert len(load()) == 2
    (folder / "x.smi").unlink()
    assert len(load()) == 2  # it is kept


def test_import_needs_numpy_alone():
    code = "import sys, ipu_chem.data.corpora\n"
    code += "print([name for name in ('rdkit', 'selfies', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout == b"[]\n"
