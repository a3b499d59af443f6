"""Metrics of real molecules beside the packages and articles that define them, derived anew from RDKit and scipy.

250 molecules of either side by default; IPU_CHEM_METRICS_MOLECULES=2000 is the whole check.
"""

import csv
import math
import os
import random
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, DataStructs, RDConfig
from rdkit.Chem import BRICS, QED, Crippen, Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy import stats

from ipu_chem.data.files.table import read_smiles_file
from ipu_chem.generation import chemnet
from ipu_chem.generation.descriptors import PROPERTIES, sa_score
from ipu_chem.generation.metrics import compare

COUNT = int(os.environ.get("IPU_CHEM_METRICS_MOLECULES", "250"))
WHOLE = COUNT >= 2000
CLOSE = {"abs": 1e-6, "rel": 0}


@pytest.fixture(scope="module")
def sets(shared):
    """Generated, training, reference and scaffold molecules: drugs of ZINC and MOSES, canonical."""
    folder = shared / "data" / "smiles"

    def some(name, seed):
        lines = read_smiles_file(folder / name, limit=60_000)
        return [Chem.CanonSmiles(line.smiles) for line in random.Random(seed).sample(lines, COUNT)]

    generated = some("zinc250k.smi.gz", 1)
    train = generated[: COUNT // 5] + some("moses_test.csv.gz", 2)[COUNT // 5 :]
    return [*generated[:-9], *generated[:9]], train, some("moses_test.csv.gz", 3), some("chembl30_valid.csv.gz", 4)


@pytest.fixture(scope="module")
def found(sets):
    generated, train, reference, scaffolds = sets
    return compare(["C1CC", *generated], train, reference, scaffolds, workers=2)


def mols(smiles):
    return [Chem.MolFromSmiles(text) for text in smiles]


def bits(molecules, size=1024):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=size)
    return [generator.GetFingerprint(mol) for mol in molecules]


def cosine(one, other):
    names = sorted({*one, *other})
    left, right = (np.array([side[name] for name in names], float) for side in (one, other))
    return left @ right / np.linalg.norm(left) / np.linalg.norm(right)


def scaffold(mol):
    frame = MurckoScaffold.GetScaffoldForMol(mol)
    return Chem.MolToSmiles(frame) if len(Chem.GetSSSR(frame)) > 1 else None


def test_metrics_of_moses(sets, found):
    generated, train, reference, scaffolds = sets
    mine, values = mols(generated), found.values
    prints = bits(mine)
    assert values["validity"] == pytest.approx(len(mine) / (len(mine) + 1))
    assert values["unique"] == len(set(generated)) / len(generated)
    assert values["novelty"] == len(set(generated) - set(train)) / len(set(generated))
    alike = np.array([DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints])
    assert values["IntDiv1"] == pytest.approx(1 - alike.mean(), **CLOSE)
    assert values["IntDiv2"] == pytest.approx(1 - np.sqrt((alike**2).mean(1)).mean(), **CLOSE)
    for end, smiles in (("", reference), ("/TestSF", scaffolds)):
        theirs = mols(smiles)
        other = bits(theirs)
        nearest = [max(DataStructs.BulkTanimotoSimilarity(one, other)) for one in prints]
        assert values[f"SNN{end}"] == pytest.approx(np.mean(nearest), **CLOSE)
        broken = [[Chem.MolToSmiles(BRICS.BreakBRICSBonds(mol)).split(".") for mol in side] for side in (mine, theirs)]
        pieces = [Counter(chain.from_iterable(side)) for side in broken]
        assert values[f"Frag{end}"] == pytest.approx(cosine(*pieces), **CLOSE)
        frames = [Counter(filter(None, map(scaffold, side))) for side in (mine, theirs)]
        assert values[f"Scaf{end}"] == pytest.approx(cosine(*frames), **CLOSE)
    functions = {"logP": Crippen.MolLogP, "SA": sa_score(), "QED": QED.qed, "weight": Descriptors.MolWt}
    assert set(functions) == set(PROPERTIES)
    for name, function in functions.items():
        sides = [sorted(map(function, side)) for side in (mine, mols(reference))]
        # Two samples of one size: the mean difference of the sorted values.
        assert values[f"W1_{name}"] == pytest.approx(np.abs(np.subtract(*sides)).mean(), **CLOSE)


def test_filters_are_pains_and_the_rules_of_moses(sets, found):
    """PAINS as RDKit ships their SMARTS, on hydrogens; alerts are tested one by one in test_generation_filters.py."""
    path = Path(RDConfig.RDDataDir) / "Pains" / "wehi_pains.csv"
    with open(path, encoding="utf-8") as file:
        pains = [Chem.MolFromSmarts(row[0].strip()) for row in csv.reader(file)]
    from ipu_chem.generation.filters import _catalogs

    alerts = _catalogs()[0]
    passed = 0
    for mol in mols(sets[0]):
        full = Chem.AddHs(mol)
        rings = [len(ring) for ring in Chem.GetSSSR(mol)]
        odd = max(rings, default=0) > 7 or any(atom.GetFormalCharge() for atom in mol.GetAtoms())
        odd = odd or not {atom.GetSymbol() for atom in mol.GetAtoms()} <= set("C N S O F Cl Br H".split())
        passed += not (odd or alerts.HasMatch(mol) or any(full.HasSubstructMatch(one) for one in pains))
    assert found.values["Filters"] == passed / len(sets[0]) and 0.2 < found.values["Filters"] < 0.95


def test_divergences_of_guacamol(sets, found):
    generated, train = ([flat(text) for text in side] for side in sets[:2])
    sides = [mols(dict.fromkeys(side)) for side in (train, generated)]
    total = []
    for name in ("BertzCT", "MolLogP", "MolWt", "TPSA"):
        values = [np.array(list(map(getattr(Descriptors, name), side))) for side in sides]
        total.append((name, of_kernels(*values)))
    whole = ("NumHAcceptors", "NumHDonors", "NumRotatableBonds", "NumAliphaticRings", "NumAromaticRings")
    for name in whole:
        values = [list(map(getattr(Descriptors, name), side)) for side in sides]
        edges = np.linspace(min(values[0]), max(values[0]), 11)
        counts = [np.histogram(side, edges)[0] for side in values]
        p, q = (one / one.sum() / (edges[1] - edges[0]) + 1e-10 for one in counts)
        total.append((name, relative(p, q)))
    nearest = []
    for side in sides:
        prints = bits(side, 4096)
        others = [DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints]
        nearest.append(np.array([max(row[:i] + row[i + 1 :]) for i, row in enumerate(others)]))
    total.append(("internal_similarity", of_kernels(*nearest)))
    for name, expected in total:
        assert found.values[f"KL_{name}"] == pytest.approx(expected, **CLOSE), name
    assert found.values["KL_score"] == pytest.approx(np.mean([math.exp(-value) for _, value in total]), **CLOSE)
    assert 0.5 < found.values["KL_score"] < 0.99


def flat(smiles):
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)
    return Chem.MolToSmiles(mol)


def of_kernels(baseline, sampled):
    """KL divergence of densities by kernels of Scott's width, written out."""
    points = np.linspace(min(baseline.min(), sampled.min()), max(baseline.max(), sampled.max()), 1000)
    densities = []
    for values in (baseline, sampled):
        width = values.std(ddof=1) * len(values) ** -0.2
        densities.append(stats.norm.pdf(points[:, None], values, width).mean(1) + 1e-10)
    return relative(*densities)


def relative(p, q):
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def test_distance_is_that_of_the_package(sets, found):
    if not chemnet.is_installed():
        pytest.skip("the Frechet ChemNet distance was NOT compared: fcd is not installed")
    import fcd

    generated, train, reference, scaffolds = sets
    model = fcd.load_ref_model()
    sides = {"mine": generated, "": reference, "/TestSF": scaffolds if WHOLE else None}
    read = {name: fcd.get_predictions(model, side, n_jobs=0, device="cpu") for name, side in sides.items() if side}
    fits = {name: (values.mean(0), np.cov(values.T)) for name, values in read.items()}
    for name, fit in fits.items():
        if name != "mine":
            expected = fcd.calculate_frechet_distance(*fits["mine"], *fit)
            # Fewer molecules than activations: covariances without full rank, whose root the package takes with noise.
            assert found.values[f"FCD{name}"] == pytest.approx(expected, abs=1e-6 if WHOLE else 1e-3, rel=0)
    assert 0 < found.values["FCD_score"] < 1
    mine, known = chemnet.activations(generated[:140], workers=1), read["mine"][:140]
    assert mine.mean == pytest.approx(known.mean(0), abs=1e-6) and mine.count == 140
    assert mine.covariance == pytest.approx(np.cov(known.T), abs=1e-7)
    assert chemnet.fcd(mine, mine) == pytest.approx(0.0, abs=1e-6)
