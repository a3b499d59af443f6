"""The loop of steering: molecules are drawn until as many as asked for hold what was given."""

from collections import Counter
from typing import Dict, List, NamedTuple

import numpy as np
from tqdm import tqdm

from ipu_chem.generation.molecules import NO_MOLECULE, Decoded, decode_many
from ipu_chem.generation.sampling import Samples
from ipu_chem.generation.steering.goals import LOST, Goal, seed_of
from ipu_chem.generation.steering.sampler import Sampler

# Texts drawn before the first, second, ... check, whatever the count: the first molecules of more are those of fewer.
_ROUNDS = (256, 512, 1024)


class Steered(NamedTuple):
    """Molecules that hold what was given.

    Attributes:
        samples: N of them; log-likelihoods are those of the texts as they are, what was given included.
        decoded: the same N as canonical SMILES.
        drawn: texts that were begun.
        passed: of these, molecules that hold it; N or more.
        reasons: why others were left out -> how many, the most frequent first.
    """

    samples: Samples
    decoded: List[Decoded]
    drawn: int
    passed: int
    reasons: Dict[str, int]


def steer(
    goal: Goal,
    sampler: Sampler,
    count: int,
    seed: int = 0,
    tries: int = 20,
    progress: bool = True,
) -> Steered:
    """Draw molecules until ``count`` hold what was given, or ``tries`` texts for each of them are drawn.

    Args:
        goal: of `GOALS`.
        sampler: the model, and the manner of drawing.
        count: molecules.
        seed: 0 or more; the first molecules of a larger count are those of a smaller one.
        tries: texts drawn for each molecule asked for, on the mean, at most.
        progress: show a bar on stderr.

    Returns:
        ``count`` molecules, or fewer where the tries were too few.

    Raises:
        ValueError: none was found.
        FloatingPointError: the model gives NaN.
    """
    from rdkit import Chem

    limit = count * tries
    selfies: List[str] = []
    decoded: List[Decoded] = []
    finished: List[bool] = []
    nats: List[float] = []
    reasons: "Counter[str]" = Counter()
    drawn = round_ = 0
    with tqdm(total=count, desc="steering", unit="molecule", disable=not progress) as bar:
        while len(decoded) < count and drawn < limit:
            here = min(_ROUNDS[min(round_, len(_ROUNDS) - 1)], limit - drawn)
            samples, given_up = goal.draw(sampler, here, seed_of(seed, round_))
            drawn, round_ = drawn + here, round_ + 1
            going = [place for place, reason in enumerate(given_up) if not reason]
            reasons.update(reason for reason in given_up if reason)
            for place, one in zip(going, decode_many([samples.texts[place] for place in going], sampler.workers)):
                mol = None if one.reason else Chem.MolFromSmiles(one.smiles)  # RDKit does not read all that it writes
                reason = one.reason or (NO_MOLECULE if mol is None else "" if goal.holds(mol) else LOST)
                if reason:
                    reasons[reason] += 1
                    continue
                selfies.append(samples.texts[place])
                decoded.append(one)
                finished.append(bool(samples.finished[place]))
                nats.append(float(samples.log_likelihoods[place]))
            bar.update(min(len(decoded), count) - bar.n)
    if not decoded:
        why = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
        raise ValueError(
            f"{goal.option}: none of {drawn:,} molecules drawn keeps what was given ({why}); raise --tries, or give a "
            "fragment that is more like the molecules of the training set."
        )
    made = Samples(selfies[:count], np.array(finished[:count], bool), np.array(nats[:count]))
    return Steered(made, decoded[:count], drawn, len(decoded), dict(reasons.most_common()))
