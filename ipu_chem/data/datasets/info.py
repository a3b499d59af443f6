"""What every data set says of itself in `Store.info`.

On data's way: raw files -> molecules -> [info] -> store.
"""

from collections import Counter
from typing import Any, Dict, Sequence

from ipu_chem.data.smiles import Failure


def target_info(name: str, unit: str, extensive: bool) -> Dict[str, Any]:
    """One entry of ``info["targets"]``; an extensive target grows with the molecule and is a sum over atoms."""
    return {"name": name, "unit": unit, "extensive": extensive}


def failures_info(failures: Sequence[Failure]) -> Dict[str, Any]:
    """Molecules left out: how many, how many for which reason, and the full list [line, molecule, reason]."""
    return {
        "count": len(failures),
        "by_reason": dict(Counter(failure.reason for failure in failures).most_common()),
        "list": [list(failure) for failure in failures],
    }
