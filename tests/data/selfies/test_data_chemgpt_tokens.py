"""The published vocabulary of ChemGPT: 2.x symbols under the ids of their 1.0.4 spelling.

selfies_1_0_4.txt holds SMILES and what selfies 1.0.4 makes of them.
"""

import gzip
import itertools
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from ipu_chem.data.representations.saved import read_tokenizer, tokenizer_from_huggingface
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from ipu_chem.data.selfies.dialect import to_version_1, to_version_2, without_stereo
from ipu_chem.data.selfies.symbols import is_symbol, split_symbols
from tests.data.selfies.test_data_selfies_tokens import ASPIRIN, corpus_store

selfies = pytest.importorskip("selfies")

GOLDEN = [line.split() for line in (Path(__file__).parent / "selfies_1_0_4.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def published(shared) -> Path:
    return shared / "data" / "chemgpt_tokenizer" / "ChemGPT-4.7M"


@pytest.fixture(scope="module")
def tokenizer(published) -> ChemGPTTokenizer:
    return ChemGPTTokenizer.from_published(published)


@pytest.fixture(scope="module")
def theirs(published) -> Any:
    """The published tokenizer itself."""
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(published / "tokenizer.json"))


def smiles_of(shared: Path, name: str, step: int, count: int) -> List[str]:
    with gzip.open(shared / "data" / "smiles" / name, "rt") as file:
        return [line.split(",")[0].strip() for line in itertools.islice(file, 1, 1 + step * count, step)]


def version_1(text: str) -> str:
    return "".join(map(to_version_1, map(without_stereo, split_symbols(text))))


def test_the_translation_is_what_selfies_1_0_4_writes():
    assert len(GOLDEN) > 40
    for smiles, expected in GOLDEN:
        assert version_1(selfies.encoder(smiles, strict=False)) == expected, smiles


def test_both_spellings_of_the_vocabulary(tokenizer):
    from selfies.compatibility import modernize_symbol

    symbols = [symbol for symbol in tokenizer.symbols if is_symbol(symbol)]
    assert len(symbols) == 384  # of 684; the others are pieces
    for symbol in symbols:
        assert to_version_2(symbol) == modernize_symbol(symbol)
        assert to_version_1(to_version_2(symbol)) == symbol
    modern = tokenizer.modern_symbols()
    assert len(set(modern)) == 684 and {"[=Branch1]", "[NH1+1]", "[=Ring2]"} <= set(modern)


@pytest.mark.parametrize(
    "symbol, expected",
    [
        ("[=Branch2]", "[Branch2_2]"),
        ("[#Branch3]", "[Branch3_3]"),
        ("[#Ring1]", "[Expl#Ring1]"),
        ("[NH1]", "[NHexpl]"),
        ("[SiH0]", "[Siexpl]"),
        ("[CH0]", "[Cexpl]"),
        ("[=N-1]", "[=N-expl]"),
        ("[Os-3]", "[Os-3expl]"),
        ("[C@@H1]", "[C@@Hexpl]"),
        ("[13CH3]", "[13CH3expl]"),
        ("[Ring2]", "[Ring2]"),
        ("[nop]", "[nop]"),
    ],
)
def test_one_symbol(symbol, expected):
    assert to_version_1(symbol) == expected
    if symbol != "[SiH0]":  # the longer of two ways to write it
        assert to_version_2(expected) == symbol


@pytest.mark.parametrize(
    "symbol, expected",
    [
        ("[C@@H1]", "[C]"),
        ("[13CH3]", "[C]"),
        ("[=13C]", "[=C]"),
        ("[/Cl]", "[Cl]"),
        ("[\\N@@H1+1]", "[NH1+1]"),
        ("[14CH2-1]", "[CH2-1]"),
        ("[Si@H1]", "[SiH1]"),
        ("[2H]", "[H]"),
        ("[-/Ring2]", "[Ring2]"),
        ("[CH2]", "[CH2]"),
        ("[#Branch1]", "[#Branch1]"),
        ("[=Ring1]", "[=Ring1]"),
    ],
)
def test_a_symbol_without_stereo(symbol, expected):
    assert without_stereo(symbol) == expected


def test_special_ids_are_the_published_ones(tokenizer):
    assert tokenizer.vocab_size == 684
    assert (tokenizer.unk_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    ids = tokenizer.encode(ASPIRIN)
    assert len(ids) == 19 + 2 and ids.dtype == np.int16 and ids[[0, -1]].tolist() == [2, 3]
    assert ids[3] == tokenizer.symbols.index("[Branch1_2]") == 136


def test_ids_are_those_of_the_published_file_for_1_0_4(tokenizer, theirs):
    for smiles, expected in GOLDEN:
        assert tokenizer.encode(selfies.encoder(smiles, strict=False)).tolist() == theirs.encode(expected).ids, smiles
    assert len(theirs.encode(ASPIRIN).ids) == 31 + 2  # what the published file makes of 2.x


def test_no_symbol_of_moses_is_broken_into_pieces(tokenizer, theirs, shared):
    molecules = [selfies.encoder(one) for one in smiles_of(shared, "moses_test.csv.gz", 800, 200)]
    ids = tokenizer.encode_many(molecules)
    assert [ids[index].tolist() for index in range(200)] == [theirs.encode(version_1(one)).ids for one in molecules]
    np.testing.assert_array_equal(ids.lengths, [len(split_symbols(one)) + 2 for one in molecules])
    assert ids.values.min() == 2  # neither [PAD] nor [UNK]
    assert [tokenizer.decode(ids[index]) for index in range(200)] == molecules


def test_without_stereo_the_molecule_is_the_same(tokenizer, shared):
    chem = pytest.importorskip("rdkit.Chem")
    smiles = smiles_of(shared, "zinc250k.smi.gz", 500, 150) + smiles_of(shared, "chembl30_valid.csv.gz", 200, 150)
    smiles += ["[13CH3][C@H](F)Cl", "F/C=C/F", "C/C=C\\C1CC1", "N[C@@]1(C)CC[C@H]([18F])C1", "C[S@](=O)CC", "[14CH3]O"]
    smiles = [one for one in smiles if set(one) & set("@/\\[") and "." not in one]
    assert len(smiles) > 100
    for one in smiles:
        text = tokenizer.decode(tokenizer.encode(selfies.encoder(one, strict=False)))
        flat = chem.MolToSmiles(chem.MolFromSmiles(one), isomericSmiles=False)
        assert chem.MolToSmiles(chem.MolFromSmiles(selfies.decoder(text))) == flat, one


def test_stereo_and_isotopes_can_be_refused(published):
    strict = ChemGPTTokenizer.from_published(published, stereo="error")
    for symbol in ("[C@@H1]", "[/C]", "[13CH3]", "[-/Ring1]"):
        with pytest.raises(ValueError, match="^alanine: symbol .* stereochemistry or isotopes.*stereo='drop'"):
            strict.encode(f"[C]{symbol}", name="alanine")
    assert strict.encode("[C][NH1+1][SiH0]").tolist() == [2, 115, 169, 191, 3]
    with pytest.raises(ValueError, match=r"token '\[Cf\]' is not in the vocabulary"):
        strict.encode("[Cf]")


@pytest.mark.parametrize("fragments, ids", [("largest", [2, 140, 115, 140, 3]), ("map", [2, 115, 0, 140, 115, 140, 3])])
def test_fragments(published, fragments, ids):
    tokenizer = ChemGPTTokenizer.from_published(published, fragments=fragments)
    text = "[C].[O][C][O]"
    assert tokenizer.encode(text).tolist() == ids
    plain = [2, 115, 115, 3]
    assert tokenizer.encode_many(["[C][C]", text, "[C][C]"]).values.tolist() == plain + ids + plain
    store = corpus_store(["[C][C]", text, "[C][C]"], ["[C]", "[O]", "."])
    assert tokenizer.encode_store(store).values.tolist() == plain + ids + plain
    assert tokenizer.unknown_count == (3 if fragments == "map" else 0)
    assert tokenizer.encode("[C].[O]").tolist()[:2] == [2, 115]  # the first of two that are as large


def test_a_dot_alone_is_no_fragment(published):
    with pytest.raises(ValueError, match="^gas is empty"):
        ChemGPTTokenizer.from_published(published, fragments="largest").encode(".", name="gas")


def test_a_symbol_is_translated_once(published, monkeypatch):
    tokenizer = ChemGPTTokenizer.from_published(published)
    before = tokenizer.encode("[C][C@@H1][13C]").tolist()
    monkeypatch.setattr(Tokenizer, "_encode_carefully", None)  # what is known is looked up all at once
    assert tokenizer.encode("[C][C@@H1][13C]").tolist() == before


def test_fragments_are_refused_by_name(tokenizer):
    with pytest.raises(ValueError, match="^salt: it has several fragments.*data.fragments=largest.*data.unknown=map"):
        tokenizer.encode("[C].[O]", name="salt")
    with pytest.raises(ValueError, match=r"^molecule 1 \(b\): it has several fragments"):
        tokenizer.encode_store(corpus_store(["[C]", "[C].[O]"], ["[C]", "[O]", "."]))


def test_symbols_outside_the_published_vocabulary(published, tokenizer):
    with pytest.raises(ValueError, match=r"token '\[Cf\]' is not in the vocabulary"):
        tokenizer.encode("[C][Cf]")
    for piece in ("[SEP]", "[MASK]", "[##C]"):
        with pytest.raises(ValueError, match="is not in the vocabulary"):
            tokenizer.encode(f"[C]{piece}")
    mapping = ChemGPTTokenizer.from_published(published, unknown="map")
    assert mapping.encode("[C][Cf]").tolist() == [2, 115, 0, 3] and mapping.unknown_count == 1
    with pytest.raises(ValueError, match="looks like SMILES"):
        tokenizer.encode("CC(=O)O")


def test_other_spellings_are_read(tokenizer):
    for smiles, old in GOLDEN:
        new = selfies.encoder(smiles, strict=False)
        assert tokenizer.encode(old).tolist() == tokenizer.encode(new).tolist(), smiles
    assert tokenizer.encode("[SiH0]").tolist() == tokenizer.encode("[Si]").tolist()


def test_pieces_that_a_model_writes_are_joined(tokenizer):
    ids = [tokenizer.symbols.index(piece) for piece in ("[C]", "[Branch1_", "##2]", "[N", "##+expl]", "[SEP]", "[C]")]
    assert tokenizer.decode(ids) == "[C][=Branch1][N+1]"


def test_a_saved_tokenizer_keeps_its_policies(published, tmp_path):
    tokenizer = ChemGPTTokenizer.from_published(published / "tokenizer.json", "map", "error", "largest")
    tokenizer.save(tmp_path / "tokens.json")
    again = read_tokenizer(tmp_path / "tokens.json")
    assert isinstance(again, ChemGPTTokenizer) and again.to_dict() == tokenizer.to_dict()
    assert (again.unknown, again.stereo, again.fragments) == ("map", "error", "largest")
    assert again.fingerprint() == ChemGPTTokenizer.from_published(published).fingerprint()
    assert again.encode("[C].[O][NH1]").tolist() == tokenizer.encode("[O][NH1]").tolist()


def test_auto_tokenizer_gives_the_published_ids_for_2_x(published, shared, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = ChemGPTTokenizer.from_published(published, unknown="map", fragments="map")
    tokenizer.save_huggingface(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    molecules = [selfies.encoder(one, strict=False) for one in smiles_of(shared, "zinc250k.smi.gz", 500, 100)]
    molecules += ["[13CH3][C@@H1]", "[=13C@@H1][/13C]", "[2H][O]", "[-/Ring1][\\\\Ring2]", "[Si@@H1][S@@][N@@+1][O-1]"]
    molecules += ["[C].[O]", "[Cf]", "[125I][14CH2-1]", "[Cl@@H1][P@]", "[se]"]
    ids = tokenizer.encode_many(molecules)
    assert theirs(molecules)["input_ids"] == [ids[index].tolist() for index in range(len(ids))]
    assert (theirs.unk_token_id, theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2, 3)
    assert theirs.decode(tokenizer.encode(ASPIRIN).tolist(), skip_special_tokens=True) == ASPIRIN
    again = tokenizer_from_huggingface(tmp_path)
    assert isinstance(again, ChemGPTTokenizer) and again.fingerprint() == tokenizer.fingerprint()
    assert tokenizer_from_huggingface(published).fingerprint() == tokenizer.fingerprint()


def test_other_files_are_no_published_tokenizers(tmp_path):
    Tokenizer.build(["[C]"]).save_huggingface(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer.json has no \[CLS\], \[SEP\], \[MASK\]; it belongs to another"):
        ChemGPTTokenizer.from_published(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is no tokenizer.json with a vocabulary"):
        ChemGPTTokenizer.from_published(tmp_path)
    with pytest.raises(ValueError, match="stereo='keep' is none of drop, error"):
        ChemGPTTokenizer([], stereo="keep")
