"""What kind of run a config asks for: the one place that tells language models from those that learn labels.

On data's way: RunConfig -> [kind_of] -> which RunData, which model, which prediction.
"""

from typing import List

from ipu_chem.config import RunConfig
from ipu_chem.data.datasets import DATASETS
from ipu_chem.metrics import BINARY
from ipu_chem.models.registry import reads_text

GRAPHS = "graphs"  # labels of molecules in 3D
TEXT = "text"  # the next symbol
TEXT_PROPERTY = "text property"  # labels of molecules as text


def kind_of(config: RunConfig) -> str:
    """`GRAPHS`, `TEXT` or `TEXT_PROPERTY`: a model of text that is given labels, or a set that has them, learns them.

    Raises:
        ValueError: there is no such model, or ``model.freeze`` is for a model that has no head of its own.
    """
    name = config.model.name
    if reads_text(name):
        kind = TEXT_PROPERTY if target_names(config) or has_table(config) else TEXT
    else:
        kind = GRAPHS
    if config.model.freeze and kind == TEXT:
        raise ValueError("model.freeze=true trains the head that predicts labels alone; name them with data.target.")
    return kind


def target_names(config: RunConfig) -> List[str]:
    """The labels that `data.target` names."""
    return [name.strip() for name in config.data.target.split(",") if name.strip()]


def has_table(config: RunConfig) -> bool:
    """Whether `data.name` is a data set whose molecules are SMILES with labels."""
    return config.data.name in DATASETS and DATASETS[config.data.name].table is not None


def learns_classes(config: RunConfig) -> bool:
    """Whether the labels are classes, as far as that is known before they are read."""
    name = config.data.name
    return getattr(config.data, "kind", "") == BINARY or (name in DATASETS and DATASETS[name].has_classes)
