"""Representations: molecules as tokens and back; corpora and vocabularies say theirs; sentences for the rest."""

import csv
import gzip
import itertools
import json
import sys

import numpy as np
import pytest
from rdkit import Chem

from ipu_chem.data.corpora import corpus_in_memory, describe_corpus, load_corpus
from ipu_chem.data.corpora.encode import CANONICAL, RANDOM, Manner
from ipu_chem.data.representations.registry import REPRESENTATIONS, representation_named
from ipu_chem.data.representations.saved import read_tokenizer, tokenizer_from_dict, tokenizer_from_huggingface
from ipu_chem.data.representations.store import representation_of
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.generation.molecules import EMPTY, NO_MOLECULE, Decoded, decode_many
from packing.store import Store

QUIET = dict(workers=1, progress=False)
# Stereochemistry, charges, isotopes, fragments, aromatic rings, ring closures of two digits.
MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[C@H](N)C(=O)O",
    "F/C=C/Cl",
    "[13CH3]CO",
    "C[N+](C)(C)CC(=O)[O-]",
    "CC(=O)[O-].[Na+]",
    "c1ccc2[nH]ccc2c1",
    "BrCCBr",
    "C1CC2CCC1CC2",
]
HARD = "C12C3C4C1C5C2C3C45"
LANGUAGES = ["selfies", "smiles"]


def missing_safe() -> str:
    try:
        REPRESENTATIONS["safe"]().versions()
    except ValueError as error:
        return str(error)
    return ""


needs_safe = pytest.mark.skipif(bool(missing_safe()), reason="SAFE was NOT tested: safe-mol is not installed")
each = pytest.mark.parametrize("name", [*LANGUAGES, pytest.param("safe", marks=needs_safe)])


@each
@pytest.mark.parametrize("order", [CANONICAL, RANDOM])
def test_molecules_come_back(name, order):
    store, failures = corpus_in_memory(MOLECULES, manner=Manner(representation=name, atom_order=order))
    assert not failures and representation_of(store) == name == store.info["representation"]
    tokenizer = Tokenizer.build(store.info["symbols"], representation=name)
    ids = tokenizer.encode_store(store)
    texts = [tokenizer.decode(ids[item]) for item in range(len(ids))]
    expected = [Decoded(Chem.CanonSmiles(one), "") for one in MOLECULES]
    assert decode_many(texts, 1, representation=name) == expected
    again = tokenizer.encode_many(texts)
    assert np.array_equal(again.values, ids.values) and np.array_equal(again.offsets, ids.offsets)
    assert [tokenizer.representation.split(text) for text in texts] == [
        [tokenizer.symbols[index] for index in ids[item][1:-1]] for item in range(len(ids))
    ]


@each
def test_random_orders_are_drawn_by_the_molecule_alone(name):
    def texts(smiles, order):
        store, _ = corpus_in_memory(smiles, manner=Manner(representation=name, atom_order=order))
        names = store.info["symbols"]
        return ["".join(names[index] for index in store.ragged("symbols")[item]) for item in range(len(store))]

    drawn = texts(MOLECULES, RANDOM)
    assert drawn == texts([Chem.MolToSmiles(Chem.MolFromSmiles(one), doRandom=True) for one in MOLECULES], RANDOM)
    assert drawn == texts(MOLECULES[::-1], RANDOM)[::-1]
    assert sum(one != other for one, other in zip(drawn, texts(MOLECULES, CANONICAL))) >= 4


def test_smiles_are_canonical_and_split_as_published():
    store, _ = corpus_in_memory(["OC(=O)c1cc(Br)ccc1[N+](=O)[O-]"], manner=Manner(representation="smiles"))
    tokens = [store.info["symbols"][index] for index in store.ragged("symbols")[0]]
    assert "".join(tokens) == Chem.CanonSmiles("OC(=O)c1cc(Br)ccc1[N+](=O)[O-]")
    assert {"Br", "[N+]", "[O-]", "c", "1", "(", "="} <= set(tokens)
    smiles = representation_named("smiles")
    assert smiles.split("C%12N%(123)->[Pt]") == ["C", "%12", "N", "%(123)", "->", "[Pt]"]
    assert smiles.split("[C@@H](Cl)/F.[2H]") == ["[C@@H]", "(", "Cl", ")", "/", "F", ".", "[2H]"]
    assert not smiles.is_token("CC") and smiles.is_token("Cl") and not smiles.is_token("")


def test_real_molecules_of_each_corpus_round_trip_in_hugging_face(shared, tmp_path):
    """Ids and texts of 300 molecules of MOSES, ZINC and ChEMBL, for both representations."""
    transformers = pytest.importorskip("transformers")
    smiles = []
    for file, header in (("moses_test.csv.gz", 1), ("zinc250k.smi.gz", 0), ("chembl30_valid.csv.gz", 1)):
        with gzip.open(shared / "data" / "smiles" / file, "rt") as lines:
            rows = itertools.islice(lines, header, 30_000, 300)
            smiles += [row.replace(",", " ").split()[0] for row in rows]
    assert len(smiles) == 300
    for name in LANGUAGES:
        store, failures = corpus_in_memory(smiles, manner=Manner(representation=name))
        assert len(failures) <= 1
        tokenizer = Tokenizer.build(store.info["symbols"], representation=name)
        folder = tmp_path / name
        folder.mkdir()
        tokenizer.save_huggingface(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.encode_store(store)
        texts = [tokenizer.decode(ids[item]) for item in range(len(ids))]
        assert theirs(texts)["input_ids"] == [ids[item].tolist() for item in range(len(ids))]
        assert theirs.batch_decode([ids[item].tolist() for item in range(len(ids))], skip_special_tokens=True) == texts
        again = tokenizer_from_huggingface(folder)
        assert again.fingerprint() == tokenizer.fingerprint() and again.representation.name == name
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="tokens that are none of SELFIES; put the tokenizer_config.json"):
        tokenizer_from_huggingface(folder)


def test_vocabularies_say_their_representation(tmp_path):
    tokenizer = Tokenizer.build(["C", "Cl"], representation="smiles")
    assert {"c", "%" not in tokenizer.symbols and "#", "/", "9"} <= set(tokenizer.symbols)
    tokenizer.save(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text())["representation"] == "smiles"
    again = read_tokenizer(tmp_path / "v.json")
    assert again.fingerprint() == tokenizer.fingerprint() and again.representation.name == "smiles"
    assert again.encode("CCl").tolist() == [1, 4, 5, 2]
    mapped = again.mapping_unknown()
    assert mapped.encode("C[Xe]").tolist() == [1, 4, 3, 2] and mapped.representation.name == "smiles"


def test_vocabularies_of_earlier_versions_are_selfies():
    old = {"format": 1, "kind": "selfies", "unknown": "error", "symbols": ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[C]"]}
    tokenizer = tokenizer_from_dict(old)
    assert tokenizer.representation.name == "selfies"
    assert tokenizer.fingerprint() == "7d8283a3051088c1"
    assert tokenizer_from_dict(tokenizer.to_dict()).fingerprint() == tokenizer.fingerprint()
    with pytest.raises(ValueError, match="of chemgpt or of a representation that it names"):
        tokenizer_from_dict({**old, "kind": "smiles"})


def test_a_vocabulary_refuses_the_corpus_of_another_representation():
    store, _ = corpus_in_memory(["CCO"], manner=Manner(representation="smiles"))
    with pytest.raises(ValueError, match="corpus is written in smiles and the vocabulary in selfies; .*=selfies"):
        Tokenizer.build(["[C]"]).encode_store(store)
    without = Store(
        store.axes, store.fields, store.axis_of, {k: v for k, v in store.info.items() if k != "representation"}
    )
    assert representation_of(without) == "selfies"


def test_corpora_of_two_representations_lie_beside_each_other(tmp_path):
    file = tmp_path / "m.smi"
    file.write_text("\n".join(MOLECULES) + "\n")
    plain = load_corpus("file", file, tmp_path, **QUIET)
    smiles = load_corpus("file", file, tmp_path, representation="smiles", **QUIET)
    drawn = load_corpus("file", file, tmp_path, representation="smiles", atom_order="random", **QUIET)
    assert len({store.fingerprint() for store in (plain, smiles, drawn)}) == 3
    assert representation_of(plain) == "selfies" and representation_of(drawn) == "smiles"
    assert (
        "selfies" not in smiles.info["versions"]
        and plain.fields["heavy_atoms"].tolist() == smiles.fields["heavy_atoms"].tolist()
    )
    lines = describe_corpus(smiles)
    assert lines[3].startswith("tokens of smiles: ") and lines[-1].startswith("sample: ") and "  " not in lines[-1]
    assert load_corpus("file", file, tmp_path, representation="smiles", **QUIET).fingerprint() == smiles.fingerprint()


def test_what_is_no_molecule_is_counted_with_its_reason():
    texts = ["c1ccccc1", "c1ccccc", "C(C)(C)(C)(C)C", "", "CC("]
    found = decode_many(texts, 1, representation="smiles")
    assert [one.reason for one in found] == ["", NO_MOLECULE, NO_MOLECULE, EMPTY, NO_MOLECULE]


@pytest.mark.parametrize(
    "text, words",
    [
        ("CC!O", r"it: 'CC!O' is damaged, no token of SMILES begins at character 2 \('!O'\)"),
        ("", "it is empty: it has no tokens"),
        (3, "it is no text but int 3; give its SMILES"),
        ("[C][=C][Ring1]", "looks like SELFIES; selfies.decoder"),
        (
            "C[Xe]",
            r"it: token '\[Xe\]' is not in the vocabulary; set data.unknown=drop .*=map to read it as \[UNK\]\.$",
        ),
    ],
)
def test_what_is_no_smiles_is_named(text, words):
    with pytest.raises(ValueError, match=words):
        Tokenizer.build(["C", "[C]"], representation="smiles").encode(text, "it")


def test_names_that_are_none():
    with pytest.raises(ValueError, match=r"representation='smile' \(did you mean 'smiles'\?\): choose one of selfies"):
        representation_named("smile")
    with pytest.raises(ValueError, match="cannot be imported"):
        representation_named("nowhere_at_all:Thing")
    with pytest.raises(ValueError, match="it is no subclass of .*Representation with a pattern"):
        representation_named("collections:OrderedDict")


def test_one_of_ones_own(tmp_path, monkeypatch):
    """Letters as tokens; an edited class makes another corpus."""
    code = (
        "from ipu_chem.data.representations.smiles import Smiles\n\n\nclass Letters(Smiles):\n    pattern = r'[ -~]'\n"
    )
    (tmp_path / "letters_of_mine.py").write_text(code + "    title = 'letters'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "letters_of_mine:Letters"
    store, _ = corpus_in_memory(["CCCl"], manner=Manner(representation=name))
    assert [store.info["symbols"][i] for i in store.ragged("symbols")[0]] == ["C", "C", "C", "l"]
    tokenizer = Tokenizer.build(store.info["symbols"], representation=name)
    again = tokenizer_from_dict(tokenizer.to_dict())
    assert again.representation.name == name and again.decode(again.encode_store(store)[0]) == "CCCl"
    with pytest.raises(ValueError, match="no token of letters begins at character 1"):
        again.encode("C\n", "it")
    sys.modules.pop("letters_of_mine")
    (tmp_path / "groups_of_mine.py").write_text(code.replace("[ -~]", "([ -~])"))
    with pytest.raises(ValueError, match="its pattern has groups; write"):
        representation_named("groups_of_mine:Letters")
    sys.modules.pop("groups_of_mine")
    representation_named.cache_clear()


def test_a_missing_package_is_named_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safe", None)
    with pytest.raises(ValueError, match=r"SAFE needs the package safe-mol, .* pip install 'ipu-chem\[safe\]'"):
        representation_named("safe").versions()


@needs_safe
def test_safe_joins_fragments():
    store, failures = corpus_in_memory([*MOLECULES, HARD], manner=Manner(representation="safe"))
    assert not failures
    text = "".join(store.info["symbols"][index] for index in store.ragged("symbols")[0])
    assert text.count(".") == 3 and Chem.CanonSmiles(text) == Chem.CanonSmiles(MOLECULES[0])
    open_end = decode_many(["c1ccccc1%10", "c1cc", ""], 1, representation="safe")
    assert open_end[0].smiles == "c1ccccc1" and not open_end[1].smiles and open_end[2].reason == EMPTY


def test_rows_of_generated_molecules_name_the_text(tmp_path):
    from ipu_chem.generation.molecules import write_molecules
    from ipu_chem.generation.sampling import Samples

    texts = ["CO", "C("]
    decoded = decode_many(texts, 1, representation="smiles")
    write_molecules(
        tmp_path / "m.csv", Samples(texts, np.array([True, False]), np.array([-1.0, -2.0])), decoded, "smiles"
    )
    with open(tmp_path / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts and [row["smiles"] for row in rows] == ["CO", ""]
    assert rows[1]["reason"] == NO_MOLECULE
