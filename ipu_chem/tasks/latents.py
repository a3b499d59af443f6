"""Features that the head of a graph model takes, and how far those of molecules are from those of training."""

import sys
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Mapping, Optional

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.batches.types import first_target
from ipu_chem.checkpoint import BEST, load_checkpoint
from ipu_chem.models.base import Graph, zero_padded
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.layers import at_least_float32, read_out
from ipu_chem.models.wrapper import Wrapper
from ipu_chem.tasks.graphs import GraphTask
from ipu_chem.uncertainty.domain import FILE, Domain, domain_of, read_domain, write_domain
from ipu_chem.uncertainty.residuals import checkpoint_of

ENOUGH = 5000  # molecules of a split, whose mean, covariance and quantiles say what those of all would


class NoLatents(ValueError):
    """A model has no features of atoms that its head takes."""


def has_latents(model: nn.Module) -> bool:
    """Test if a graph model, or the one in its wrappers, has a head that takes features of atoms."""
    return isinstance(getattr(_innermost(model), "head", None), nn.Module)


def latents(model: nn.Module, batches: Iterable[Any]) -> Iterator[np.ndarray]:
    """Features of the molecules of each batch, [K, F] float64, means over atoms, in the order of its real slots.

    Args:
        model: as a task makes it, on the CPU, with its weights; see `has_latents`.
        batches: of a loader for that model.

    Raises:
        NoLatents: the head takes something else.
    """
    if not has_latents(model):
        raise NoLatents("its model has no head")
    whole = _without_forces(model).float().eval()
    inner: Any = _innermost(whole)
    seen: List[Any] = []
    hooks = [
        inner.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
        inner.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
    ]
    try:
        for batch in batches:
            seen.clear()
            with torch.no_grad():
                whole(*batch[: first_target(batch)])
            graph, *taken = seen
            if len(taken) != 1 or getattr(taken[0], "shape", ())[:-1] != (graph.z.numel(),):
                raise NoLatents("its model's head does not take features of atoms")
            yield _pooled(zero_padded(graph), at_least_float32(taken[0]))
    finally:
        for hook in hooks:
            hook.remove()


def latents_in_order(model: nn.Module, loader: Any) -> np.ndarray:
    """Features of all molecules of a loader, [K, F] float64, in its order."""
    positions: List[np.ndarray] = []

    def batches() -> Iterator[Any]:
        for batch, places in loader.evaluation():
            positions.append(places)
            yield batch

    found = np.concatenate(list(latents(model, batches())))
    ordered = np.empty_like(found)
    ordered[np.concatenate(positions)] = found
    return ordered


def keep_domain(task: GraphTask, folder: Path, most: int = ENOUGH, whole: bool = False) -> Optional[Domain]:
    """Measure the domain of a run from its splits, and keep it in the run's folder.

    Args:
        task: loaded.
        folder: of the run, with its best checkpoint.
        most: molecules of a split, from which on some at random stand for all.
        whole: all molecules of the validation and test splits, whatever their number.

    Returns:
        None, and says on stderr why, where the model has no features of atoms. Without ``whole`` the test molecules of
        a larger split have no distances.

    Raises:
        FileNotFoundError, ValueError: there is no checkpoint, or it is damaged.
    """
    tensors, state = load_checkpoint(folder / BEST)
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
        model = task.model()
    model.load_state_dict(tensors["model"])
    several = {split: task.loader(split) for split in task.plans}
    try:
        train = _some_latents(model, several["train"], most)
        validation = _some_latents(model, several["validation"], None if whole else most)
        test = np.zeros((0, train.shape[1]))
        if "test" in several and (whole or len(several["test"].items) <= most):
            test = latents_in_order(model, several["test"])
        domain = domain_of(train, validation, test, checkpoint_of(state))
    except (NoLatents, np.linalg.LinAlgError) as error:
        print(f"warning: {folder} keeps no distances from its training molecules: {error}.", file=sys.stderr)
        return None
    write_domain(folder, domain)
    return domain


def _some_latents(model: nn.Module, loader: Any, most: Optional[int]) -> np.ndarray:
    """Features of all molecules of a loader, or of ``most`` or some more at random; [K, F] float64."""
    if most is None or len(loader.items) <= most:
        return latents_in_order(model, loader)
    some: List[np.ndarray] = []
    for features in latents(model, (batch for batch, _ in loader.epoch(0, 0))):
        some.append(features)
        if sum(map(len, some)) >= most:
            break
    return np.concatenate(some)


def known_domain(folder: Path, state: Mapping[str, Any]) -> Optional[Domain]:
    """The domain that a run has kept; None without, or if it is that of another checkpoint.

    Raises:
        ValueError: its file is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    domain = read_domain(folder)
    return domain if list(domain.checkpoint) == checkpoint_of(state) else None


def latent_doubts(
    domain: Domain, model: nn.Module, loader: Any, numbers: np.ndarray, name: Callable[[int], str]
) -> List[str]:
    """Sentences on molecules whose features are outside of a run's domain.

    Args:
        domain: of the run.
        model: of the run, with its weights.
        loader: of the K molecules.
        numbers: [K], which those are.
        name: of a molecule by its number.
    """
    distances = domain.distances(latents_in_order(model, loader))
    outside = np.flatnonzero(~(distances <= domain.limit))
    if not len(outside):
        return []
    first, farthest = int(numbers[outside[0]]), int(outside[np.argmax(distances[outside])])
    return [
        f"{len(outside):,} of {len(numbers):,} molecules are farther from the training molecules than 99.9 % of the "
        f"validation molecules, in what the model has learned (limit {domain.limit:.3g}); the first is {name(first)}, "
        f"the farthest {name(int(numbers[farthest]))} with {distances[farthest]:.3g}"
    ]


def _pooled(graph: Graph, atoms: Tensor) -> np.ndarray:
    pooled = read_out(atoms, graph.graph_index, graph.node_mask, graph.graph_mask, mean=True)
    return pooled[graph.graph_mask].double().numpy()


def _innermost(model: Any) -> Any:
    while isinstance(model, Wrapper):
        model = model.model
    return model


def _without_forces(model: Any) -> Any:
    """The model, changed so that it takes no derivatives."""
    if isinstance(model, EnergyForces):
        return _without_forces(model.model)
    if isinstance(model, Wrapper):
        model.model = _without_forces(model.model)
    return model
