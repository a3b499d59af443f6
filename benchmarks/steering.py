"""Molecules that keep a scaffold, a linker's ends, decorated points or a motif, drawn by a trained language model.

    python -m benchmarks.steering runs/moses

Every molecule that is written is read again by RDKit with a pattern of its own. Fractions are of all texts begun:
valid ones, those that keep what was given, and different ones among the molecules written. CPU seconds of one process
are for 1,000 molecules written, drawing, checking and what was left out included; a row of molecules without anything
given stands beside. Distances are 1 - Tanimoto similarity to the nearest training molecule.
"""

import argparse
import os
import sys
import time
from typing import Any, List, Optional, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch
from rdkit import Chem

from benchmarks.common import Goals, machine_line, print_table, throughput_line
from ipu_chem.generation.molecules import EMPTY, NO_MOLECULE, decode_many
from ipu_chem.generation.sampling import generate
from ipu_chem.generation.steering.distance import fingerprints, nearest_distance
from ipu_chem.generation.steering.goals import GOALS
from ipu_chem.generation.steering.sampler import Sampler
from ipu_chem.generation.steering.steer import steer
from ipu_chem.tasks.language_model import load_language_model

# What is asked for, and a SMARTS of each that all molecules must match.
CASES = (
    ("scaffold", "c1ccc(-c2ccncc2)cc1", "c1ccc(-c2ccncc2)cc1"),
    ("scaffold", "O=C(Nc1ccccc1)c1ccc([*:1])cc1", "O=C([NH1]c1[cH][cH][cH][cH][cH]1)c1[cH][cH]c[cH][cH]1"),
    ("linker", "c1ccccc1[*:1].C1CCN([*:2])CC1", "[cH]1[cH][cH][cH][cH][cD3]1.[CH2]1[CH2][CH2][ND3][CH2][CH2]1"),
    ("linker", "NS(=O)(=O)c1ccc([*:1])cc1.c1ccoc1[*:2]", "[NH2]S(=O)(=O)c1[cH][cH][cD3][cH][cH]1.[cH]1[cH][cH]o[cD3]1"),
    ("decorate", "c1cc([*:1])ccc1[*:2]", "[cH]1[cH]c(-[!#1])[cH][cH]c1-[!#1]"),
    ("decorate", "c1nc([*:1])sc1[*:2]", "[cH]1nc(-[!#1])sc1-[!#1]"),
    ("decorate", "c1c([*:1])nc([*:2])nc1[*:3]", "[cH]1c(-[!#1])nc(-[!#1])nc1-[!#1]"),
    ("motif", "c1cn[nH]c1", "c1cnnc1"),
    ("motif", "C(=O)([*:1])N[*:2]", "C(=O)(-[!#1])[NH1]-[!#1]"),
)
HEADER = (
    "option",
    "given",
    "written",
    "kept by RDKit",
    "of texts: valid",
    "kept",
    "different",
    "CPU s per 1,000",
    "distance",
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure all cases on a run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a language model of SELFIES that ipu-chem has trained")
    parser.add_argument("--count", type=int, default=1000, help="molecules of a case (default: 1000)")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(machine_line("float32", "torch", "rdkit", "selfies"))
    language = load_language_model(options.run)
    print(f"{options.run}: {sum(one.numel() for one in language.model.parameters()):,} parameters")
    train = fingerprints(_training_molecules(options.run), 1)
    sampler = Sampler(language.model, language.tokenizer, workers=1)
    goals, seconds, written = Goals(), 0.0, 0
    rows: List[Any] = [_free(language, options.count, train)]
    print(", ".join(rows[0]), flush=True)
    for kind, given, pattern in CASES:
        start = time.process_time()
        found = steer(GOALS[kind](given, sampler), sampler, options.count, progress=False)
        spent = time.process_time() - start
        molecules = [one.smiles for one in found.decoded]
        query = Chem.MolFromSmarts(pattern)
        kept = sum(Chem.MolFromSmiles(smiles).HasSubstructMatch(query) for smiles in molecules) / len(molecules)
        invalid = sum(count for reason, count in found.reasons.items() if reason in (EMPTY, NO_MOLECULE))
        goals.at_least(f"--{kind} {given}: fraction that keeps it", kept, 1.0)
        fractions = 1 - invalid / found.drawn, found.passed / found.drawn, len(set(molecules)) / len(molecules)
        thousand = spent / len(molecules) * 1000
        rows.append(_row(f"--{kind}", given, len(molecules), kept, *fractions, thousand, molecules, train))
        seconds, written = seconds + spent, written + len(molecules)
        print(f"{', '.join(rows[-1])}: {', '.join(molecules[:3])}; left out {found.reasons}", flush=True)
    print_table(f"{options.count:,} molecules each", HEADER, rows)
    missed = goals.finish(not options.no_goals)
    print(throughput_line(written, seconds))
    return missed


def _free(language: Any, count: int, train: np.ndarray) -> List[Any]:
    """The row of molecules without anything given."""
    start = time.process_time()
    samples = generate(language.model, language.tokenizer, count, progress=False)
    molecules = [one.smiles for one in decode_many(samples.texts, 1) if one.smiles]
    spent = time.process_time() - start
    fractions = len(molecules) / count, 1.0, len(set(molecules)) / len(molecules)
    return _row("none", "", len(molecules), 1.0, *fractions, spent / len(molecules) * 1000, molecules, train)


def _row(*values: Any) -> List[Any]:
    option, given, written, kept, valid, passed, different, seconds, molecules, train = values
    distance = f"{nearest_distance(fingerprints(molecules, 1), train):.3f}" if len(train) else ""
    fractions = [f"{value:.3f}" for value in (valid, passed, different)]
    return [option, given, f"{written:,}", f"{kept:.1%}", *fractions, f"{seconds:.1f}", distance]


def _training_molecules(run: str) -> List[str]:
    """SMILES of the molecules that a run was trained on; none if they are not there any more."""
    from ipu_chem.generation.samples import known_molecules
    from ipu_chem.trained_run import TrainedRun

    try:
        return known_molecules(TrainedRun.load(run).loaded_task()).train or []
    except (OSError, ValueError) as error:
        print(f"no distances: {error}")
        return []


if __name__ == "__main__":
    sys.exit(main())
