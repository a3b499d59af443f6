"""Rows of the table that MOSES has published, to be read beside one's own.

D. Polykovskiy et al., "Molecular Sets (MOSES): a benchmarking platform for molecular generation models", Front.
Pharmacol. 11, 565644 (2020), as in the README of github.com/molecularsets/moses: means and standard deviations of
three trainings on 1,584,663 molecules, 30,000 molecules drawn from each, compared with all 176,074 of the test set and
all 176,225 of the scaffold test set. Fewer reference molecules alone lower SNN and Scaf.
"""

from typing import Dict, NamedTuple, Tuple

COLUMNS = (
    *("validity", "unique@1000", "unique@10000", "FCD", "FCD/TestSF", "SNN", "SNN/TestSF"),
    *("Frag", "Frag/TestSF", "Scaf", "Scaf/TestSF", "IntDiv1", "IntDiv2", "Filters", "novelty"),
)
CONDITIONS = (
    "published values are of 30,000 molecules against MOSES' whole test sets (176,074 and 176,225); fewer reference "
    "molecules alone lower SNN and Scaf"
)


class Published(NamedTuple):
    """A published value and its standard deviation over trainings, both 0 or more."""

    value: float
    deviation: float


def _row(*cells: Tuple[float, float]) -> Dict[str, Published]:
    assert len(cells) == len(COLUMNS)
    return {name: Published(*cell) for name, cell in zip(COLUMNS, cells)}


MODELS: Dict[str, Dict[str, Published]] = {
    "CharRNN": _row(
        (0.9748, 0.0264), (1.0, 0.0), (0.9994, 0.0003), (0.0732, 0.0247), (0.5204, 0.0379), (0.6015, 0.0206),
        (0.5649, 0.0142), (0.9998, 0.0002), (0.9983, 0.0003), (0.9242, 0.0058), (0.1101, 0.0081), (0.8562, 0.0005),
        (0.8503, 0.0005), (0.9943, 0.0034), (0.8419, 0.0509),
    ),
    "VAE": _row(
        (0.9767, 0.0012), (1.0, 0.0), (0.9984, 0.0005), (0.0990, 0.0125), (0.5670, 0.0338), (0.6257, 0.0005),
        (0.5783, 0.0008), (0.9994, 0.0001), (0.9984, 0.0003), (0.9386, 0.0021), (0.0588, 0.0095), (0.8558, 0.0004),
        (0.8498, 0.0004), (0.9970, 0.0002), (0.6949, 0.0069),
    ),
    "AAE": _row(
        (0.9368, 0.0341), (1.0, 0.0), (0.9973, 0.0020), (0.5555, 0.2033), (1.0572, 0.2375), (0.6081, 0.0043),
        (0.5677, 0.0045), (0.9910, 0.0051), (0.9905, 0.0039), (0.9022, 0.0375), (0.0789, 0.0090), (0.8557, 0.0031),
        (0.8499, 0.0030), (0.9960, 0.0006), (0.7931, 0.0285),
    ),
    "JTN-VAE": _row(
        (1.0, 0.0), (1.0, 0.0), (0.9996, 0.0003), (0.3954, 0.0234), (0.9382, 0.0531), (0.5477, 0.0076),
        (0.5194, 0.0070), (0.9965, 0.0003), (0.9947, 0.0002), (0.8964, 0.0039), (0.1009, 0.0105), (0.8551, 0.0034),
        (0.8493, 0.0035), (0.9760, 0.0016), (0.9143, 0.0058),
    ),
    "LatentGAN": _row(
        (0.8966, 0.0029), (1.0, 0.0), (0.9968, 0.0002), (0.2968, 0.0087), (0.8281, 0.0117), (0.5371, 0.0004),
        (0.5132, 0.0002), (0.9986, 0.0004), (0.9972, 0.0007), (0.8867, 0.0009), (0.1072, 0.0098), (0.8565, 0.0007),
        (0.8505, 0.0006), (0.9735, 0.0006), (0.9498, 0.0006),
    ),
}  # fmt: skip
