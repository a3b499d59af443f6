"""Doubts about molecules that a finished run is asked for: what is unlike everything that it was trained on."""

from typing import Callable, List

from ipu_chem.tasks.graphs import GraphTask
from ipu_chem.tasks.latents import known_domain, latent_doubts
from ipu_chem.tasks.seen import doubts
from ipu_chem.trained_run import TrainedRun
from packing.store import Store


def doubts_of(run: TrainedRun, store: Store, name: Callable[[int], str]) -> List[str]:
    """Sentences on molecules that differ from a run's training molecules, or are far from them in its features.

    Args:
        run: finished; features are those of a graph model that keeps its domain.
        store: molecules.
        name: of a molecule by its number.

    Raises:
        ValueError: the run's domain is damaged.
    """
    found, domain = doubts(store, run.state, name), known_domain(run.folder, run.state)
    if domain is None or not isinstance(run.task, GraphTask):
        return found
    prepared = run.prepare(store)
    if prepared.loader is None:
        return found
    return found + latent_doubts(domain, run.new_model(), prepared.loader, prepared.items, name)
