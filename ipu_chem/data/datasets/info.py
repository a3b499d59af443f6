"""What every data set says of itself in `Store.info`.

On data's way: raw files -> molecules -> [info] -> store.
"""

from collections import Counter
from typing import Any, Dict, Iterable, List

from ipu_chem.data.smiles import Failure

_LISTED = 100_000


def target_info(name: str, unit: str, extensive: bool) -> Dict[str, Any]:
    """One entry of ``info["targets"]``; an extensive target grows with the molecule and is a sum over atoms."""
    return {"name": name, "unit": unit, "extensive": extensive}


def failures_info(failures: Iterable[Failure]) -> Dict[str, Any]:
    """Molecules left out: how many, how many for which reason, and a list [line, molecule, reason] of them.

    The list ends after 100,000, so that a corpus read by its wrong column does not fill memory; the counts do not.
    """
    by_reason: Counter = Counter()
    listed: List[List[Any]] = []
    for failure in failures:
        by_reason[failure.reason] += 1
        if len(listed) < _LISTED:
            listed.append(list(failure))
    return {"count": sum(by_reason.values()), "by_reason": dict(by_reason.most_common()), "list": listed}
