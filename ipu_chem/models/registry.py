"""Models by name.

On data's way: ModelConfig -> build_model -> Backend.compile.
"""

import inspect
from typing import Any, Dict, Set

from torch import nn

from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet

MODELS: Dict[str, Any] = {"schnet": SchNet, "painn": PaiNN}


def sizes_of(name: str) -> Set[str]:
    """What may be chosen about a model besides its targets and readout: names of its constructor's arguments."""
    return set(inspect.signature(MODELS[name]).parameters) - {"num_targets", "readout", "atom_references"}


def build_model(name: str, num_targets: int, extensive: bool, readout: str = "auto", **sizes: Any) -> nn.Module:
    """A model with freshly drawn weights.

    Args:
        name: one of `MODELS`.
        num_targets: values predicted for every molecule.
        extensive: whether all of them grow with the molecule.
        readout: "sum", "mean", or "auto": sum for extensive targets.
        **sizes: of the model's constructor; those that only other models have are left out.

    Raises:
        ValueError: unknown name, or a size that the model refuses or no model has.
    """
    if name not in MODELS:
        raise ValueError(f"model.name={name!r}: choose one of {', '.join(MODELS)}.")
    if readout == "auto":
        readout = "sum" if extensive else "mean"
    unknown = sorted(set(sizes).difference(*(sizes_of(other) for other in MODELS)))
    if unknown:
        raise ValueError(f"no model has {', '.join(unknown)}; {name} takes {', '.join(sorted(sizes_of(name)))}.")
    taken = {size: value for size, value in sizes.items() if size in sizes_of(name)}
    return MODELS[name](num_targets=num_targets, readout=readout, **taken)
