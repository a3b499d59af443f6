"""Models by name.

On data's way: ModelConfig -> build_model -> Backend.compile.
"""

import inspect
from typing import Any, Dict, Set

from torch import nn

from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.decoder_layers import Head
from ipu_chem.models.next_token import NextToken
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.spookynet import SpookyNet

# Those with ``needs_charge`` set take charge and spin of the molecules, too.
MODELS: Dict[str, Any] = {"schnet": SchNet, "painn": PaiNN, "spookynet": SpookyNet}
LANGUAGE_MODELS: Dict[str, Any] = {"chemgpt": ChemGPT}


def sizes_of(name: str) -> Set[str]:
    """What may be chosen about a model for itself: names of its constructor's arguments."""
    fixed = {"num_targets", "readout", "atom_references", "filter", "undirected", "energy_scale"}
    fixed |= {"vocab_size", "max_positions"}
    return set(inspect.signature({**MODELS, **LANGUAGE_MODELS}[name]).parameters) - fixed


def reads_text(name: str) -> bool:
    """Whether a model reads molecules written as text.

    Raises:
        ValueError: there is no such model.
    """
    if name not in MODELS and name not in LANGUAGE_MODELS:
        raise ValueError(f"model.name={name!r}: choose one of {', '.join([*MODELS, *LANGUAGE_MODELS])}.")
    return name in LANGUAGE_MODELS


def needs_charge(name: str) -> bool:
    """Whether a model takes charge and spin of molecules behind its other inputs."""
    return bool(getattr(MODELS.get(name), "needs_charge", False))


# What reading filters from a table saves depends on how much they cost: two layers in SchNet, one in PaiNN and in
# SpookyNet, which knows exact ones only.
_USUAL_FILTER = {"schnet": "table", "painn": "exact", "spookynet": "exact"}


def build_model(
    name: str,
    num_targets: int,
    extensive: bool,
    readout: str = "auto",
    filter: str = "exact",
    undirected: bool = False,
    energy_scale: float = 1.0,
    **sizes: Any,
) -> nn.Module:
    """A model with freshly drawn weights.

    Args:
        name: one of `MODELS`.
        num_targets: values predicted for every molecule.
        extensive: whether all of them grow with the molecule.
        readout: "sum", "mean", or "auto": sum for extensive targets.
        filter: "exact", "table", or "auto": whichever is faster.
        undirected: edges come once for both directions.
        energy_scale: eV that a prediction of 1 means, for models with physical terms.
        **sizes: of the model's constructor; those that only other models have are left out.

    Raises:
        ValueError: unknown name, a size that the model refuses or no model has, or a filter that it does not know.
    """
    if name not in MODELS:
        raise ValueError(f"model.name={name!r}: choose one of {', '.join(MODELS)}.")
    if readout == "auto":
        readout = "sum" if extensive else "mean"
    unknown = sorted(set(sizes).difference(*(sizes_of(other) for other in (*MODELS, *LANGUAGE_MODELS))))
    if unknown:
        raise ValueError(f"no model has {', '.join(unknown)}; {name} takes {', '.join(sorted(sizes_of(name)))}.")
    taken = {size: value for size, value in sizes.items() if size in sizes_of(name)}
    if filter == "auto":
        filter = _USUAL_FILTER[name]
    options = {"filter": filter, "energy_scale": energy_scale}
    own = inspect.signature(MODELS[name]).parameters
    if filter != "exact" and "filter" not in own:
        raise ValueError(f"model.filter={filter!r}: {name} has exact filters only; choose exact or auto.")
    taken.update({option: value for option, value in options.items() if option in own})
    return MODELS[name](num_targets=num_targets, readout=readout, undirected=undirected, **taken)


def build_language_model(name: str, vocab_size: int, max_positions: int, **sizes: Any) -> nn.Module:
    """A language model with freshly drawn weights, which gives logits in training and log-likelihoods otherwise.

    Args:
        name: one of `LANGUAGE_MODELS`.
        vocab_size: symbols of the vocabulary.
        max_positions: symbols of the longest molecule.
        **sizes: of the model's constructor; those that it does not have are left out.

    Raises:
        ValueError: a size that the model refuses.
    """
    taken = {size: value for size, value in sizes.items() if size in sizes_of(name)}
    return NextToken(LANGUAGE_MODELS[name](vocab_size=vocab_size, max_positions=max_positions, **taken))


def parameters_without_embeddings(model: nn.Module) -> int:
    """N of scaling laws: parameters, except rows of symbols, places and elements, read or predicted."""
    tables = [module for module in model.modules() if isinstance(module, (nn.Embedding, Head))]
    rows = {id(weight) for module in tables for weight in module.parameters(recurse=False)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in rows)
