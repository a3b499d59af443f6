"""ChemGPT with a head that predicts properties of molecules, for fine-tuning.

Shapes: B packs, S token slots, M molecule slots, F features, T targets.
"""

from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.models.adapters import adapt
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.layers import at_least_float32, keep
from ipu_chem.models.pooling import PooledChemGPT, pool, real_molecules


class PropertyHead(nn.Module):
    """Normalization, pooling and two layers; for sums the layers come first, so that tokens add up."""

    def __init__(self, ln_f: nn.Module, features: int, num_targets: int, kind: str) -> None:
        super().__init__()
        self.ln_f = ln_f
        self.kind = kind
        self.lin_hidden = nn.Linear(features, features)
        self.lin_out = nn.Linear(features, num_targets)
        nn.init.normal_(self.lin_hidden.weight, std=features**-0.5)
        nn.init.zeros_(self.lin_hidden.bias)
        nn.init.zeros_(self.lin_out.weight)  # what is predicted first is the mean
        nn.init.zeros_(self.lin_out.bias)

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """[B, S, F], ends [B, M] -> [B, M, T], float32 at least, exactly 0 in padding."""
        x = self.ln_f(x)
        if self.kind == "sum":
            return pool(self._layers(x), ends, self.kind)
        pooled = pool(x, ends, self.kind).to(x.dtype)
        return keep(at_least_float32(self._layers(pooled)), real_molecules(ends).unsqueeze(2))

    def _layers(self, x: Tensor) -> Tensor:
        """[..., F] -> [..., T]."""
        return self.lin_out(functional.gelu(self.lin_hidden(x), approximate="tanh"))


class ChemGPTProperty(PooledChemGPT):
    """Properties of every molecule of a pack of text."""

    def __init__(
        self,
        chemgpt: ChemGPT,
        num_targets: int = 1,
        pooling: str = "auto",
        extensive: bool = False,
        freeze: bool = False,
        lora_rank: int = 0,
    ) -> None:
        """Put a fresh head on a ChemGPT's layers; pipelines are cut where that can be, but for its own head.

        Args:
            chemgpt: trained, or with fresh weights.
            num_targets: T.
            pooling: one of `ipu_chem.models.pooling.POOLINGS`; "sum" adds up a value of every token, the others
                predict from one vector of the molecule. "auto": sum for extensive targets, else mean.
            extensive: whether targets grow with the molecule.
            freeze: train the head alone.
            lora_rank: train the head and adapters of that rank in the layers, see `adapt`; 0 is without.

        Raises:
            ValueError: unknown pooling, no target, or a pooling by which extensive targets could not grow.
        """
        if num_targets < 1:
            raise ValueError(f"num_targets={num_targets}: a property head predicts 1 or more.")
        if pooling == "auto":
            pooling = "sum" if extensive else "mean"
        super().__init__(chemgpt, pooling)
        if extensive and pooling != "sum":
            raise ValueError(f"pooling={pooling!r} does not grow with the molecule; take 'sum' for extensive targets.")
        self.num_targets = num_targets
        self.head = PropertyHead(chemgpt.head.ln_f, chemgpt.embedding.wte.embedding_dim, num_targets, pooling)
        if freeze:
            self.layers.requires_grad_(False)
        if freeze or lora_rank:
            for part in (self.embedding, self.head.ln_f):
                part.requires_grad_(False)
        if lora_rank:
            adapt(self.layers, lora_rank)
