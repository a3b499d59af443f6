"""GPT-2 as far as memory goes, and the layouts in which Graphcore published its training.

Source: graphcore/examples, nlp/gpt2/pytorch: benchmarks.yml (layers, replicas, shares of temporary data), tools.py
(AdamW with 16-bit weights, gradients and first moments), arguments.py (optimizer state in streaming memory by
default), train_gpt2.py (embedding and tied head on IPU 0, recomputation from every layer).
"""

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.backends.base import Program
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.memory import IpuMemory, MemoryModel
from ipu_chem.backends.poptorch.meta import meta_copy
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.profile import BlockProfile, profile_blocks
from ipu_chem.backends.poptorch.stages import plan_stages
from ipu_chem.models.base import Model
from ipu_chem.optim import OptimizerConfig

_VOCAB = 50_272
_DROPOUT = 0.1
HALF = Precision(weights="float16", accumulation="float16", partials="float16", stochastic_rounding=True)


class Row(NamedTuple):
    """One published layout; every micro-batch is one sequence."""

    name: str
    hidden: int
    heads: int
    layers: int
    tokens: int
    layers_per_ipu: Tuple[int, ...]
    proportions: Tuple[float, ...]
    replicas: int
    sharding: bool


ROWS = (
    Row("small", 768, 12, 12, 1024, (0, 4, 4, 4), (0.15,) * 4, 4, True),
    Row("medium", 1024, 16, 24, 1024, (0, 3, 3, 3, 3, 4, 4, 4), (0.3,) + (0.15,) * 7, 2, True),
    Row("large_512", 1280, 20, 36, 512, (1, 5, 5, 5, 5, 5, 5, 5), (0.15, 0.12) + (0.15,) * 6, 2, True),
    Row(
        "large", 1280, 20, 36, 1024, (0, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 2),
        (0.15, 0.15, 0.2, 0.2, 0.2, 0.15, 0.15, 0.2, 0.2, 0.15, 0.15, 0.2, 0.2, 0.15, 0.15, 0.2), 1, False,
    ),
)  # fmt: skip


class Tokens(NamedTuple):
    ids: Tensor
    labels: Tensor
    weight: Tensor


class Layer(nn.Module):
    """Attention and feed-forward in the precision of the weights, with dropout."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.merge = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        packs, tokens, hidden = x.shape
        query, key, value = [
            part.reshape(packs, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.ln_1(x)).split(hidden, 2)
        ]
        scores = torch.matmul(query, key.transpose(2, 3)) * (hidden // self.heads) ** -0.5
        slot = torch.arange(tokens, device=x.device)
        scores = scores + torch.where(slot <= slot.unsqueeze(1), 0.0, -1.0e4).to(x.dtype)
        shares = functional.dropout(torch.softmax(scores, -1), _DROPOUT, True)
        seen = torch.matmul(shares, value).transpose(1, 2).reshape(x.shape)
        x = x + functional.dropout(self.merge(seen), _DROPOUT, True)
        wide = functional.gelu(self.widen(self.ln_2(x)), approximate="tanh")
        return x + functional.dropout(self.narrow(wide), _DROPOUT, True)


class Embedding(nn.Module):
    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(_VOCAB, hidden), nn.Embedding(tokens, hidden)

    def forward(self, ids: Tensor) -> Tensor:
        return self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))


class Head(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.ln_f, self.weight = nn.LayerNorm(weight.shape[1]), weight

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.ln_f(x), self.weight)


class GPT2(Model):
    def __init__(self, row: Row) -> None:
        super().__init__()
        self.embedding = Embedding(row.tokens, row.hidden)
        self.layers = nn.ModuleList([Layer(row.hidden, row.heads) for _ in range(row.layers)])
        self.head = Head(self.embedding.wte.weight)

    def blocks(self) -> List[str]:
        return ["embedding", *(f"layers.{number}" for number in range(len(self.layers))), "head"]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def profile(row: Row) -> List[BlockProfile]:
    """In 16 bits; the layers are equal, so three are measured."""
    with torch.device("meta"):
        program = meta_copy(Program(GPT2(row._replace(layers=3)), cross_entropy), torch.float16)
    ids = torch.zeros(1, row.tokens, dtype=torch.int32)
    blocks = profile_blocks(program, Tokens(ids, ids.long(), torch.zeros(1, row.tokens)))
    layers = [blocks[1]._replace(name=f"layers.{number}") for number in range(row.layers)]
    assert blocks[1:-1] == layers[:3]
    return [blocks[0], *layers, blocks[-1]]


def fill(
    row: Row, profiles: List[BlockProfile], layers_per_ipu: Optional[Tuple[int, ...]] = None, checkpoints: bool = True
) -> List[IpuMemory]:
    """Memory of every IPU, as published or with other numbers of layers."""
    layers = layers_per_ipu or row.layers_per_ipu
    options = IpuOptions(
        ipus_per_replica=len(layers),
        layers_per_ipu=layers,
        optimizer_state_offchip=True,
        replicated_tensor_sharding=row.sharding,
        available_memory_proportion=row.proportions[: len(layers)],
        checkpoint_blocks=checkpoints,
    )
    names, costs = [block.name for block in profiles], [float(block.flops) for block in profiles]
    stages = plan_stages(names, costs, len(layers), layers, [("embedding", "head")])
    batching = Batching(1, 8192, row.replicas)
    return MemoryModel(profiles, options, batching, HALF, OptimizerConfig("adamw")).layout(stages)
