"""Language models of molecules: token sequences in packs, nats of the next token, baselines that count tokens.

Nats per token, and perplexities, compare only models of one vocabulary; nats per heavy atom compare any.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.options import Batching
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.config import ModelConfig, RunConfig
from ipu_chem.data.corpora import load_corpus, with_rows
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.representations.saved import tokenizer_from_dict
from ipu_chem.data.representations.store import encode_known
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.losses import token_cross_entropy
from ipu_chem.metrics import Target
from ipu_chem.models.chemgpt import width_of
from ipu_chem.models.registry import build_language_model
from ipu_chem.tasks.base import State, Task
from ipu_chem.tasks.conditions import state_conditions, with_conditions, without_conditions
from ipu_chem.tasks.evaluation import Output, SplitOutput
from ipu_chem.tasks.language_model import load_language_model, load_tokenizer
from ipu_chem.tasks.sequences import (
    VOCABULARY,
    assumed_tokens,
    check_text_options,
    choose_length,
    fit_sequences,
    random_tokens,
)
from ipu_chem.tasks.splits import SplitData, plans_of_splits, reads_rows, split_items
from ipu_chem.tasks.start_from import load_weights
from ipu_chem.tasks.token_baselines import bigram_nats, unigram_nats
from ipu_chem.tasks.vocabulary import extended, extended_weights, is_extended
from packing import Budget, Ragged
from packing.store import Store

NATS = ("nats_per_token", "nats_per_molecule", "nats_per_heavy_atom")
PERPLEXITY = "perplexity"
_MOST_NATS = 700.0  # per token, of which e to the power is a number


@dataclass
class LanguageTask(Task):
    """The next token of molecules as text; packs are sequences of tokens.

    Attributes:
        outputs: one `NextTokens`.
        vocab_size: tokens of the vocabulary.
        tokenizer: token <-> id; None before there are data.
        ids: tokens of every molecule of the store, BOS and EOS included; of a loaded task alone.
        cut: molecules that are "dropped" or "truncated" because they are longer than a pack, or of "unknown symbols".
        start_from: folder of the weights to begin with; empty begins with fresh ones.
    """

    kind = "text"
    unit = "tokens"
    values_decide = False
    may_be_sharded = True
    reads_text = True
    writes_molecules = True

    vocab_size: int = VOCABULARY
    tokenizer: Any = None
    ids: Any = None
    cut: Dict[str, int] = field(default_factory=dict)
    start_from: str = ""

    @classmethod
    def load(cls, config: RunConfig, plans: Optional[Path] = None, state: Optional[State] = None) -> "LanguageTask":
        check_text_options(config)
        check_not_frozen(config.model)
        data, state = config.data, state or {}
        path = getattr(data, "path", "")  # data sets of a user's own have none
        given = given_tokenizer(config, state)
        store = load_corpus(data.name, path or None, data.cache or None, **data.corpus_options())
        if reads_rows(data):
            store = with_rows(store, path)
        tokenizer = choose_tokenizer(config, store, given)
        if data.unknown == "extend" and not state:
            tokenizer, _ = extended(tokenizer, store)
        tokenizer, stated = with_conditions(config, tokenizer, store, given)
        ids, known, unknown = known_ids(tokenizer, store, data.unknown == "drop")
        stated = stated[known]
        store = store if len(known) == len(store) else store.take(known)
        length = config.pack.tokens or choose_length(
            ids.lengths, width_of(config.model.size, config.model.hidden_features)
        )
        fitted = fit_sequences(ids, length, data.long)
        ids, store = fitted.ids, store if len(fitted.kept) == len(store) else store.take(fitted.kept)
        items = split_items(store, data, state)
        ids = state_conditions(ids, tokenizer, stated[fitted.kept], items["train"], data)
        made, budget = plans_of_splits(
            items,
            lambda chosen: {"tokens": ids.lengths[chosen]},
            lambda _: Budget(tokens=length),
            config.pack,
            data.split_seed,
            plans,
            config.training.epochs / config.batching.replication_factor,
        )
        size, start = tokenizer.vocab_size, "" if state else config.training.start_from
        output = NextTokens(ids, store.fields["heavy_atoms"], items["train"], size, len(tokenizer.properties))
        split = SplitData(store, items, made)
        common = (config.model, config.batching, config.training.seed, budget, [output], split)
        cut = {**fitted.counts, **({"unknown symbols": unknown} if unknown else {})}
        return cls(*common, (), size, tokenizer, ids, cut, start)

    @classmethod
    def planned(cls, config: RunConfig) -> "LanguageTask":
        """See `Task.planned`; weights are fresh, whatever a run starts from."""
        check_text_options(config)
        check_not_frozen(config.model)
        tokens, assumed = assumed_tokens(config.pack, config.model.size, config.model.hidden_features)
        budget = Budget(tokens=tokens)
        return cls(config.model, config.batching, config.training.seed, budget, [NextTokens()], assumed=assumed)

    @classmethod
    def restored(cls, config: RunConfig, state: State) -> "LanguageTask":
        tokenizer = tokenizer_from_dict(state["tokenizer"])
        budget, size = Budget(**state["budget"]), tokenizer.vocab_size
        known = (config.model, config.batching, config.training.seed, budget, [NextTokens()])
        return cls(*known, vocab_size=size, tokenizer=tokenizer)

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        model = self.fresh_model()
        if self.start_from:
            start_from(model.model, self.tokenizer, self.start_from, self.seed)
        return model

    def fresh_model(self) -> Any:
        """The model with weights drawn from the state that torch's generator is in."""
        name, sizes = self.model_config.name, self.model_config.arguments()
        return build_language_model(name, self.vocab_size, self.budget["tokens"], **sizes)

    def loader(self, split: str) -> TokenLoader:
        return TokenLoader(
            self.ids,
            self.plans[split],
            self.budget,
            self.batching,
            self.vocab_size,
            self.items[split],
            self.world,
            len(self.tokenizer.properties),
        )

    def random_loader(
        self, packs: int, batching: Batching, seed: int = 0, atoms: Optional[float] = None
    ) -> TokenLoader:
        ids, plan = random_tokens(packs, self.budget, seed, self.vocab_size, atoms)
        return TokenLoader(ids, plan, self.budget, batching, self.vocab_size)

    def state(self) -> Dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_dict()}

    def describe(self) -> Dict[str, Any]:
        lengths = self.ids.lengths
        vocabulary = f"{self.vocab_size} tokens"
        long = ", ".join(f"{count:,} {what}" for what, count in self.cut.items() if count)
        language = self.tokenizer.representation
        return {
            "kind": self.kind,
            "vocabulary": vocabulary,
            "representation": language.name,
            "tokenizer": self.tokenizer.fingerprint(),
            "tokens": {split: int(lengths[items].sum()) for split, items in self.items.items() if len(items)},
            "longest": int(lengths.max()),
            "cut": self.cut,
            "announced": [
                f"text: {vocabulary} of {language.title}, {lengths.mean():.1f} of them a molecule, "
                f"{int(lengths.max())} at most; sequences of {self.budget['tokens']}{'; ' if long else ''}{long}"
            ],
        }


class NextTokens(Output):
    """The next token as an output of a model: logits in training, log-likelihoods of the true tokens in evaluation."""

    targets: List[Target] = []

    def __init__(
        self,
        ids: Optional[Ragged] = None,
        heavy_atoms: Optional[np.ndarray] = None,
        train: Optional[np.ndarray] = None,
        vocab_size: int = VOCABULARY,
        stated: int = 0,
    ) -> None:
        """Bind the tokens and heavy atoms of every molecule, and the training molecules; none before there are data.

        Of every molecule ``stated`` tokens behind the first are properties, which nobody predicts.
        """
        self.ids: Any = ids
        self.heavy_atoms: Any = heavy_atoms
        self.train = train
        self.vocab_size, self.stated = vocab_size, stated

    def loss(self) -> Callable[..., Tensor]:
        """See `Output.loss`: cross entropy, whatever the config says of labels."""
        return token_cross_entropy

    def on(self, split: str, items: np.ndarray) -> "SplitTokens":
        return SplitTokens(self, items)


class Nats:
    """The nats [1] of all molecules of a split together, from log-likelihoods [B, S]."""

    def zeros(self) -> np.ndarray:
        """Room for the nats, [1] float64."""
        return np.zeros(1)

    def put(self, found: np.ndarray, values: np.ndarray, batch: Any, positions: np.ndarray) -> None:
        """Add the nats of a batch."""
        found -= float(values[batch.weight.numpy() > 0].sum())


class SplitTokens(SplitOutput):
    """The tokens of the molecules of a split."""

    def __init__(self, output: NextTokens, items: np.ndarray) -> None:
        """Bind tokens to store items."""
        self.output = output
        self.items = items
        self.place = Nats()
        self.counts = {
            "tokens": int(np.maximum(output.ids.lengths[items] - 1 - output.stated, 0).sum()),
            "molecules": len(items),
            "heavy_atoms": int(np.asarray(output.heavy_atoms[items]).sum(dtype=np.int64)),
        }

    @property
    def metric_names(self) -> List[str]:
        return [*NATS, PERPLEXITY]

    def errors(self, predictions: Sequence[float]) -> Dict[str, float]:
        """Nats per token, per molecule and per heavy atom, and the perplexity, e to the nats per token."""
        nats = {name: float(predictions[0]) / max(count, 1) for name, count in zip(NATS, self.counts.values())}
        return {**nats, PERPLEXITY: math.exp(min(nats[NATS[0]], _MOST_NATS))}

    def selection(self, metrics: Mapping[str, float]) -> float:
        """Nats per token."""
        return metrics[NATS[0]]

    def baselines(self) -> Dict[str, Dict[str, float]]:
        """See `SplitOutput.baselines`: tokens counted, and pairs of them."""
        output = self.output
        train, held_out = (
            without_conditions(output.ids.take(items), output.stated) for items in (output.train, self.items)
        )
        return {
            "baseline": self.errors([unigram_nats(train, held_out, output.vocab_size)]),
            "bigram": self.errors([bigram_nats(train, held_out, output.vocab_size)]),
        }

    def compared(self, metric: str, value: float, baselines: Mapping[str, Mapping[str, float]]) -> str:
        return f" (unigram {baselines['baseline'][metric]:.4g} and bigram {baselines['bigram'][metric]:.4g})"


def check_not_frozen(model: ModelConfig) -> None:
    """Refuse to freeze a model that has no head of its own, or its layers.

    Raises:
        ValueError: ``model.freeze`` or ``model.lora_rank``.
    """
    if model.freeze:
        raise ValueError("model.freeze=true trains the head that predicts labels alone; name them with data.target.")
    if model.lora_rank:
        raise ValueError(
            f"model.lora_rank={model.lora_rank}: adapters are trained with a head that predicts labels; name them with "
            "data.target. A language model for others goes out with `ipu-chem export --format huggingface`, to which "
            "peft adds adapters."
        )


def given_tokenizer(config: RunConfig, state: Mapping[str, Any]) -> Optional[Tokenizer]:
    """The vocabulary of the checkpoint or the one that the config names, None if one is to be made of the corpus.

    Raises:
        ValueError: there is no vocabulary where the config says, or it is of another representation than the data.
    """
    if "tokenizer" in state:
        return tokenizer_from_dict(state["tokenizer"])
    path, wanted = config.data.tokenizer or config.training.start_from, config.data.representation
    if not path:
        return None
    tokenizer = load_tokenizer(path)
    theirs = tokenizer.representation.name
    if theirs != wanted:
        raise ValueError(
            f"the vocabulary of {path} is of {theirs}, and data.representation is {wanted}: set "
            f"data.representation={theirs}, or take another vocabulary."
        )
    return tokenizer


def choose_tokenizer(config: RunConfig, store: Store, given: Optional[Tokenizer]) -> Tokenizer:
    """Take a vocabulary that is given, or make one of the tokens of the corpus."""
    tokenizer = given or Tokenizer.build(store.info["symbols"], representation=config.data.representation)
    return tokenizer.mapping_unknown() if config.data.unknown == "map" else tokenizer


def known_ids(tokenizer: Tokenizer, store: Store, drop: bool) -> Tuple[Ragged, np.ndarray, int]:
    """Ids of the molecules of a corpus.

    Args:
        tokenizer: the vocabulary.
        store: the corpus.
        drop: leave out molecules with tokens that the vocabulary lacks.

    Returns:
        (ids of K molecules, which those are [K], how many were left out).

    Raises:
        ValueError: a token is missing, or all molecules have one; names molecule and token.
    """
    lossy = tokenizer.without_stereo_of(store)
    if lossy:
        print(f"{lossy:,} molecules lose stereochemistry or isotopes, which the vocabulary has no symbols for")
    if not drop:
        return tokenizer.encode_store(store), np.arange(len(store)), 0
    ids, known, unknown = encode_known(tokenizer, store)
    if unknown:
        item = min(unknown)
        first = (
            f"the first is {decode_text(store, 'smiles', item)} (line {store.fields['line'][item]}): {unknown[item]}"
        )
        if not len(known):
            remedy = "take another vocabulary, or set data.unknown=map to read what it lacks as the unknown one"
            raise ValueError(f"the vocabulary can write none of the molecules; {first}; {remedy}.")
        print(f"left out: {len(unknown):,} molecules that the vocabulary cannot write; {first}")
    return ids, known, len(unknown)


def check_vocabulary(earlier: Tokenizer, tokenizer: Tokenizer, folder: str) -> None:
    """Refuse weights of another vocabulary.

    Raises:
        ValueError: says what to leave out.
    """
    if not is_extended(earlier, tokenizer):
        raise ValueError(
            f"training.start_from={folder} was trained with another vocabulary; leave data.tokenizer empty to take it."
        )


def start_from(model: nn.Module, tokenizer: Tokenizer, folder: str, seed: int = 0) -> None:
    """Load weights of an earlier run or of Hugging Face.

    Args:
        model: to load them.
        tokenizer: the earlier vocabulary, or an extended one.
        folder: of the earlier run.
        seed: of the embeddings of new tokens.

    Raises:
        ValueError: another vocabulary or other sizes; says which.
    """
    earlier = load_language_model(folder)
    check_vocabulary(earlier.tokenizer, tokenizer, folder)
    wanted, known = model.state_dict(), (earlier.tokenizer, tokenizer)
    weights = extended_weights(earlier.model.state_dict(), *known, len(wanted["embedding.wte.weight"]), seed)
    rows = "embedding.wpe.weight"
    if rows in weights and rows in wanted and len(weights[rows]) > len(wanted[rows]):
        weights[rows] = weights[rows][: len(wanted[rows])]  # positions that no packed sequence has
    load_weights(model, weights, folder)
