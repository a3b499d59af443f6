"""Labels of molecules as text: a head on a ChemGPT, trained before or fresh, whole or frozen."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from ipu_chem.backends.options import Batching
from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.config import DataConfig, ModelConfig, RunConfig
from ipu_chem.data.corpora import with_rows
from ipu_chem.data.corpora.labels import load_labeled_corpus, load_labeled_dataset
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.representations.saved import tokenizer_from_dict
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selection import select_targets
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target, label_metrics, targets_of
from ipu_chem.models.adapters import merged_weights
from ipu_chem.models.chemgpt import ChemGPT, width_of
from ipu_chem.models.property_head import ChemGPTProperty
from ipu_chem.tasks.base import State, Task
from ipu_chem.tasks.labels import KnownLabels, Labels, check_classes, is_smiles_table, planned_targets, target_names
from ipu_chem.tasks.language import check_vocabulary, choose_tokenizer, given_tokenizer, known_ids
from ipu_chem.tasks.language_model import load_language_model
from ipu_chem.tasks.sequences import (
    VOCABULARY,
    assumed_segments,
    assumed_tokens,
    check_text_options,
    choose_length,
    fit_sequences,
    random_labels,
    random_tokens,
)
from ipu_chem.tasks.splits import SplitData, by_molecules, plans_of_splits, reads_rows, split_items
from ipu_chem.tasks.vocabulary import extended, extended_weights
from packing import Budget, Ragged, make_plan
from packing.store import Store
from packing.types import offsets_of


@dataclass
class TextPropertyTask(Task):
    """Labels of molecules as text; packs are sequences of tokens with slots for molecules.

    Attributes:
        outputs: `Labels`.
        chemgpt: arguments of the ChemGPT under the head.
        tokenizer: token <-> id; None before there are data.
        ids: tokens of every molecule of the store, BOS and EOS included; of a loaded task alone.
        cut: molecules that are "dropped" or "truncated" because they are too long, or of "unknown symbols".
        new_symbols: those that were added to the vocabulary of ``start_from``.
        start_from: folder of the weights to begin with under the head; empty begins with fresh ones.
        goes_on: weights of a checkpoint will be loaded, so that none are to begin with.
    """

    kind = "text property"
    unit = "tokens"
    values_decide = False
    may_be_sharded = True
    reads_text = True

    chemgpt: Dict[str, Any] = field(default_factory=dict)
    tokenizer: Any = None
    ids: Any = None
    cut: Dict[str, int] = field(default_factory=dict)
    new_symbols: Sequence[str] = ()
    start_from: str = ""
    goes_on: bool = False

    @classmethod
    def load(cls, config: RunConfig, plans: Optional[Path] = None, state: Optional[State] = None) -> "TextPropertyTask":
        data, state = config.data, state or {}
        check_tuning(config)
        readout = config.model.readout
        chemgpt, vocabulary = _earlier(config, state)
        given = given_tokenizer(config, state)
        store = _labeled(config, by_molecules(state))
        targets = targets_of(store.info["targets"])
        _check_readout(targets[0], readout)
        tokenizer = choose_tokenizer(config, store, given)
        if vocabulary is not None:
            check_vocabulary(vocabulary, tokenizer, config.training.start_from)
        new: Sequence[str] = ()
        if vocabulary is not None and data.unknown in ("auto", "extend"):
            tokenizer, new = extended(tokenizer, store)
            chemgpt["vocab_size"] = max(chemgpt["vocab_size"], tokenizer.vocab_size)
        ids, known, unknown = known_ids(tokenizer, store, data.unknown in ("auto", "drop"))
        width = chemgpt["hidden_features"] if chemgpt else width_of(config.model.size, config.model.hidden_features)
        longest = chemgpt["max_positions"] if chemgpt else int(ids.lengths.max())
        length = config.pack.tokens or choose_length(np.minimum(ids.lengths, longest), width)
        if chemgpt and longest < length and ids.lengths.max() > longest and data.long == "error":
            item = int(known[int(np.argmax(ids.lengths > longest))])
            raise ValueError(
                f"{decode_text(store, 'smiles', item)} is longer than the {longest} tokens, begin and end included, "
                f"that the model of {config.training.start_from} reads, as {int((ids.lengths > longest).sum()):,} "
                "molecules are; set data.long to drop or truncate."
            )
        if not chemgpt:
            chemgpt = fresh_arguments(config, tokenizer.vocab_size, length)
        text = fit_sequences(ids, min(length, chemgpt["max_positions"]), data.long)
        ids = ended(text.ids, tokenizer.eos_id)
        if len(text.kept) < len(store):
            store = store.take(known[text.kept])
        items = split_items(store, data, state)
        if "standardizer" in state:
            fitted = Standardizer.from_dict(state["standardizer"])
        else:
            fitted = _fit(store, items["train"])
        shape = {"tokens": length, **({"segments": config.pack.graphs} if config.pack.graphs else {})}
        made, budget = plans_of_splits(
            items,
            lambda chosen: {"tokens": ids.lengths[chosen]},
            lambda _: Budget(**shape),
            config.pack,
            data.split_seed,
            plans,
            config.training.epochs / config.batching.replication_factor,
        )
        segments = config.pack.graphs or max(plan.max_items_per_pack for plan in made.values())
        labels = Labels(targets, config.loss, fitted)
        labels.known = _known_labels(store, labels, data.split)
        check_classes(targets, labels.known.y, items)
        budget, split = budget.replace(segments=segments), SplitData(store, items, made)
        known = (config.model, config.batching, config.training.seed, budget, [labels], split)
        cut = {**text.counts, "unknown symbols": unknown}
        return cls(*known, (), chemgpt, tokenizer, ids, cut, new, config.training.start_from, bool(state))

    @classmethod
    def planned(cls, config: RunConfig) -> "TextPropertyTask":
        """See `Task.planned`; weights are fresh, whatever a run starts from."""
        check_tuning(config)
        tokens, assumed = assumed_tokens(config.pack, config.model.size, config.model.hidden_features)
        segments, more = assumed_segments(config.pack, tokens)
        if config.training.start_from:
            more = [*more, "model: sizes of the configuration assumed, a run takes those of training.start_from"]
        labels = Labels(planned_targets(config.data), config.loss)
        _check_readout(labels.targets[0], config.model.readout)
        chemgpt, budget = fresh_arguments(config, VOCABULARY, tokens), Budget(tokens=tokens, segments=segments)
        known = (config.model, config.batching, config.training.seed, budget, [labels])
        return cls(*known, assumed=[*assumed, *more], chemgpt=chemgpt)

    @classmethod
    def restored(cls, config: RunConfig, state: State) -> "TextPropertyTask":
        # Adapters are merged, see `inference_weights`.
        model = replace(config.model, lora_rank=0)
        fitted, tokenizer = Standardizer.from_dict(state["standardizer"]), tokenizer_from_dict(state["tokenizer"])
        labels, budget = Labels(targets_of(fitted.targets), config.loss, fitted), Budget(**state["budget"])
        known = (model, config.batching, config.training.seed, budget, [labels])
        return cls(*known, chemgpt=dict(state["chemgpt"]), tokenizer=tokenizer)

    @classmethod
    def inference_weights(cls, config: RunConfig, weights: State) -> Dict[str, Any]:
        return merged_weights(weights)

    @property
    def labels(self) -> Labels:
        """The output."""
        return self.outputs[0]  # type: ignore[return-value]

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.chemgpt["vocab_size"] if self.tokenizer is None else self.tokenizer.vocab_size

    def model(self) -> ChemGPTProperty:
        torch.manual_seed(self.seed)
        chemgpt = ChemGPT(**self.chemgpt)
        if self.start_from and not self.goes_on:
            earlier = load_language_model(self.start_from)
            known = (earlier.tokenizer, self.tokenizer, self.chemgpt["vocab_size"], self.seed)
            chemgpt.load_state_dict(extended_weights(earlier.model.state_dict(), *known))
        return with_head(self.model_config, chemgpt, self.labels)

    def loader(self, split: str) -> TextPropertyLoader:
        known = (self.plans[split], self.labels.standardized(), self.budget, self.batching, self.vocab_size)
        return TextPropertyLoader(self.ids, *known, self.items[split], self.world)

    def prediction_loader(self, ids: Ragged) -> TextPropertyLoader:
        """Batches of other molecules, for predictions; packs are larger than the run's where one needs it."""
        longest = int(ids.lengths.max())
        budget = self.budget if longest <= self.budget["tokens"] else self.budget.replace(tokens=longest)
        plan = make_plan(ids.lengths, budget, "best_fit")
        nothing = np.full((len(ids), len(self.targets)), np.nan)
        return TextPropertyLoader(ids, plan, nothing, budget, self.batching, self.vocab_size)

    def random_loader(
        self, packs: int, batching: Batching, seed: int = 0, atoms: Optional[float] = None
    ) -> TextPropertyLoader:
        ids, plan = random_tokens(packs, self.budget, seed, self.vocab_size, atoms)
        labels = random_labels(len(ids), len(self.targets), seed)
        return TextPropertyLoader(ids, plan, labels, self.budget, batching, self.vocab_size)

    def state(self) -> Dict[str, Any]:
        standardizer = self.labels.standardizer.to_dict()
        return {"standardizer": standardizer, "tokenizer": self.tokenizer.to_dict(), "chemgpt": self.chemgpt}

    def describe(self) -> Dict[str, Any]:
        described, lengths = self.labels.describe(self.targets, self.items), self.ids.lengths
        start, language, rank = self.start_from, self.tokenizer.representation, self.model_config.lora_rank
        trained = f"its head and adapters of rank {rank}" if rank else "all of it"
        trained = "its head alone" if self.model_config.freeze else trained
        begun = f"weights of {start}" if start else "fresh weights"
        text = (
            f"text: {self.tokenizer.vocab_size} tokens of {language.title}, {lengths.mean():.1f} of them a molecule, "
            f"{int(lengths.max())} at most; sequences of {self.budget['tokens']} for {self.budget['segments']} "
            "molecules"
        )
        long = ", ".join(f"{count:,} {what}" for what, count in self.cut.items() if count)
        return {
            "kind": self.kind,
            **described,
            "vocabulary": f"{self.tokenizer.vocab_size} tokens",
            "new symbols": list(self.new_symbols),
            "representation": language.name,
            "tokenizer": self.tokenizer.fingerprint(),
            "longest": int(lengths.max()),
            "cut": {**self.store.info["left out"], **self.cut},
            "announced": [
                *described["announced"],
                f"{text}{'; ' if long else ''}{long}",
                f"chemgpt: {begun}, {self.chemgpt['num_layers']} layers; {trained} {'are' if rank else 'is'} trained",
            ],
        }


def _known_labels(store: Store, labels: Labels, split: str) -> KnownLabels:
    def mean(items: np.ndarray) -> Dict[str, float]:
        """Of the training labels, of extensive ones per heavy atom."""
        means = labels.to_units(items, np.zeros((len(items), len(labels.targets))))
        return label_metrics(means, labels.known.y[items], labels.targets)

    atoms = heavy_atoms_alike(store.fields["heavy_atoms"])
    return KnownLabels(store, atoms, "smiles", "training-mean", mean, split)


def check_tuning(config: RunConfig) -> None:
    """Refuse options that labels of text have not.

    Raises:
        ValueError: names the option.
    """
    check_text_options(config)
    data, rank = config.data, config.model.lora_rank
    if rank and config.model.freeze:
        raise ValueError(f"model.freeze=true trains the head alone, model.lora_rank={rank} adapters too; drop one.")
    if rank and not config.training.start_from:
        raise ValueError(
            f"model.lora_rank={rank} adapts layers that were trained before; name their run with training.start_from, "
            "or leave it out."
        )
    if data.references not in ("auto", "none"):
        raise ValueError(
            f"data.references={data.references}: a model of text sees no elements to have references; leave it out."
        )


def fresh_arguments(config: RunConfig, vocab_size: int, max_positions: int) -> Dict[str, Any]:
    """Arguments of a ChemGPT with the sizes of a config."""
    return {**config.model.arguments(), "vocab_size": vocab_size, "max_positions": max_positions}


def with_head(model: ModelConfig, chemgpt: ChemGPT, labels: Labels) -> ChemGPTProperty:
    """A fresh head for labels on a ChemGPT."""
    kind = (model.readout, labels.extensive, model.freeze, model.lora_rank)
    return ChemGPTProperty(chemgpt, len(labels.targets), *kind)


def heavy_atoms_alike(heavy_atoms: np.ndarray) -> Ragged:
    """Atoms for a standardizer with references "none", which counts them and does not ask what they are.

    Extensive labels are shifted by so much for every heavy atom: a constant for every molecule would make two
    molecules together differ from the sum of the two, and the number of tokens depends on how a molecule is written.
    """
    offsets = offsets_of(heavy_atoms)
    return Ragged(np.zeros(offsets[-1], np.uint8), offsets)


def ended(ids: Ragged, eos_id: int) -> Ragged:
    """The same ids with the mark of the end also where molecules were truncated: what is pooled leaves it out."""
    values = ids.values.copy()
    values[ids.offsets[1:] - 1] = eos_id
    return Ragged(values, ids.offsets)


def _labeled(config: RunConfig, replicates: bool) -> Store:
    """A corpus store with the labels asked for, of a file or of a data set that is SMILES with labels.

    Runs of earlier versions took a molecule that a file has several times once, which is without ``replicates``.
    """
    data: DataConfig = config.data
    manner = {"cache": data.cache, **data.corpus_options()}
    if is_smiles_table(data):
        store = load_labeled_dataset(data.name, data.path, **manner)
        return select_targets(store, data.target)
    path = getattr(data, "path", "")  # data sets of a user's own have none
    if data.name != "file" or not path:
        raise ValueError(
            f"data.name={data.name}, data.path={path!r}: labels of molecules as text come from a .csv of your "
            "own or a data set of SMILES; give data.name=file and its path, or leave data.target empty to learn the "
            "text itself."
        )
    what = {"unit": data.unit, "extensive": data.extensive, "kind": data.kind, "replicates": replicates}
    store = load_labeled_corpus(path, target_names(data), **what, **manner)
    return with_rows(store, path) if reads_rows(data) else store


def _earlier(config: RunConfig, state: Mapping[str, Any]) -> Tuple[Dict[str, Any], Optional[Tokenizer]]:
    """Arguments of the ChemGPT of a checkpoint or of `training.start_from`, and the latter's vocabulary."""
    if state:
        return dict(state["chemgpt"]), None
    if not config.training.start_from:
        return {}, None
    earlier = load_language_model(config.training.start_from)
    return earlier.model.config(), earlier.tokenizer


def _fit(store: Store, train: np.ndarray) -> Standardizer:
    """A standardizer for the training molecules."""
    atoms = heavy_atoms_alike(store.fields["heavy_atoms"])
    fields = {"z": atoms.values, "y": store.fields["y"]}
    known = Store({"nodes": atoms.offsets}, fields, {"z": "nodes"}, {"targets": store.info["targets"]})
    return Standardizer.fit(known, train, "none")


def _check_readout(target: Target, readout: str) -> None:
    if target.extensive and readout not in ("auto", "sum"):
        raise ValueError(
            f"model.readout={readout}: only a sum grows with the molecule; leave it out, or set data.extensive=false "
            "for labels that do not grow."
        )
