"""Metrics of generated molecules against known ones: all of MOSES, those of GuacaMol, and a distance of descriptors.

D. Polykovskiy et al., "Molecular Sets (MOSES): a benchmarking platform for molecular generation models", Front.
Pharmacol. 11, 565644 (2020); N. Brown et al., J. Chem. Inf. Model. 59, 1096 (2019) (GuacaMol). FCD needs the package
`fcd`; the Frechet distance of `descriptors.DESCRIPTORS` has the same formula, needs no network, and compares with no
published value.
"""

from collections import Counter
from itertools import chain
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.generation import chemnet, guacamol
from ipu_chem.generation.descriptors import PROPERTIES, Described, describe
from ipu_chem.generation.filters import fraction_passing
from ipu_chem.generation.molecules import canonical_smiles, some
from ipu_chem.generation.similarity import cosine_similarity, internal_diversity, nearest_similarity

UNIQUE_AT = (1000, 10000)
_SCAFFOLDS = "/TestSF"  # end of the names of what is measured against the scaffold test set
# In the order of MOSES, then what GuacaMol has, then ours.
MEANING: Dict[str, str] = {
    "validity": "fraction that RDKit parses; about 1 for any sampler of SELFIES, so it says nothing about the model",
    **{f"unique@{k}": f"fraction of different molecules among the first {k:,} valid ones" for k in UNIQUE_AT},
    "FCD": "Frechet ChemNet distance to the reference molecules",
    "FCD/TestSF": "the same to the scaffold test set, whose scaffolds no training molecule has",
    "SNN": "mean Tanimoto similarity to the nearest reference molecule",
    "SNN/TestSF": "the same to the nearest of the scaffold test set",
    "Frag": "cosine similarity of the counts of BRICS fragments",
    "Frag/TestSF": "the same with the scaffold test set",
    "Scaf": "cosine similarity of the counts of Bemis-Murcko scaffolds of two or more rings",
    "Scaf/TestSF": "the same with the scaffold test set",
    "IntDiv1": "internal diversity: 1 - mean Tanimoto similarity of pairs",
    "IntDiv2": "internal diversity: 1 - mean over molecules of the root mean square Tanimoto similarity",
    "Filters": "fraction of the valid ones that pass MOSES' filters: MCF, PAINS, elements, charges and rings",
    "novelty": "fraction of the different valid molecules that the training set does not hold",
    **{f"W1_{name}": f"Wasserstein-1 distance of the distributions of {name}" for name in PROPERTIES},
    "KL_score": "GuacaMol: mean of exp(-KL) over the ten divergences below, 1 at best",
    "FCD_score": "GuacaMol: exp(-0.2 FCD), with the FCD to training molecules, 1 at best",
    **{
        f"KL_{name}": f"GuacaMol: divergence of {name.replace('_', ' ')} from that of training molecules, in nats"
        for name in (*guacamol.CONTINUOUS, *guacamol.WHOLE, guacamol.SIMILARITY)
    },
    "unique": "fraction of different molecules among all valid ones",
    "Frechet_descriptors": "Frechet distance of RDKit descriptors, each in units of the reference's deviation",
}
_TRAIN_CHECKED, _RESPELLED = 100, 0.05


class Comparison(NamedTuple):
    """Generated molecules compared with known ones.

    Attributes:
        values: name -> value, in the order of `MEANING`; what is not defined is left out.
        notes: a sentence for each value that is left out, or that should not be trusted.
        properties: of the generated molecules [N, 4] and of the reference [M, 4], see `Described`.
    """

    values: Dict[str, float]
    notes: List[str]
    properties: Tuple[np.ndarray, np.ndarray]


def score(
    generated: Sequence[str],
    train: Optional[Sequence[str]],
    reference: Sequence[str],
    workers: Optional[int] = None,
    progress: bool = False,
) -> Dict[str, float]:
    """Values of `compare` alone."""
    return compare(generated, train, reference, None, workers, progress).values


def compare(
    generated: Sequence[str],
    train: Optional[Sequence[str]],
    reference: Sequence[str],
    scaffolds: Optional[Sequence[str]] = None,
    workers: Optional[int] = None,
    progress: bool = False,
) -> Comparison:
    """All metrics of generated molecules.

    Args:
        generated: SMILES in the order they were made, duplicates included; "" or what RDKit cannot parse is invalid.
        train: canonical SMILES of the molecules the model has seen; None leaves novelty and GuacaMol's measures out.
        reference: SMILES of molecules it has not seen.
        scaffolds: SMILES of a scaffold test set; None leaves its columns out.
        workers: processes; None takes the cores this process may use.
        progress: show bars on stderr.

    Raises:
        ValueError: no valid generated or reference molecule, or training SMILES that are not canonical.
    """
    if train is not None:
        _check_canonical(train)
    notes: List[str] = []
    mine = _described("generated", generated, workers, progress)
    theirs = _described("reference", reference, workers, progress, notes)
    sides = {"": theirs}
    if scaffolds is not None:
        sides[_SCAFFOLDS] = _described("scaffold test", scaffolds, workers, progress, notes, structures_only=True)
    result = {"validity": len(mine.smiles) / len(generated), "unique": uniqueness(mine.smiles)}
    for k in UNIQUE_AT:
        if len(generated) >= k:  # as MOSES has it: of fewer where some are invalid
            result[f"unique@{k}"] = uniqueness(mine.smiles[:k])
        if len(generated) < k:
            notes.append(f"unique@{k} is left out: it needs {k:,} molecules; there are {len(generated):,}.")
        elif len(mine.smiles) < k:
            notes.append(f"unique@{k} is that of {len(mine.smiles):,} molecules: no more of them are valid.")
    for p in (1, 2):
        result[f"IntDiv{p}"] = internal_diversity(mine.fingerprints, p)
    for end, side in sides.items():
        result.update({f"{name}{end}": value for name, value in _of_structures(mine, side).items()})
        if f"Scaf{end}" not in result:
            notes.append(f"Scaf{end} is left out: one side has no scaffold of two rings or more.")
    result["Filters"] = fraction_passing(mine.smiles, workers, "filters" if progress else None)
    result.update(_of_properties(mine.properties, theirs.properties))
    result["Frechet_descriptors"] = frechet_distance(mine.descriptors, theirs.descriptors)
    known = {end: side.smiles for end, side in sides.items()}
    if train is not None:
        result["novelty"] = novelty(mine.smiles, train)
        divergences = guacamol.kl_divergences(mine.smiles, train, workers, progress)
        total = guacamol.kl_score(divergences)
        result.update({f"KL_{name}": value for name, value in divergences.items()})
        if total is None:
            notes.append("KL_score is left out: it needs molecules that differ in all ten values, on both sides.")
        else:
            result["KL_score"] = total
        known["/train"] = some(train)
    result.update(_chemnet(mine.smiles, known, notes, workers, progress))
    if "FCD/train" in result:
        result["FCD_score"] = guacamol.fcd_score(result.pop("FCD/train"))
    ordered = {name: result[name] for name in MEANING if name in result}
    return Comparison({**ordered, **result}, notes, (mine.properties, theirs.properties))


def _described(
    name: str,
    smiles: Sequence[str],
    workers: Optional[int],
    progress: bool,
    notes: Optional[List[str]] = None,
    structures_only: bool = False,
) -> Described:
    """Molecules described, at least one; a note says how many could not be.

    Raises:
        ValueError: none is valid.
    """
    found = describe(smiles, workers, name if progress else None, structures_only)
    if not found.smiles:
        raise ValueError(f"none of the {len(smiles):,} {name} molecules is valid: there is nothing to compare.")
    if notes is not None and len(found.smiles) < len(smiles):
        notes.append(
            f"{len(smiles) - len(found.smiles):,} of {len(smiles):,} {name} molecules are not valid and left out."
        )
    return found


def _of_structures(mine: Described, theirs: Described) -> Dict[str, float]:
    """Metrics by fingerprints, fragments and scaffolds."""
    result = {"SNN": nearest_similarity(mine.fingerprints, theirs.fingerprints)}
    result["Frag"] = cosine_similarity(*(Counter(chain.from_iterable(side.fragments)) for side in (mine, theirs)))
    scaffolds = [Counter(filter(None, side.scaffolds)) for side in (mine, theirs)]
    if all(scaffolds):
        result["Scaf"] = cosine_similarity(*scaffolds)
    return result


def _of_properties(mine: np.ndarray, theirs: np.ndarray) -> Dict[str, float]:
    """Distances of distributions of properties; none of one that could not be calculated."""
    from scipy.stats import wasserstein_distance

    values = {name: (mine[:, column], theirs[:, column]) for column, name in enumerate(PROPERTIES)}
    return {
        f"W1_{name}": float(wasserstein_distance(*both)) for name, both in values.items() if not np.isnan(both[0]).all()
    }


def _chemnet(
    mine: Sequence[str], known: Dict[str, Sequence[str]], notes: List[str], workers: Optional[int], progress: bool
) -> Dict[str, float]:
    """FCD to each of the known sets, by the end of its name; notes are added."""
    if not chemnet.is_installed():
        notes.append("FCD is left out: it needs the package fcd (pip install 'ipu-chem[metrics]').")
        return {}
    few = f"below {chemnet.FEW:,} it is too large, and noise"
    if len(mine) < chemnet.FEWEST:
        notes.append("FCD is left out: it needs two valid generated molecules or more.")
        return {}
    if len(mine) < chemnet.FEW:
        notes.append(f"FCD of {len(mine):,} generated molecules: {few}.")
    names = {"": "reference", _SCAFFOLDS: "scaffold test", "/train": "training"}
    found, generated = {}, chemnet.activations(mine, workers, "ChemNet, generated" if progress else None)
    for end, smiles in known.items():
        if len(smiles) < chemnet.FEWEST:
            notes.append(f"FCD{end} is left out: it needs two {names[end]} molecules or more.")
            continue
        if len(smiles) < chemnet.FEW:
            notes.append(f"FCD{end} to {len(smiles):,} {names[end]} molecules: {few}.")
        long = chemnet.too_long(mine) + chemnet.too_long(smiles)
        if long:
            notes.append(
                f"FCD{end}: {long:,} SMILES are longer than ChemNet reads, which changes all; it compares with none."
            )
        title = f"ChemNet, {names[end]}" if progress else None
        found[f"FCD{end}"] = chemnet.fcd(generated, chemnet.activations(smiles, workers, title))
    return found


def uniqueness(smiles: Sequence[str]) -> float:
    """Fraction of different ones among canonical SMILES."""
    return len(set(smiles)) / len(smiles)


def novelty(smiles: Sequence[str], train: Sequence[str]) -> float:
    """Fraction of the different canonical SMILES that ``train`` does not hold."""
    different = set(smiles)
    return len(different.difference(train)) / len(different)


def frechet_distance(values: np.ndarray, reference: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to two samples, each column in units of the reference's deviation.

    Args:
        values: [N, D].
        reference: [M, D]; its standard deviations are the units, 1 for what is constant.
    """
    deviation = reference.std(0)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    values, reference = values / scale, reference / scale
    centered = [sample - sample.mean(0) for sample in (values, reference)]
    covariances = [sample.T @ sample / len(sample) for sample in centered]
    return chemnet.frechet_distance(values.mean(0) - reference.mean(0), *covariances)


def _check_canonical(train: Sequence[str]) -> None:
    """Novelty compares texts: a training set in another spelling would make everything new."""
    checked = train[:: max(1, len(train) // _TRAIN_CHECKED)]
    canonical = [entry.smiles for entry in canonical_smiles(checked, workers=1)]
    others = [pair for pair in zip(checked, canonical) if pair[0] != pair[1]]
    # RDKit writes a few in a thousand of its own canonical SMILES anew.
    if len(others) > _RESPELLED * len(checked):
        raise ValueError(
            f"training SMILES are not canonical (RDKit writes {others[0][0]!r} as {others[0][1]!r}): "
            "take them from a prepared corpus or through canonical_smiles()."
        )
