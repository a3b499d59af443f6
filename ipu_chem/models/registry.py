"""Models by name.

On data's way: ModelConfig -> build_model -> Backend.compile.
"""

from typing import Any, Dict

from torch import nn

from ipu_chem.models.schnet import SchNet

MODELS: Dict[str, Any] = {"schnet": SchNet}


def build_model(name: str, num_targets: int, extensive: bool, readout: str = "auto", **sizes: Any) -> nn.Module:
    """A model with freshly drawn weights.

    Args:
        name: one of `MODELS`.
        num_targets: values predicted for every molecule.
        extensive: whether all of them grow with the molecule.
        readout: "sum", "mean", or "auto": sum for extensive targets.
        **sizes: of the model's constructor.

    Raises:
        ValueError: unknown name, or a size that the model refuses.
    """
    if name not in MODELS:
        raise ValueError(f"model.name={name!r}: choose one of {', '.join(MODELS)}.")
    if readout == "auto":
        readout = "sum" if extensive else "mean"
    return MODELS[name](num_targets=num_targets, readout=readout, **sizes)
