"""torch.compile for programs of one shape: what is compiled, with what, and where it is kept for the next run."""

import os
import sys
from collections import Counter
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.options import TorchOptions
from ipu_chem.models.base import GraphModel, blocks_of

_MOST_PROGRAMS = 128  # of a process


def compiled(module: nn.Module, options: TorchOptions) -> Callable[..., Any]:
    """A module whose code torch writes at the first call, for the shapes of that call.

    Args:
        module: called with tensors whose shapes never change.
        options: of torch.compile.
    """
    return torch.compile(module, **_arguments(options))


def compiled_programs(program: Program, options: TorchOptions) -> Tuple[Any, Any]:
    """The training program, batch -> (prediction, loss), and the evaluation program, inputs -> prediction.

    What takes no weights (masks, indices, distances) is made before them: inside, a compiler would fuse its making
    into every use and work it out anew for every feature of every edge.
    """
    first = program.first_target
    prepare, rest = _halves(program.model)
    train, predict = compiled(Program(rest, program.loss, first), options), compiled(rest, options)
    return (
        lambda batch: train((*prepare(*batch[:first]), *batch[first:])),
        lambda *inputs: predict(*prepare(*inputs)),
    )


def _halves(model: nn.Module) -> Tuple[Callable[..., Tuple[Any, ...]], nn.Module]:
    """The part of a model that uses no weight, and the rest of it."""
    return (model.prepare, _Prepared(model)) if isinstance(model, GraphModel) else (lambda *inputs: inputs, model)


class _Prepared(nn.Module):
    """A model that takes what its `prepare` has made."""

    def __init__(self, model: GraphModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *prepared: Any) -> Any:
        return self.model.from_prepared(*prepared)


def compile_blocks(model: nn.Module, options: TorchOptions) -> None:
    """Compile the blocks that a model repeats, in place: equal blocks share one program.

    Args:
        model: names its blocks (`blocks()`).
        options: of torch.compile.

    Raises:
        ValueError: the model repeats nothing, or this torch compiles every block anew.
    """
    repeated = repeated_blocks(model)
    if not repeated:
        raise ValueError(
            "torch.compile_blocks=true: the model names no blocks that it repeats; leave it out, the model is then "
            "compiled as a whole."
        )
    if not hasattr(getattr(torch, "compiler", None), "set_stance"):  # came when weights became inputs of the code
        raise ValueError(
            f"torch.compile_blocks=true: torch {torch.__version__} would compile every block anew; use torch 2.6 or "
            "newer, or leave it out."
        )
    for block in repeated:
        block.compile(**_arguments(options))


def repeated_blocks(model: nn.Module) -> List[nn.Module]:
    """Blocks of a kind that the model has several of."""
    blocks = [model.get_submodule(name) for name in blocks_of(model)]
    kinds = Counter(type(block) for block in blocks)
    return [block for block in blocks if kinds[type(block)] > 1]


def _arguments(options: TorchOptions) -> Dict[str, Any]:
    """Of torch.compile."""
    _allow_many_programs()
    arguments: Dict[str, Any] = {"dynamic": False, "backend": options.compile_backend}
    if options.compile_backend == "inductor":
        _keep_programs()
        arguments["options"] = _inductor_options(options)
    return arguments


def _allow_many_programs() -> None:
    """Let one process compile the programs of many runs.

    To torch all are one function, compiled anew for other shapes, and after eight of them it gives up without an error.
    """
    import torch._dynamo.config as config

    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # renamed in torch 2.6
    setattr(config, name, max(getattr(config, name), _MOST_PROGRAMS))


def _inductor_options(options: TorchOptions) -> Dict[str, Any]:
    """Those that this torch has."""
    import torch._inductor.config as config

    # Indices come from collation and are made to fit; a check of each costs more than the gather.
    wanted: Dict[str, Any] = {"assert_indirect_indexing": False}
    if options.cuda_graphs:
        wanted["triton.cudagraphs"] = True
    known = (getattr(config, "get_config_copy", None) or config.to_dict)()  # renamed in newer torch
    return {name: value for name, value in wanted.items() if name in known}


def _keep_programs() -> None:
    """Compiled programs are found again by later runs, unless the user has a folder for them."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:  # inductor sets it when it is imported
        from ipu_chem.cache import cache_folder

        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        folder = cache_folder() / f"inductor-torch{torch.__version__}-python{python}"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    import torch._inductor.config as config

    if hasattr(config, "fx_graph_cache") and "TORCHINDUCTOR_FX_GRAPH_CACHE" not in os.environ:
        config.fx_graph_cache = True
