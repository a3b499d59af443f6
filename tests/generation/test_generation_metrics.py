"""Metrics of generated molecules: values by hand, brute force, and figures published for the same data."""

import gzip
import math
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator

from ipu_chem.data.files.table import read_smiles_file
from ipu_chem.generation import chemnet, descriptors, metrics, similarity
from ipu_chem.generation.descriptors import DESCRIPTORS, PROPERTIES, describe, fingerprint, sa_score
from ipu_chem.generation.metrics import MEANING, compare, score

DRUGS = [
    Chem.CanonSmiles(smiles)
    for smiles in (
        "CC(=O)Oc1ccccc1C(=O)O",
        "CN1C=NC2=C1C(=O)N(C)C(=O)N2C",
        "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
        "c1ccc2ccccc2c1",
        "C1CC2CCC1C2",
        "Clc1ccc(Br)cc1",
        "C[NH3+]",
        "FC(F)(F)c1ccc2[nH]ccc2c1",
    )
]


def tanimoto(smiles):
    """[N, N] similarities by RDKit alone."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles]
    return np.array([DataStructs.BulkTanimotoSimilarity(one, bits) for one in bits])


def test_a_set_compared_with_itself():
    found = compare(DRUGS, DRUGS, DRUGS, DRUGS, workers=1)
    values = found.values
    absent = () if chemnet.is_installed() else ("FCD", "FCD/TestSF", "FCD_score")
    assert list(values) == [name for name in MEANING if not name.startswith("unique@") and name not in absent]
    assert len(found.notes) == 2 + (1 if absent else 4)  # of unique@, and of FCD
    for name in ("validity", "unique", "SNN", "Frag", "Scaf", "SNN/TestSF", "Scaf/TestSF", "KL_score"):
        assert values[name] == pytest.approx(1.0, abs=1e-7), name
    for name in values:
        if name.startswith("W1_") or name == "novelty":
            assert values[name] == 0.0, name
        if name.startswith("FCD"):
            assert values[name] == pytest.approx(1.0 if name == "FCD_score" else 0.0, abs=1e-5), name
    assert values["Filters"] == 7 / 8  # one is charged
    assert np.array_equal(*found.properties) and found.properties[0].shape == (8, 4)
    assert values["Frechet_descriptors"] == pytest.approx(0.0, abs=1e-4)


def test_counts_of_valid_unique_and_new_molecules():
    # Ethanol three times in two spellings, one molecule that is none and one row without any.
    generated = ["CCO", "OCC", "CCO", "C1CC", "", "CCN", "CCC"]
    values = score(generated, ["CCO", "CCCC"], DRUGS, workers=1)
    assert values["validity"] == pytest.approx(5 / 7)
    assert values["unique"] == pytest.approx(3 / 5)
    assert values["novelty"] == pytest.approx(2 / 3)  # of ethanol, ethylamine and propane one is known
    assert "novelty" not in score(generated, None, DRUGS, workers=1)


def test_unique_at_k_counts_the_first_k_valid_ones(monkeypatch):
    assert metrics.UNIQUE_AT == (1000, 10000)
    monkeypatch.setattr(metrics, "UNIQUE_AT", (9, 12, 13))
    generated = ["C1CC", *["C", "CC", "CCC"] * 3, "N", "CN"]
    found = metrics.compare(generated, None, DRUGS[:2], workers=1)
    assert found.values["unique@9"] == pytest.approx(3 / 9)
    assert found.values["unique"] == found.values["unique@12"] == pytest.approx(5 / 11)
    assert "unique@12 is that of 11 molecules: no more of them are valid." in found.notes
    assert "unique@13" not in found.values
    assert "unique@13 is left out: it needs 13 molecules; there are 12." in found.notes


@pytest.mark.parametrize("block", [1, 3 * len(DRUGS), 1 << 24])
def test_similarities_are_those_of_pairs_one_by_one(monkeypatch, block):
    monkeypatch.setattr(similarity, "_BLOCK", block)
    pairs = tanimoto(DRUGS)
    prints = describe(DRUGS, workers=1).fingerprints
    assert np.concatenate(list(similarity.tanimoto_blocks(prints, prints))) == pytest.approx(pairs, abs=1e-6)
    assert similarity.internal_diversity(prints, 1) == pytest.approx(1 - pairs.mean(), abs=1e-6)
    by_molecule = np.sqrt((pairs**2).mean(1))
    assert similarity.internal_diversity(prints, 2) == pytest.approx(1 - by_molecule.mean(), abs=1e-6)
    nearest = pairs[:, :3].max(1).mean()
    assert similarity.nearest_similarity(prints, prints[:3]) == pytest.approx(nearest, abs=1e-6)
    assert abs(nearest - pairs[:, :3].max(0).mean()) > 0.1  # the mean is over the generated, not over the reference


def test_molecules_without_any_bit_are_alike():
    nothing, one = np.zeros((1, 128), np.uint8), np.full((1, 128), 255, np.uint8)
    assert [float(next(similarity.tanimoto_blocks(nothing, other))[0, 0]) for other in (nothing, one)] == [1.0, 0.0]


def test_cosine_of_counts_by_hand():
    one, other = Counter(a=3, b=4), Counter(b=5, c=12)
    assert similarity.cosine_similarity(one, other) == pytest.approx(20 / (5 * 13))
    assert similarity.cosine_similarity(one, one) == 1.0 and similarity.cosine_similarity(one, Counter(z=1)) == 0.0


def test_scaffolds_need_two_rings():
    found = describe(["Cc1ccccc1", "CCc1ccc2ccccc2c1", "CCCC", "OC1CC2CCC1C2"], workers=1).scaffolds
    assert found == ["", "c1ccc2ccccc2c1", "", "C1CC2CCC1C2"]
    values = score(["Cc1ccc2ccccc2c1"] * 3 + ["C1CC2CCC1C2"], None, ["Oc1ccc2ccccc2c1", "Cc1ccccc1"], workers=1)
    assert values["Scaf"] == pytest.approx(3 / math.sqrt(9 + 1))
    assert "Scaf" not in score(["C"], None, DRUGS, workers=1)


def test_fragments_are_cut_at_brics_bonds():
    # The ether's two bonds: ethyl, oxygen, phenyl, each with numbered ends.
    (fragments,) = describe(["CCOc1ccccc1"], workers=1).fragments
    assert sorted(fragments) == sorted(["[3*]O[3*]", "[4*]CC", "[16*]c1ccccc1"])
    values = score(["CCOc1ccccc1"], None, ["CCCCOc1ccccc1"], workers=1)
    assert values["Frag"] == pytest.approx(2 / 3)


def test_properties_are_rdkits():
    found = describe(DRUGS, workers=1).properties
    mols = [Chem.MolFromSmiles(smiles) for smiles in DRUGS]
    for name, function in (("logP", Crippen.MolLogP), ("QED", QED.qed), ("weight", Descriptors.MolWt)):
        assert found[:, PROPERTIES.index(name)] == pytest.approx([function(mol) for mol in mols])
    accessibility = found[:, PROPERTIES.index("SA")]
    assert accessibility == pytest.approx([sa_score()(mol) for mol in mols])
    assert accessibility[0] == pytest.approx(1.58, abs=0.01)  # aspirin
    assert accessibility[DRUGS.index("C1CC2CCC1C2")] > 2.9  # bridged


def test_distance_of_shifted_properties_is_the_shift():
    values = score(["CCCCO", "CCCCCO"], None, ["CCCO", "CCCCO"], workers=1)
    methylene = Descriptors.MolWt(Chem.MolFromSmiles("CC")) - Descriptors.MolWt(Chem.MolFromSmiles("C"))
    assert values["W1_weight"] == pytest.approx(methylene)


def test_without_contrib_accessibility_is_left_out(monkeypatch, tmp_path):
    from rdkit import RDConfig

    monkeypatch.setattr(RDConfig, "RDContribDir", str(tmp_path))
    sa_score.cache_clear()
    try:
        assert sa_score() is None
        values = score(DRUGS, None, DRUGS[1:], workers=1)
        assert "W1_SA" not in values and values["W1_QED"] > 0
    finally:
        sa_score.cache_clear()


def test_descriptors_tell_molecules_apart_and_have_names():
    found = describe(["CCO", "c1ccncc1Br"], workers=1).descriptors
    assert found.shape == (2, len(DESCRIPTORS)) and len(set(DESCRIPTORS)) == len(DESCRIPTORS)
    assert np.isfinite(found).all()
    table = dict(zip(DESCRIPTORS, found.T.tolist()))
    assert table["O atoms"] == [1, 0] and table["Br atoms"] == [0, 1] and table["largest ring"] == [0, 6]
    assert table["NumAromaticRings"] == [0, 1] and table["ExactMolWt"][0] == pytest.approx(46.0419, abs=1e-3)


def test_frechet_distance_of_gaussians_by_hand():
    # Means 1 and 4, standard deviations 1 and 2; in units of the reference's deviation, 2.
    one, other = np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])
    assert metrics.frechet_distance(one, other) == pytest.approx(((1 - 4) ** 2 + (1 - 2) ** 2) / 4)
    single = np.array([[3.0, 0.0]])  # no spread at all
    assert metrics.frechet_distance(single, np.array([[0.0, 0.0], [2.0, 4.0]])) == pytest.approx(2**2 + 1 + 1 + 1)
    constant = np.zeros((2, 1))
    assert metrics.frechet_distance(one, constant) == pytest.approx(1 + 1)


def test_frechet_distance_is_that_of_the_matrix_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(70, 6)) + 0.3
    scaled = one / other.std(0), other / other.std(0)
    covariances = [np.cov(sample, rowvar=False, bias=True) for sample in scaled]
    shift = scaled[0].mean(0) - scaled[1].mean(0)
    expected = shift @ shift + np.trace(sum(covariances) - 2 * np.real(sqrtm(covariances[0] @ covariances[1])))
    assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)


def test_workers_do_not_change_the_description(monkeypatch):
    monkeypatch.setattr("ipu_chem.parallel._FEW", 2)
    lines = [*DRUGS, "C1CC", ""] * 20
    alone, together = describe(lines, workers=1), describe(lines, workers=2)
    assert alone.smiles == together.smiles == DRUGS * 20
    assert alone.scaffolds == together.scaffolds and alone.fragments == together.fragments
    for name in ("fingerprints", "properties", "descriptors"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="none of the 2 generated molecules is valid"):
        score(["", "C1CC"], None, DRUGS)
    with pytest.raises(ValueError, match="none of the 0 reference"):
        score(DRUGS, None, [])
    with pytest.raises(ValueError, match="writes 'OCC' as 'CCO'"):
        score(DRUGS, ["C"] * 150 + ["OCC"] * 50, DRUGS)
    score(DRUGS, ["C"] * 399 + ["OCC"], DRUGS)  # not even RDKit spells all alike every time


def test_figures_published_for_moses(shared):
    """Diversity of MOSES' training set, of which these 5,000 are a part; the article gives 0.8567 and 0.8508."""
    lines = read_smiles_file(shared / "data" / "smiles" / "moses_train5k.smi.gz")
    prints = np.array([fingerprint(Chem.MolFromSmiles(line.smiles)) for line in lines])
    assert similarity.internal_diversity(prints, 1) == pytest.approx(0.8567, abs=0.001)
    assert similarity.internal_diversity(prints, 2) == pytest.approx(
        0.8508, abs=0.0015
    )  # itself counts more among fewer


def test_two_samples_of_the_same_molecules_are_close(shared, monkeypatch):
    """Closer than drugs of another collection are."""
    folder = shared / "data" / "smiles"
    one = [line.smiles for line in read_smiles_file(folder / "moses_train5k.smi.gz")[:120]]
    with gzip.open(folder / "moses_test.csv.gz", "rt") as file:
        held_out = [line.split(",")[0].strip() for line in file.readlines()[1:121]]
    with gzip.open(folder / "chembl30_valid.csv.gz", "rt") as file:
        other = [line.split(",")[0].strip() for line in file.readlines()[1:121]]
    monkeypatch.setattr(chemnet, "is_installed", lambda: False)  # which is compared elsewhere
    same, different = (score(generated, None, held_out, workers=1) for generated in (one, other))
    assert 0 < same["Frechet_descriptors"] < 0.2 * different["Frechet_descriptors"]
    assert same["SNN"] > different["SNN"] + 0.02 and same["Frag"] > different["Frag"]
    assert all(0 < same[name] < different[name] for name in ("W1_weight", "W1_QED", "W1_SA"))


def test_descriptors_module_lists_what_rdkit_has():
    from rdkit.Chem import rdMolDescriptors

    assert all(hasattr(rdMolDescriptors, f"Calc{name}") for name in descriptors._CALCULATED)
