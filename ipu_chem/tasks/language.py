"""Runs of language models: molecules as text in rows, nats of the next symbol, molecules generated at the end.

On data's way: RunConfig -> corpus, vocabulary, split, rows, plans -> TokenLoader, TextMeasures, ChemGPT.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional

import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Backend
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.config import RunConfig
from ipu_chem.data.corpora import load_corpus
from ipu_chem.data.selfies.tokens import Tokenizer
from ipu_chem.generation.baselines import bigram_nats, unigram_nats
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.chemgpt import width_of
from ipu_chem.models.registry import build_language_model
from ipu_chem.tasks.base import RunData, plans_of_splits, split_items
from ipu_chem.tasks.kinds import TEXT
from ipu_chem.tasks.start_from import load_weights
from ipu_chem.tasks.text_evaluation import NATS, TextMeasures
from ipu_chem.tasks.text_rows import choose_row, fit_rows
from packing import Budget, Ragged
from packing.store import Store


@dataclass
class TextData(RunData):
    """Molecules as text; packs are rows of tokens.

    Attributes:
        tokenizer: symbol <-> id.
        ids: tokens of every molecule of the store, BOS and EOS included.
        cut: {"dropped": ..., "truncated": ...}, molecules longer than a row.
    """

    tokenizer: Tokenizer
    ids: Ragged
    cut: Dict[str, int] = field(default_factory=dict)

    def loader(self, split: str, config: RunConfig) -> TokenLoader:
        """See `RunData.loader`."""
        return TokenLoader(
            self.ids,
            self.plans[split],
            self.budget,
            config.batching,
            self.tokenizer.vocab_size,
            self.items[split],
            self.world,
        )

    def measures(self, split: str, config: RunConfig) -> TextMeasures:
        """See `RunData.measures`."""
        return TextMeasures(self.loader(split, config), self.store.fields["heavy_atoms"][self.items[split]])

    def model(self, config: RunConfig) -> nn.Module:
        """See `RunData.model`; with the weights of `training.start_from` if that is given."""
        torch.manual_seed(config.training.seed)
        model = make_language_model(config, self.tokenizer.vocab_size, self.budget["tokens"])
        if config.training.start_from:
            start_from(model.model, self.tokenizer, config.training.start_from)
        return model

    def loss(self, config: RunConfig) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See `RunData.loss`: cross entropy, whatever the config says of labels."""
        return token_cross_entropy

    def state(self) -> Dict[str, Any]:
        """See `RunData.state`."""
        return {"tokenizer": self.tokenizer.to_dict()}

    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """See `RunData.describe`."""
        lengths = self.ids.lengths
        vocabulary = f"{self.tokenizer.vocab_size} symbols"
        long = ", ".join(f"{count:,} {what}" for what, count in self.cut.items() if count)
        tokens = {split: int(lengths[items].sum()) for split, items in self.items.items() if len(items)}
        return {
            "kind": TEXT,
            "vocabulary": vocabulary,
            "tokenizer": self.tokenizer.fingerprint(),
            "tokens": tokens,
            "longest": int(lengths.max()),
            "cut": self.cut,
            "announced": [
                f"text: {vocabulary}, {lengths.mean():.1f} tokens a molecule, {int(lengths.max())} at most; rows of "
                f"{self.budget['tokens']}{'; ' if long else ''}{long}"
            ],
        }

    def results(self, config: RunConfig, backend: Backend, folder: Path) -> Dict[str, Any]:
        """See `RunData.results`; the baselines count symbols, and pairs of them."""
        found: Dict[str, Any] = {"results": {}, "baseline": {}, "bigram": {}}
        train = self.ids.take(self.items["train"])
        for split in ("validation", "test"):
            if split not in self.plans:
                continue
            measures = self.measures(split, config)
            found["results"][split], _ = measures.metrics(backend)
            held_out, size = self.ids.take(self.items[split]), self.tokenizer.vocab_size
            found["baseline"][split] = measures.of_total(unigram_nats(train, held_out, size))
            found["bigram"][split] = measures.of_total(bigram_nats(train, held_out, size))
            for name in NATS if backend.world.rank == 0 else ():
                beside = " and ".join(f"{kind} {found[key][split][name]:.4g}" for key, kind in _BASELINES)
                print(f"{split}: {name} {found['results'][split][name]:.4g} ({beside})", flush=True)
        # Weights that are shared out among processes come together only where all of them ask.
        weights = backend.state_dict(weights_only=True)["model"] if config.training.samples else {}
        if weights and backend.world.rank == 0:
            from ipu_chem.tasks.text_samples import write_samples

            model = make_language_model(config, self.tokenizer.vocab_size, self.budget["tokens"])
            model.load_state_dict(weights)
            found["samples"] = write_samples(config, model.model, self, folder)
        return found


_BASELINES = (("baseline", "unigram"), ("bigram", "bigram"))


def load_text(config: RunConfig, plans: Optional[Path], state: Mapping[str, Any]) -> TextData:
    """See `ipu_chem.tasks.registry.load_data`."""
    data = config.data
    store = load_corpus(data.name, data.path or None, data.cache or None, limit=data.limit, workers=data.workers)
    tokenizer = choose_tokenizer(config, store, state)
    ids = tokenizer.encode_store(store)
    row = config.pack.tokens or choose_row(ids.lengths, width_of(config.model.size, config.model.hidden_features))
    rows = fit_rows(ids, row, data.long)
    ids, store = rows.ids, store if len(rows.kept) == len(store) else store.take(rows.kept)
    items = split_items(store, data)
    made, budget = plans_of_splits(
        items, lambda chosen: {"tokens": ids.lengths[chosen]}, lambda _: Budget(tokens=row), config, plans
    )
    return TextData(store, items, made, budget, tokenizer, ids, rows.counts)


def choose_tokenizer(config: RunConfig, store: Store, state: Mapping[str, Any]) -> Tokenizer:
    """The vocabulary: that of the checkpoint, the one that the config names, or one made of the corpus.

    Raises:
        ValueError: there is no vocabulary where the config says, or it lacks a symbol of the corpus.
    """
    from ipu_chem.language_model import load_tokenizer

    if "tokenizer" in state:
        return Tokenizer.from_dict(state["tokenizer"])
    path = config.data.tokenizer or config.training.start_from
    return load_tokenizer(path) if path else Tokenizer.build(store.info["symbols"])


def make_language_model(config: RunConfig, vocab_size: int, max_positions: int) -> Any:
    """The model of a config with fresh weights."""
    return build_language_model(config.model.name, vocab_size, max_positions, **config.model.arguments())


def check_vocabulary(earlier: Tokenizer, tokenizer: Tokenizer, folder: str) -> None:
    """Refuse weights of another vocabulary.

    Raises:
        ValueError: says what to leave out.
    """
    if earlier.fingerprint() != tokenizer.fingerprint():
        raise ValueError(
            f"training.start_from={folder} was trained with another vocabulary; leave data.tokenizer empty to take it."
        )


def start_from(model: nn.Module, tokenizer: Tokenizer, folder: str) -> None:
    """Load weights of an earlier run or of Hugging Face.

    Raises:
        ValueError: another vocabulary or other sizes; says which.
    """
    from ipu_chem.language_model import load_language_model

    earlier = load_language_model(folder)
    check_vocabulary(earlier.tokenizer, tokenizer, folder)
    weights, wanted = earlier.model.state_dict(), model.state_dict()
    rows = "embedding.wpe.weight"
    if rows in weights and rows in wanted and len(weights[rows]) > len(wanted[rows]):
        weights[rows] = weights[rows][: len(wanted[rows])]  # positions that no row has
    load_weights(model, weights, folder)
