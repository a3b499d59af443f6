"""What is encoded stands for the molecule: decoded, it has the same canonical SMILES, or its line is a failure."""

import re

import pytest

from ipu_chem.data.corpora import encode_smiles, load_corpus
from ipu_chem.data.corpora.encode import Manner, encode_lines
from ipu_chem.data.files.table import Line
from ipu_chem.data.molecule import decode_texts
from ipu_chem.data.selfies import representation
from ipu_chem.data.selfies.representation import OTHER

QUIET = dict(workers=1, progress=False)
# Iodine with three and five bonds, and iron with ten.
FOREIGN = [
    "CC(=O)OI(OC(C)=O)c1ccccc1",
    "CC(=O)OI1(OC(C)=O)(OC(C)=O)OC(=O)c2ccccc21",
    "CI(Cl)Cl",
    "[CH]12[CH]3[CH]4[CH]5[CH]1[Fe]23451678[CH]2[CH]1[CH]6[CH]7[CH]28",
    "FI(F)F",
]
SAME = [
    "CS(F)(F)(F)(F)F",
    "CP(=O)(O)O",
    "C[N+](=O)[O-]",
    "c1ccc2[nH]ccc2c1",
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "F/C=C/F",
    "C1CC[C@@]2(CC1)OCCO2",
    "[13CH3]C",
    "CC[Si](C)(C)C",
    "[Na+].CC(=O)[O-]",
    "C[C]C",
    "c1ccc([I+]c2ccccc2)cc1",
    "OCl(=O)(=O)=O",
    "c1ccc2c(c1)c1cccc3cccc2c31",
]


def decoded(selfies_text):
    import selfies
    from rdkit import Chem

    return Chem.CanonSmiles(selfies.decoder(selfies_text))


@pytest.mark.parametrize("smiles", SAME)
def test_what_is_encoded_is_decoded(smiles):
    canonical, text = encode_smiles(smiles)
    assert decoded(text) == canonical


@pytest.mark.parametrize("smiles", FOREIGN)
def test_what_selfies_have_no_room_for_is_refused(smiles):
    with pytest.raises(ValueError, match=OTHER):
        encode_smiles(smiles)


def test_every_molecule_of_a_set_is_decoded_to_itself():
    from rdkit import Chem, RDConfig

    with open(f"{RDConfig.RDDataDir}/NCI/first_5K.smi") as file:
        smiles = [line.split()[0] for line in file][::20]
    chunk = encode_lines([Line(number, text) for number, text in enumerate(smiles)], Manner())
    assert len(chunk.line) > 240
    for item in range(len(chunk.line)):
        text = "".join(chunk.table[symbol] for symbol in chunk.symbols[item])
        canonical = bytes(chunk.smiles[item]).decode()
        assert decoded(text) in (canonical, Chem.CanonSmiles(canonical))


def test_failures_are_counted_with_their_lines(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("CCO ethanol\n" + "".join(f"{text} {number}\n" for number, text in enumerate(FOREIGN)))
    store = load_corpus("file", path, tmp_path / "cache", **QUIET)
    assert decode_texts(store, "smiles") == ["CCO"]
    assert store.info["failures"]["by_reason"] == {OTHER: 5}
    assert [one[0] for one in store.info["failures"]["list"]] == [2, 3, 4, 5, 6]


def test_chains_of_thousands_of_atoms_are_refused_by_their_text(monkeypatch):
    from rdkit import Chem

    monkeypatch.setattr(Chem, "MolFromSmiles", lambda *_: pytest.fail("some RDKits take hours"))
    for text in ("C" * 1001, "C" * 40_000, ".".join(["C" * 900] * 12), "C" * 1001 + ".O"):
        with pytest.raises(ValueError, match="more than 1,000 atoms"):
            encode_smiles(text)
    monkeypatch.undo()
    assert encode_smiles("[C@@H](N)(C)C" * 1)[0] and encode_smiles(".".join(["CCO"] * 400))[0].count(".") == 399


def test_atom_maps_name_no_molecule(tmp_path):
    assert encode_smiles("[CH3:1][OH:2]") == encode_smiles("OC")
    assert encode_smiles("[cH:1]1[cH:2][cH:3][cH:4][cH:5][c:12]1[N+:7](=[O:8])[O-:9]") == encode_smiles(
        "c1ccccc1[N+](=O)[O-]"
    )
    path = tmp_path / "a.smi"
    path.write_text("[CH3:1][OH:2]\nCO\n[CH3:2][OH:1]\nC[C@H:3](N)O\n")
    store = load_corpus("file", path, tmp_path / "cache", **QUIET)
    assert decode_texts(store, "smiles") == ["CO", "C[C@H](N)O"] and store.info["duplicates"] == 2


def test_fragments(tmp_path, capsys):
    path = tmp_path / "a.smi"
    path.write_text("CC(=O)[O-].[Na+]\nCCO\n[Cl-].CC(=O)[O-]\nCCO.Cl\nC.C\n")
    load = {choice: lambda choice=choice: load_corpus("file", path, tmp_path / "cache", fragments=choice, **QUIET)
            for choice in ("keep", "largest", "error")}  # fmt: skip
    assert len(load["keep"]()) == 5 and "of several fragments" not in capsys.readouterr().out
    store = load["largest"]()
    assert decode_texts(store, "smiles") == ["CC(=O)[O-]", "CCO", "C"] and store.info["duplicates"] == 2
    assert "of 2 molecules of several fragments the largest is taken" in capsys.readouterr().out
    for _ in range(2):  # also when it is prepared already
        with pytest.raises(ValueError, match=r"a\.smi line 1 .*several fragments \(2\), as 4 lines have; set"):
            load["error"]()


def test_of_several_symbols_that_cannot_be_decoded_the_first_is_named():
    symbols = ["[C]", *(f"[{a}{b}]" for a in "QJ" for b in "qjzw")]  # no elements; in a set, any may come first
    for wrong in (symbols, symbols[::-1]):
        first = next(symbol for symbol in wrong if symbol != "[C]")
        with pytest.raises(ValueError, match=re.escape(f"selfies cannot decode its own symbol {first}")):
            representation._decodable(wrong)
