"""Steering: what is given is in every molecule, where it was said, and texts have the model's own log-likelihoods."""

import numpy as np
import pytest
import selfies
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.generation.steering.alphabet import banned_symbols
from ipu_chem.generation.steering.distance import training_distance
from ipu_chem.generation.steering.fragments import read_fragment
from ipu_chem.generation.steering.goals import GOALS
from ipu_chem.generation.steering.sampler import Sampler
from ipu_chem.generation.steering.spelling import cuts, spellings
from ipu_chem.generation.steering.steer import steer
from ipu_chem.models.chemgpt import ChemGPT

MOLECULES = [
    "c1ccncc1",
    "Cc1cn[nH]c1C(=O)NC1CC1",
    "O=C1CCC2CC1C2",
    "CC(C)(C)c1ccc(S(N)(=O)=O)cc1",
    "C[C@H](N)C(=O)Nc1ccc2[nH]ccc2c1",
    "C/C=C/c1ccccc1",
    "c1ccc2ccccc2c1",
]


@pytest.fixture(scope="module")
def sampler():
    """A model whose next token depends on what stands before, and which likes short chains of C, N and O."""
    tokenizer = Tokenizer.build([])
    torch.manual_seed(0)
    model = ChemGPT("", tokenizer.vocab_size, 64, 16, num_layers=1, tie_embeddings=False)
    likes = torch.full((tokenizer.vocab_size,), -9.0)
    for symbol, logit in {"[C]": 2.0, "[N]": 1.0, "[O]": 0.7, "[=C]": 0.5, "[Branch1]": 0.0, "[EOS]": 1.0}.items():
        likes[tokenizer.symbols.index(symbol)] = logit
    with torch.no_grad():
        model.head.ln_f.weight.mul_(0.1)
        model.head.ln_f.bias[0] = 1.0
        model.head.weight.mul_(20.0)
        model.head.weight[:, 0] = likes
    return Sampler(model.eval(), tokenizer, workers=1)


def own_nats(sampler, text):
    ids = torch.as_tensor(sampler.tokenizer.encode(text).astype(np.int64))[None]
    with torch.no_grad():
        logits = sampler.model(ids, torch.arange(ids.shape[1])[None])[0].double()
    return float(torch.log_softmax(logits[:-1], 1).gather(1, ids[0, 1:, None]).sum())


def steered(sampler, kind, text, count=12, **options):
    return steer(GOALS[kind](text, sampler), sampler, count, progress=False, **options)


def with_fluorine(mol, atom):
    """Canonical SMILES of a molecule with a fluorine in place of a hydrogen of an atom."""
    editable = Chem.RWMol(mol)
    at = editable.GetAtomWithIdx(atom)
    at.SetNumExplicitHs(max(at.GetNumExplicitHs() - 1, 0))
    editable.AddBond(atom, editable.AddAtom(Chem.Atom(9)), Chem.BondType.SINGLE)
    return Chem.CanonSmiles(Chem.MolToSmiles(editable))


@pytest.mark.parametrize("smiles", MOLECULES)
def test_spellings_begin_and_end_at_any_atom(smiles):
    """What is put before or behind hangs on the atom that was asked for."""
    fragment = read_fragment("--scaffold", smiles)
    mol = Chem.MolFromSmiles(smiles)
    for atom in fragment.open_atoms():
        expected = with_fluorine(mol, atom)
        ending, beginning = spellings(mol, None, atom, 0, 3), spellings(mol, atom, None, 0, 3)
        assert ending and beginning
        for symbols in ending:
            assert Chem.CanonSmiles(selfies.decoder("".join([*symbols, "[F]"]))) == expected
        for symbols in beginning:
            assert Chem.CanonSmiles(selfies.decoder("".join(["[F]", *symbols]))) == expected
        for end in fragment.open_atoms()[:3]:
            for symbols in spellings(mol, atom, end, 1, 1) if end != atom else []:
                both = Chem.MolFromSmiles(selfies.decoder("".join(["[F]", *symbols, "[Cl]"])))
                assert both.GetNumHeavyAtoms() == mol.GetNumHeavyAtoms() + 2


def test_cuts_stand_behind_whole_branches_and_rings():
    text = "[C][Branch1][Ring1][C][F][O][C][=C][C][=C][C][=C][Ring1][=Branch1]"
    symbols = selfies.split_selfies(text)
    assert cuts(list(symbols)) == [1, 5, 6, 7, 8, 9, 10, 11, 12, 14]
    assert cuts([]) == []
    assert cuts(["[C]", "[Branch1]", "[=Branch2]", "[C]"]) == [1]  # a branch that is not closed


@pytest.mark.parametrize(
    ("kind", "given", "held", "not_held"),
    [
        ("scaffold", "c1ccncc1", ["c1ccncc1", "Cc1ccnc(O)c1C"], ["c1ccccc1", "C1CCNCC1"]),
        ("scaffold", "c1cc([*:1])ncc1", ["c1ccncc1", "Cc1ccccn1"], ["Cc1cccnc1", "Cc1cccc(C)n1"]),
        (
            "decorate",
            "c1cc([*:1])ccc1[*:2]",
            ["Cc1ccc(O)cc1"],
            ["Cc1ccccc1", "C=C1C=CC(=O)C=C1", "Cc1ccc(O)cc1F", "Cc1cccc(O)c1"],
        ),
        ("decorate", "C1CC([*:1])CC1[*:2]", ["CC1CCC(O)C1"], ["C1CC2CC1C2"]),
        ("linker", "c1ccccc1[*:1].C1CCN([*:2])C1", ["c1ccccc1CN1CCCC1"], ["c1ccccc1N1CCCC1", "c1ccc(C)cc1CN1CCCC1"]),
        ("motif", "C(=O)N", ["CCC(=O)NC"], ["CCC(O)NC"]),
        ("motif", "C(=O)([*:1])N[*:2]", ["CCC(=O)NC"], ["CCC(=O)N(C)C", "O=CNC", "C=NC(C)=O"]),
    ],
)
def test_what_counts_as_kept(sampler, kind, given, held, not_held):
    goal = GOALS[kind](given, sampler)
    assert [goal.holds(Chem.MolFromSmiles(smiles)) for smiles in held] == [True] * len(held)
    assert [goal.holds(Chem.MolFromSmiles(smiles)) for smiles in not_held] == [False] * len(not_held)


@pytest.mark.parametrize(
    ("kind", "given", "pattern"),
    [
        ("scaffold", "c1ccncc1", "c1ccncc1"),
        ("scaffold", "c1cc([*:1])ncc1", "[cH]1[cH]c[n][cH][cH]1"),
        ("decorate", "c1cc([*:1])ccc1[*:2]", "[cH]1[cH]c(-,=[!#1])[cH][cH]c1-,=[!#1]"),
        ("linker", "c1ccccc1[*:1].C1CCN([*:2])C1", "[cH]1[cH][cH][cH][cH]c1.[CH2]1[CH2][CH2]N(-[!#1])[CH2]1"),
        ("motif", "C(=O)N", "C(=O)N"),
        ("motif", "c1cc([*:1])sc1", "[!#1]-c1[cH][cH][cH]s1"),
        ("motif", "C1C([*:1])OC1[*:2]", "[CH2]1[CH]([!#1])O[CH]1[!#1]"),
    ],
)
def test_every_molecule_keeps_what_was_given(sampler, kind, given, pattern):
    found = steered(sampler, kind, given)
    assert len(found.decoded) == 12 and found.passed >= 12 and found.drawn == found.passed + sum(found.reasons.values())
    query = Chem.MolFromSmarts(pattern)
    assert all(Chem.MolFromSmiles(one.smiles).HasSubstructMatch(query) for one in found.decoded)
    assert len({one.smiles for one in found.decoded}) > 5
    for text, finished, nats, one in zip(*found.samples, found.decoded):
        assert Chem.CanonSmiles(selfies.decoder(text)) == one.smiles
        if finished:
            assert nats == pytest.approx(own_nats(sampler, text), abs=1e-4)


def test_the_seed_decides_and_more_molecules_begin_with_the_same(sampler):
    few, more = (steered(sampler, "decorate", "C1C([*:1])OC1[*:2]", count) for count in (5, 9))
    assert more.samples.texts[:5] == few.samples.texts
    other = steered(sampler, "decorate", "C1C([*:1])OC1[*:2]", 5, seed=1)
    assert other.samples.texts != few.samples.texts


def test_a_scaffold_grows_from_all_its_atoms_and_a_linker_from_both_sides(sampler):
    found = steered(sampler, "scaffold", "c1ccncc1", 100)
    rings = [Chem.MolFromSmiles(one.smiles) for one in found.decoded]
    for place in ("[!#1]c1ccccn1", "[!#1]c1cccnc1", "[!#1]c1ccncc1"):
        assert any(mol.HasSubstructMatch(Chem.MolFromSmarts(place)) for mol in rings)
    found = steered(sampler, "linker", "FC[*:1].ClC[*:2]", 40)
    assert {selfies.split_selfies(text).__next__() for text in found.samples.texts} == {"[F]", "[Cl]"}


def test_none_that_keeps_it_is_an_error_and_few_are_not(sampler):
    class Never(GOALS["scaffold"]):
        def holds(self, mol):
            return False

    with pytest.raises(ValueError, match="--scaffold: none of 6 molecules drawn keeps.*raise --tries"):
        steer(Never("CC", sampler), sampler, 3, tries=2, progress=False)
    found = steered(sampler, "decorate", "C1C([*:1])OC1[*:2]", 200, tries=1)
    assert 0 < len(found.decoded) < 200 == found.drawn


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("scaffold", "C1CC", "--scaffold C1CC: RDKit reads no molecule"),
        ("scaffold", "C.C", "not connected"),
        ("scaffold", "C[Se]C", r"cannot write it \(token '\[Se\]'"),
        ("scaffold", "FC(F)(F)F", "no atom has a hydrogen"),
        ("scaffold", "C" * 70, "sequence has 64"),
        ("scaffold", "C=*", "one single bond"),
        ("decorate", "c1ccccc1", "has no attachment point"),
        ("decorate", "C([*:1])[*:2]", "an atom has two attachment points"),
        ("decorate", "[*:1]CC[*:1]", r"called \[\*:1\]; give it another number"),
        ("decorate", "C[C@H](N)[*:1]", "stereochemistry beside an attachment point"),
        ("linker", "c1ccccc1[*:1]", "two fragments with a dot"),
        ("linker", "c1ccccc1[*:1].CC", "CC has no attachment point"),
        ("motif", "C([*:1])C([*:2])C[*:3]", "3 attachment points"),
    ],
)
def test_what_cannot_be_kept_is_refused(sampler, kind, text, message):
    with pytest.raises(ValueError, match=message):
        GOALS[kind](text, sampler)


def test_elements_and_symbols_can_be_banned(sampler):
    text = sampler.tokenizer
    assert banned_symbols(text) == set()
    banned = banned_symbols(text, ban="[O]", only="C,O")
    assert {"[O]", "[N]", "[=N+1]", "[Br]"} <= banned
    assert not {"[C]", "[=O]", "[Branch1]", "[=Ring1]", "[EOS]", "[CH1-1]"} & banned
    only_carbon = Sampler(sampler.model, text, workers=1, banned=banned)
    found = steered(only_carbon, "scaffold", "c1ccncc1", 60)
    free = steered(sampler, "scaffold", "c1ccncc1", 60)
    heteroatoms = [[one.smiles.upper().count("N") for one in side.decoded] for side in (found, free)]
    assert max(heteroatoms[0]) == 1 < max(heteroatoms[1])
    for options, message in (
        ({"ban": "P"}, "symbols of SELFIES in brackets"),
        ({"ban": "[Zz]"}, r"--ban \[Zz\]: the vocabulary has no such"),
        ({"only": "C,Zz"}, "has no Zz; its elements are"),
    ):
        with pytest.raises(ValueError, match=message):
            banned_symbols(text, **options)


def test_distances_to_the_training_molecules_are_those_of_rdkit():
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in MOLECULES]
    expected = np.mean([1 - max(DataStructs.BulkTanimotoSimilarity(one, prints[3:])) for one in prints[:3]])
    assert training_distance([*MOLECULES[:3], "no"], MOLECULES[3:], workers=1) == pytest.approx(expected, abs=1e-6)
    assert training_distance(MOLECULES, MOLECULES, workers=1) == 0
