"""Models by name.

A model is ``module:Class`` here, so that names and options are known without torch; `model_class` imports it.
"""

from typing import TYPE_CHECKING, Any, Dict, Set, Type

from ipu_chem.signatures import load, parameters

if TYPE_CHECKING:
    from torch import nn

    from ipu_chem.models.base import GraphModel

MODELS: Dict[str, Any] = {
    "schnet": "ipu_chem.models.schnet:SchNet",
    "painn": "ipu_chem.models.painn:PaiNN",
    "spookynet": "ipu_chem.models.spookynet:SpookyNet",
}
LANGUAGE_MODELS: Dict[str, Any] = {"chemgpt": "ipu_chem.models.chemgpt:ChemGPT"}

# Parameters of constructors that a run fills from its data and its pack; the others are options.
FILLED = frozenset("num_targets atom_references undirected energy_scale vocab_size max_positions".split())


def model_class(name: str) -> Any:
    """The class of a registered model, or of ``package.module:Class``.

    Raises:
        ValueError: there is no such model.
    """
    known = {**MODELS, **LANGUAGE_MODELS}
    if name not in known and ":" not in name:
        raise ValueError(f"model.name={name!r}: choose one of {', '.join(known)}, or package.module:Class of your own.")
    target = known.get(name, name)
    return load(target, "model.name") if isinstance(target, str) else target


def _parameters(name: str) -> Set[str]:
    return {parameter.name for parameter, _ in parameters(model_class(name))}


def sizes_of(name: str) -> Set[str]:
    """Options of a model: names of its constructor's arguments that no run fills."""
    return _parameters(name) - FILLED - {"readout", "filter"}


def reads_text(name: str) -> bool:
    """True if a model reads molecules written as text.

    Raises:
        ValueError: there is no such model.
    """
    if name not in LANGUAGE_MODELS and name not in MODELS:
        model_class(name)
    return name in LANGUAGE_MODELS


def graph_model_class(name: str) -> "Type[GraphModel]":
    """The class of a graph model, which says what it needs.

    Raises:
        ValueError: there is no such model, or it is none of graphs.
    """
    from ipu_chem.models.base import GraphModel

    found = model_class(name)
    if not (isinstance(found, type) and issubclass(found, GraphModel)):
        raise ValueError(
            f"model.name={name}: {getattr(found, '__name__', found)} is no graph model; derive the class from "
            "ipu_chem.models.base.GraphModel, and let its forward take a Graph."
        )
    return found


def needs_charge(name: str) -> bool:
    """True if a model takes charge and spin of molecules."""
    return graph_model_class(name).needs_charge


def build_model(
    name: str,
    num_targets: int,
    extensive: bool,
    readout: str = "auto",
    filter: str = "exact",
    undirected: bool = False,
    energy_scale: float = 1.0,
    **sizes: Any,
) -> "GraphModel":
    """A graph model with freshly drawn weights.

    Args:
        name: one of `MODELS`, or ``package.module:Class``.
        num_targets: values predicted for every molecule.
        extensive: whether all of them grow with the molecule.
        readout: "sum", "mean", or "auto": sum for extensive targets.
        filter: "exact", "table", or "auto": whichever is faster.
        undirected: edges come once for both directions; of a model that does not know it, they come twice.
        energy_scale: eV that a prediction of 1 means, for models with physical terms.
        **sizes: of the model's constructor.

    Raises:
        ValueError: unknown name, a size that the model refuses or does not have, or a filter that it does not know.
    """
    from ipu_chem.models.wrapper import BothDirections

    own, kind = _parameters(name), graph_model_class(name)
    unknown = sorted(set(sizes) - own)
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; it takes {', '.join(sorted(sizes_of(name)))}.")
    usual = "sum" if extensive else "mean"
    filter = kind.usual_filter if filter == "auto" else filter
    if filter != "exact" and "filter" not in own:
        raise ValueError(f"model.filter={filter!r}: {name} has exact filters only; choose exact or auto.")
    if readout not in ("auto", usual) and "readout" not in own:
        raise ValueError(f"model.readout={readout!r}: {name} has no parameter readout; choose auto.")
    given = {"num_targets": num_targets, "readout": usual if readout == "auto" else readout, "filter": filter}
    given.update(undirected=undirected, energy_scale=energy_scale)
    model = kind(**{option: value for option, value in given.items() if option in own}, **sizes)
    return BothDirections(model) if undirected and "undirected" not in own else model


def build_language_model(name: str, vocab_size: int, max_positions: int, **sizes: Any) -> "nn.Module":
    """A language model with freshly drawn weights, which gives logits in training and log-likelihoods otherwise.

    Args:
        name: one of `LANGUAGE_MODELS`.
        vocab_size: tokens of the vocabulary.
        max_positions: tokens of the longest molecule.
        **sizes: of the model's constructor.

    Raises:
        ValueError: a size that the model refuses.
    """
    from ipu_chem.models.next_token import NextToken

    return NextToken(model_class(name)(vocab_size=vocab_size, max_positions=max_positions, **sizes))


def parameters_without_embeddings(model: "nn.Module") -> int:
    """N of scaling laws: parameters, except rows of tokens, places and elements, read or predicted."""
    from torch import nn

    from ipu_chem.models.decoder_layers import Head

    tables = [module for module in model.modules() if isinstance(module, (nn.Embedding, Head))]
    rows = {id(weight) for module in tables for weight in module.parameters(recurse=False)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in rows)
