"""Measuring a language model on held-out molecules: nats per symbol, per molecule and per heavy atom.

Nats per token compare only models of one vocabulary; nats per heavy atom compare any.

On data's way: TokenLoader.evaluation() -> Backend.evaluate (log-likelihoods) -> sums -> metrics.
"""

from typing import Dict, List, Tuple

import numpy as np

from ipu_chem.backends.base import Backend
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.tasks.base import Measures

NATS = ("nats_per_token", "nats_per_molecule", "nats_per_heavy_atom")


class TextMeasures(Measures):
    """A split of molecules as text."""

    loader: TokenLoader

    def __init__(self, loader: TokenLoader, heavy_atoms: np.ndarray) -> None:
        """Bind a split.

        Args:
            loader: batches of the split.
            heavy_atoms: [K] integer, of its molecules.
        """
        self.loader = loader
        self.counts = {
            "tokens": int(np.maximum(loader.ids.lengths[loader.items] - 1, 0).sum()),
            "molecules": len(loader.items),
            "heavy_atoms": int(np.asarray(heavy_atoms).sum(dtype=np.int64)),
        }

    @property
    def metric_names(self) -> List[str]:
        """See `Measures.metric_names`."""
        return list(NATS)

    def metrics(self, backend: Backend) -> Tuple[Dict[str, float], float]:
        """See `Measures.metrics`; checkpoints are chosen by nats per token."""
        total = 0.0
        for batch, _ in self.loader.evaluation(backend.evaluates):
            likelihoods = backend.evaluate(batch).double().numpy()
            total -= float(likelihoods[batch.weight.numpy() > 0].sum())
        total = float(backend.total(np.array([total]))[0])
        metrics = self.of_total(total)
        return metrics, metrics[NATS[0]]

    def of_total(self, nats: float) -> Dict[str, float]:
        """The metrics when all molecules of the split together have so many nats."""
        return {name: nats / max(count, 1) for name, count in zip(NATS, self.counts.values())}
