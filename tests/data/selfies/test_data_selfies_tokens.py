"""Own vocabulary: one id for each SELFIES symbol, and a sentence for everything that is none."""

import gzip
import itertools
import json
import re
from typing import Any, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipu_chem.data.molecule import encode_texts
from ipu_chem.data.representations.saved import read_tokenizer, tokenizer_from_dict
from ipu_chem.data.representations.store import encode_known
from ipu_chem.data.representations.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from ipu_chem.data.selfies.symbols import split_symbols
from packing.store import Store

selfies = pytest.importorskip("selfies")

CORPUS = ["[C]", "[=C]", "[Ring1]", "[=Branch1]", "[O]", ".", "[13CH3]", "[N]", "[=13C@@H1+1]"]
ASPIRIN = "[C][C][=Branch1][C][=O][O][C][=C][C][=C][C][=C][Ring1][=Branch1][C][=Branch1][C][=O][O]"
MOLECULES = st.lists(st.sampled_from(CORPUS), min_size=1, max_size=40).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.build(CORPUS)


@pytest.fixture(scope="module")
def real(shared) -> List[str]:
    """SELFIES of 200 molecules of ChEMBL, with charges and stereochemistry, and a salt."""
    with gzip.open(shared / "data" / "smiles" / "chembl30_valid.csv.gz", "rt") as file:
        smiles = [line.split(",")[0] for line in itertools.islice(file, 1, 40_000, 200)]
    return [selfies.encoder(one, strict=False) for one in smiles + ["C[NH3+].[Cl-]"]]


def corpus_store(molecules: List[str], symbols: List[str]) -> Store:
    """A corpus as `ipu_chem.data.corpora` makes it; molecules are called by the letters of the alphabet."""
    items = [[symbols.index(symbol) for symbol in split_symbols(one)] for one in molecules]
    offsets = np.append(0, np.cumsum([len(item) for item in items]))
    smiles, borders = encode_texts([chr(97 + index % 26) for index in range(len(molecules))])
    values = np.array(list(itertools.chain(*items)), np.uint8)
    axes, axis_of = {"tokens": offsets, "smiles": borders}, {"symbols": "tokens", "smiles": "smiles"}
    return Store(axes, {"symbols": values, "smiles": smiles}, axis_of, {"symbols": symbols})


def test_special_symbols_then_the_corpus_then_the_robust_alphabet(tokenizer):
    rest = sorted(selfies.get_semantic_robust_alphabet() - set(CORPUS))
    assert list(tokenizer.symbols) == [PAD, BOS, EOS, UNK, *CORPUS, *rest] and len(rest) > 50
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert list(Tokenizer.build(CORPUS, robust_alphabet=False).symbols) == [PAD, BOS, EOS, UNK, *CORPUS]
    assert tokenizer.vocab_size == len(tokenizer.symbols)


def test_one_id_a_symbol_between_bos_and_eos():
    tokenizer = Tokenizer.build(CORPUS, robust_alphabet=False)
    ids = tokenizer.encode("[C][=C].[13CH3][N]")
    assert ids.tolist() == [1, 4, 5, 9, 10, 11, 2] and ids.dtype == np.uint8
    many = Tokenizer.build(CORPUS + [f"[{n}C]" for n in range(500)])
    assert many.encode("[C][499C]").dtype == np.int16 and many.decode(many.encode("[C][499C]")) == "[C][499C]"


@given(st.lists(MOLECULES, min_size=0, max_size=40))
def test_many_molecules_are_encoded_as_each_of_them(molecules):
    tokenizer = Tokenizer.build(CORPUS, robust_alphabet=False)
    ids = tokenizer.encode_many(molecules)
    expected = [[1, *(4 + CORPUS.index(symbol) for symbol in split_symbols(one)), 2] for one in molecules]
    assert [ids[index].tolist() for index in range(len(ids))] == expected
    assert [tokenizer.decode(ids[index]) for index in range(len(ids))] == molecules


# Pieces that can be put together to sound and to broken SELFIES.
PIECES = ["[", "]", "[C]", "[N]", ".", "[]", "[ ]", "[.]", "C", "\n", "[=C", "[C][N][O]", "[\u00e9]", "[13CH3]", "[Xe]"]
PIECES += ["[=13C@@H1+1]", "[=13C@@H1]"]  # a symbol of more than eight characters, and its beginning


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.integers(0, 40))
def test_a_text_is_encoded_or_refused_wherever_it_stands(text, before):
    tokenizer = Tokenizer.build(CORPUS, robust_alphabet=False)
    batch = ["[C][O]"] * before + [text, "[N]"]
    sound = re.fullmatch(r"(\[[^\[\]\s]+\]|\.)+", text) and all(s in CORPUS for s in split_symbols(text))
    if sound:
        assert tokenizer.decode(tokenizer.encode_many(batch)[before]) == text
    else:
        with pytest.raises(ValueError, match=f"^molecule {before}( |:)"):
            tokenizer.encode_many(batch)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "ibuprofen is empty"),
        (" ", "ibuprofen is empty"),
        ("CCO", "'CCO' looks like SMILES, encode it first: selfies.encoder"),
        ("C[C@H](N)C(=O)[O-]", "looks like SMILES, encode it first"),
        ("[O-][N+](=O)c1ccccc1", "looks like SMILES, encode it first"),
        ("[C][=C", r"is damaged, no symbol begins at character 3 \('\[=C'\)"),
        ("[C]=C]", "is damaged, no symbol begins at character 3"),
        ("[C][[N]]", "is damaged, no symbol begins at character 3"),
        ("[C][=C]xyz[C]", "is damaged, no symbol begins at character 7"),
        ("[C][]", "is damaged, no symbol begins at character 3"),
        ("[C]\n", "is damaged, no symbol begins at character 3"),
        ("[C][ N]", "is damaged, no symbol begins at character 3"),
        ("[=C]C[Ring1]", "is damaged, no symbol begins at character 4"),
        (None, "ibuprofen is no text but NoneType None"),
        (1.5, "ibuprofen is no text but float 1.5"),
        ("[C][Xe][C]", r"ibuprofen: token '\[Xe\]' is not in the vocabulary; .*data.unknown=map"),
        ("[C][PAD]", r"token '\[PAD\]' is not in the vocabulary"),
        ("[Na+].[Cl-]", r"token '\[Na\+\]' is not .* not SMILES"),
    ],
)
def test_what_is_no_selfies_is_refused_by_name(tokenizer, text: Any, complaint):
    with pytest.raises(ValueError, match=complaint):
        tokenizer.encode(text, name="ibuprofen")
    molecules, names = ["[C]"] * 3000, [f"m{index}" for index in range(3000)]
    molecules[2222], names[2222] = text, "ibuprofen"
    with pytest.raises(ValueError, match=complaint):
        tokenizer.encode_many(molecules, names)


def test_unknown_symbols_can_be_mapped_and_are_counted():
    tokenizer = Tokenizer.build(CORPUS, robust_alphabet=False, unknown="map")
    ids = tokenizer.encode_many(["[C][Xe][Xe]", "[C]", "[Kr][=123XeH1@@+1]"])
    assert ids.values.tolist() == [1, 4, 3, 3, 2, 1, 4, 2, 1, 3, 3, 2]
    assert tokenizer.unknown_count == 4
    assert tokenizer.encode("[Xe]").tolist() == [1, 3, 2] and tokenizer.unknown_count == 5
    store = corpus_store(["[C][Kr]", "[Kr]"], ["[C]", "[Kr]"])
    assert tokenizer.encode_store(store).values.tolist() == [1, 4, 3, 2, 1, 3, 2] and tokenizer.unknown_count == 7


@given(st.lists(MOLECULES, min_size=1, max_size=30))
def test_a_corpus_is_encoded_as_its_molecules(molecules):
    tokenizer = Tokenizer.build(CORPUS[::-1], robust_alphabet=False)
    found, expected = tokenizer.encode_store(corpus_store(molecules, CORPUS)), tokenizer.encode_many(molecules)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert found.values.dtype == expected.values.dtype == np.uint8


def test_a_large_corpus_is_encoded_in_blocks(monkeypatch):
    monkeypatch.setattr("ipu_chem.data.representations.store._BLOCK", 7)
    molecules = ["".join(CORPUS[: 1 + index % 9]) for index in range(50)]
    tokenizer = Tokenizer.build(CORPUS)
    np.testing.assert_array_equal(
        tokenizer.encode_store(corpus_store(molecules, CORPUS)).values, tokenizer.encode_many(molecules).values
    )
    with pytest.raises(ValueError, match=r"^molecule 20 \(u\): token '\[Fr\]' is not"):
        tokenizer.encode_store(corpus_store(["[C]"] * 20 + ["[C][Fr]"], CORPUS + ["[Fr]"]))


def test_symbols_that_no_molecule_has_do_not_matter(tokenizer):
    assert tokenizer.encode_store(corpus_store(["[C]"], ["[C]", "[Fr]"])).values.tolist() == [1, 4, 2]


def test_of_a_corpus_those_are_encoded_that_the_vocabulary_can_write(tokenizer):
    symbols = ["[C]", "[Fr]", "[O]", "[Ra]"]
    molecules = ["[C][O]", "[C][Fr][Ra]", "[O]", "[Ra][C][Fr]", "[C]"]
    ids, kept, refused = encode_known(tokenizer, corpus_store(molecules, symbols))
    assert kept.tolist() == [0, 2, 4] and list(map(list, ids)) == [
        tokenizer.encode(molecules[i]).tolist() for i in kept
    ]
    assert {item: reason.split()[1] for item, reason in refused.items()} == {1: "'[Fr]'", 3: "'[Ra]'"}
    ids, kept, refused = encode_known(tokenizer, corpus_store(["[Fr]"], symbols))
    assert len(ids) == len(kept) == 0 and list(refused) == [0]


def test_stores_that_hold_no_text(tokenizer):
    with pytest.raises(ValueError, match="the store holds no tokens"):
        tokenizer.encode_store(Store({"nodes": np.array([0, 1])}, {"z": np.ones(1)}, {"z": "nodes"}))
    empty = corpus_store(["[C]", "[O]"], CORPUS)
    empty.axes["tokens"][:] = [0, 2, 2]
    with pytest.raises(ValueError, match=r"molecule 1 \(b\) is empty"):
        tokenizer.encode_store(empty)


def test_decoding_stops_at_eos_and_leaves_special_symbols_out(tokenizer):
    assert tokenizer.decode([1, 4, 3, 0, 5, 2, 4, 4]) == "[C][=C]"
    assert tokenizer.decode(np.array([4, 5], np.uint8)) == "[C][=C]" and tokenizer.decode([2]) == ""
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"id {wrong} is outside the vocabulary of {tokenizer.vocab_size}"):
            tokenizer.decode([wrong])


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    mapping = Tokenizer.build(CORPUS, unknown="map")
    mapping.save(tmp_path / "tokenizer.json")
    again = read_tokenizer(tmp_path / "tokenizer.json")
    assert type(again) is Tokenizer and again.symbols == mapping.symbols and again.unknown == "map"
    assert again.to_dict() == mapping.to_dict() and again.fingerprint() == mapping.fingerprint()
    assert mapping.fingerprint() == tokenizer.fingerprint() != Tokenizer.build(CORPUS[::-1]).fingerprint()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "kind": "bpe"}', '{"format": 9, "kind": "selfies"}', "\u00e9"]
)
def test_other_files_are_no_tokenizers(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="other.json is no tokenizer written by Tokenizer.save"):
        read_tokenizer(path)


def test_incomplete_descriptions_are_refused(tokenizer):
    whole = tokenizer.to_dict()
    with pytest.raises(ValueError, match="unknown entries.*color"):
        tokenizer_from_dict({**whole, "color": 1})
    with pytest.raises(ValueError, match="unknown='maybe' is none of error, map"):
        tokenizer_from_dict({**whole, "unknown": "maybe"})
    with pytest.raises(ValueError, match=r"'\[C\]' is in the vocabulary twice"):
        Tokenizer([*whole["symbols"], "[C]"])
    with pytest.raises(ValueError, match=r"the vocabulary has no \[EOS\]"):
        Tokenizer([PAD, BOS, UNK, "[C]"])


@pytest.mark.parametrize("wrong", ["C", "[C][C]", "[UNK]", "[C", ""])
def test_a_vocabulary_is_made_of_single_symbols(wrong):
    with pytest.raises(ValueError, match=f"^'{re.escape(wrong)}' is no single token of SELFIES"):
        Tokenizer.build(["[C]", wrong])


def test_lists_are_lists(tokenizer):
    with pytest.raises(ValueError, match="encode_many takes a list"):
        tokenizer.encode_many("[C]")
    with pytest.raises(ValueError, match="1 names for 2 molecules"):
        tokenizer.encode_many(["[C]", "[C]"], ["a"])
    assert len(tokenizer.encode_many([])) == 0


def test_a_missing_selfies_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "selfies", None)
    with pytest.raises(ValueError, match="pip install selfies"):
        Tokenizer.build(CORPUS)
    assert Tokenizer.build(CORPUS, robust_alphabet=False).vocab_size == 13


def test_real_molecules_come_back(real):
    symbols = sorted({symbol for one in real for symbol in split_symbols(one)})
    tokenizer = Tokenizer.build(symbols)
    ids = tokenizer.encode_many(real)
    assert [tokenizer.decode(ids[index]) for index in range(len(ids))] == real
    np.testing.assert_array_equal(ids.lengths, [selfies.len_selfies(one) + 2 for one in real])
    assert any("@" in symbol for symbol in symbols) and "." in symbols


def test_auto_tokenizer_gives_the_same_ids(real, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.build(dict.fromkeys(s for one in real for s in split_symbols(one)), unknown="map")
    tokenizer.save_huggingface(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    molecules = [*real, ASPIRIN, "[C][Xe].[Kr]"]
    ids = tokenizer.encode_many(molecules)
    batch = theirs(molecules)
    assert batch["input_ids"] == [ids[index].tolist() for index in range(len(ids))]
    assert set(batch) == {"input_ids", "attention_mask"}  # token types would be added to GPT-Neo's input
    assert [theirs.decode(one, skip_special_tokens=True) for one in batch["input_ids"][:-1]] == molecules[:-1]
    assert len(theirs) == tokenizer.vocab_size
    special = (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id)
    assert special == (0, 1, 2, 3) and theirs.pad_token == PAD
    padded = theirs(["[C]", "[C][C]"], padding=True)
    assert padded["input_ids"][0][-1] == 0 and padded["attention_mask"][0] == [1, 1, 1, 0]


def test_huggingface_files_come_back_as_a_tokenizer(tokenizer, tmp_path):
    from ipu_chem.data.representations.saved import tokenizer_from_huggingface

    tokenizer.save_huggingface(tmp_path)
    again = tokenizer_from_huggingface(tmp_path)
    assert type(again) is Tokenizer and again.fingerprint() == tokenizer.fingerprint()
    broken = json.loads((tmp_path / "tokenizer.json").read_text())
    broken["model"]["vocab"]["[C]"] = 9_999
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="tokenizer.json has gaps in its ids"):
        tokenizer_from_huggingface(tmp_path)
    with pytest.raises(ValueError, match="there is no file"):
        tokenizer_from_huggingface(tmp_path / "nowhere")
