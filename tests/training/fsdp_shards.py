"""What each of two processes holds of a model that they shard; `test_fsdp` starts this by torchrun."""

import json
import os
import sys

import torch

from ipu_chem.backends.options import Batching, TorchOptions, world_of_torchrun
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.fsdp import is_sharded
from ipu_chem.batches.types import TokenPack
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.registry import build_language_model
from ipu_chem.optim import OptimizerConfig


def main(folder: str) -> None:
    """Train two steps and write down who held what, then what is said of a model without layers and of an end."""
    world = world_of_torchrun()
    backend = TorchBackend("cpu", TorchOptions(threads=1, fsdp=True))
    torch.manual_seed(world.rank)  # the weights of the first process count
    model = build_language_model("chemgpt", 11, 8, hidden_features=32, num_layers=3)
    whole = sum(weight.numel() for weight in model.parameters())
    first = {name: value.clone() for name, value in model.state_dict().items()}
    symbols, places = torch.arange(8).expand(4, 8), torch.arange(8).expand(4, 8)
    batch = TokenPack(symbols, places, symbols, torch.full((4, 8), 1 / 64))
    backend.compile(model, token_cross_entropy, OptimizerConfig("adam"), Batching(1, 4, 2), batch)
    loaded = backend.state_dict()["model"]
    found = {"whole": whole, "same start": all(torch.equal(value, first[name]) for name, value in loaded.items())}

    layers, seen = model.model.layers, []
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: seen.append(sum(not shared(other) for other in layers)))
    for _ in range(2):
        backend.train_step(batch, 0.01)
    optimizer = backend._optimizer
    weights = list(model.parameters())
    states = [value for values in optimizer.state.values() for value in values.values() if value.dim()]
    found["layers whole at once"] = max(seen)
    found["weights"] = sum(map(held, weights))
    found["gradients"] = sum(held(weight.grad) for weight in weights)
    found["moments"] = sum(map(held, states))

    single = build_language_model("chemgpt", 11, 8, hidden_features=32, num_layers=1)
    try:
        backend.compile(single, token_cross_entropy, None, Batching(1, 1, 2), batch)
    except ValueError as error:
        found["one layer"] = str(error)
    again = build_language_model("chemgpt", 11, 8, hidden_features=32, num_layers=2)
    backend.compile(again, token_cross_entropy, OptimizerConfig("adam"), Batching(1, 4, 2), batch)
    backend.train_step(batch, 0.01)
    if world.rank == 1:
        write(folder, world.rank, found)
        os._exit(0)
    try:
        while True:
            backend.train_step(batch, 0.01)
    except ConnectionError as error:
        found["after an end"] = str(error)
    write(folder, world.rank, found)


def shared(module) -> bool:
    """Whether this process has only parts of all weights of a module."""
    return all(is_sharded(weight) for weight in module.parameters())


def held(tensor) -> int:
    """Numbers of a tensor that lie in this process."""
    return tensor.to_local().numel() if is_sharded(tensor) else tensor.numel()


def write(folder: str, rank: int, found) -> None:
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
