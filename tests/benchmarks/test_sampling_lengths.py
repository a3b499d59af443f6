"""The model that `benchmarks/sampling.py` races with: fresh, but for molecules of given lengths."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.sampling import LONGEST, VOCABULARY, model_of_lengths
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.generation.sampling import generate


def test_molecules_are_as_long_as_wanted():
    wanted = np.random.default_rng(0).normal(36, 5, 2000).round().astype(int)
    tokenizer = Tokenizer([*Tokenizer.special, *(f"[{number}]" for number in range(VOCABULARY - 4))])
    written = generate(model_of_lengths(wanted, tokenizer), tokenizer, 64, seed=0, max_length=LONGEST, progress=False)
    lengths = [text.count("[") + 1 for text in written.texts]
    assert np.mean(lengths) == pytest.approx(36, abs=2)
