"""A run put together from its config: data of the kind that its model reads, and a device.

On data's way: RunConfig -> RunData, Backend -> Trainer; the same assembly serves training and evaluation.
"""

from pathlib import Path
from typing import Any, Mapping, Optional

from ipu_chem.backends import get_backend
from ipu_chem.backends.base import Backend
from ipu_chem.config import RunConfig
from ipu_chem.tasks.base import RunData
from ipu_chem.tasks.graphs import load_graphs
from ipu_chem.tasks.kinds import TEXT, TEXT_PROPERTY, kind_of


def load_data(config: RunConfig, plans: Optional[Path] = None, state: Optional[Mapping[str, Any]] = None) -> RunData:
    """Molecules, split and plans of a run.

    Args:
        config: of the run.
        plans: folder with the plans of an earlier start of the same run.
        state: of a checkpoint of that run.

    Raises:
        ValueError: anything about the data or the pack shape that cannot work; says what would.
    """
    kind = kind_of(config)
    if kind == TEXT:
        from ipu_chem.tasks.language import load_text

        return load_text(config, plans, state or {})
    if kind == TEXT_PROPERTY:
        from ipu_chem.tasks.text_labels import load_text_property

        return load_text_property(config, plans, state or {})
    return load_graphs(config, plans, state or {})


def make_backend(config: RunConfig) -> Backend:
    """The device that the config asks for."""
    return get_backend(config.accelerator, config.torch, config.ipu, config.precision)
