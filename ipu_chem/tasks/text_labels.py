"""Runs that learn labels of molecules as text: a head on a ChemGPT, trained before or fresh, whole or frozen.

On data's way: RunConfig -> corpus with labels, vocabulary, split, rows, plans -> TextPropertyLoader, Evaluator,
ChemGPTProperty.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.config import DataConfig, RunConfig
from ipu_chem.data.corpora.labels import load_labelled_corpus, load_labelled_dataset
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.selection import select_targets
from ipu_chem.data.selfies.store import encode_known
from ipu_chem.data.selfies.tokens import Tokenizer
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target, label_metrics, targets_of
from ipu_chem.models.chemgpt import ChemGPT, width_of
from ipu_chem.models.pooling import POOLINGS
from ipu_chem.models.property_head import ChemGPTProperty
from ipu_chem.tasks.base import plans_of_splits, split_items
from ipu_chem.tasks.evaluation import Evaluator
from ipu_chem.tasks.kinds import TEXT_PROPERTY, has_table, target_names
from ipu_chem.tasks.labels import LabelledData
from ipu_chem.tasks.language import check_vocabulary, choose_tokenizer
from ipu_chem.tasks.text_rows import choose_row, fit_rows
from packing import Budget, Ragged
from packing.store import Store


@dataclass
class TextPropertyData(LabelledData):
    """Molecules as text with labels; packs are rows of tokens with slots for molecules.

    Attributes:
        tokenizer: symbol <-> id.
        ids: tokens of every molecule of the store, BOS and EOS included.
        chemgpt: arguments of the ChemGPT under the head.
        cut: molecules that are "dropped" or "truncated" because they are too long, or of "unknown symbols".
    """

    tokenizer: Tokenizer
    ids: Ragged
    chemgpt: Dict[str, Any]
    cut: Dict[str, int]

    baseline_name = "training-mean"

    @property
    def atoms(self) -> Ragged:
        """See `LabelledData.atoms`; elements are not told apart."""
        return heavy_atoms_alike(self.store.fields["heavy_atoms"])

    def loader(self, split: str, config: RunConfig) -> TextPropertyLoader:
        """See `RunData.loader`."""
        return TextPropertyLoader(
            self.ids,
            self.plans[split],
            self.standardised(),
            self.budget,
            config.batching,
            self.tokenizer.vocab_size,
            self.items[split],
            self.world,
        )

    def model(self, config: RunConfig) -> ChemGPTProperty:
        """See `RunData.model`; with the weights of `training.start_from` under the head if that is given."""
        torch.manual_seed(config.training.seed)
        chemgpt = ChemGPT(**self.chemgpt)
        if config.training.start_from:
            from ipu_chem.language_model import load_language_model

            chemgpt.load_state_dict(load_language_model(config.training.start_from).model.state_dict())
        return with_head(config, chemgpt, self.targets)

    def state(self) -> Dict[str, Any]:
        """See `RunData.state`."""
        return {**super().state(), "tokenizer": self.tokenizer.to_dict(), "chemgpt": self.chemgpt}

    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """See `RunData.describe`."""
        described, lengths = super().describe(config), self.ids.lengths
        start, trained = config.training.start_from, "its head alone" if config.model.freeze else "all of it"
        begun = f"weights of {start}" if start else "fresh weights"
        text = (
            f"text: {self.tokenizer.vocab_size} symbols, {lengths.mean():.1f} tokens a molecule, "
            f"{int(lengths.max())} at most; rows of {self.budget['tokens']} for {self.budget['segments']} molecules"
        )
        long = ", ".join(f"{count:,} {what}" for what, count in self.cut.items() if count)
        return {
            "kind": TEXT_PROPERTY,
            **described,
            "vocabulary": f"{self.tokenizer.vocab_size} symbols",
            "tokenizer": self.tokenizer.fingerprint(),
            "longest": int(lengths.max()),
            "cut": {**self.store.info["left out"], **self.cut},
            "announced": [
                *described["announced"],
                f"{text}{'; ' if long else ''}{long}",
                f"chemgpt: {begun}, {self.chemgpt['num_layers']} layers; {trained} is trained",
            ],
        }

    def name_of(self, item: int) -> str:
        """See `LabelledData.name_of`: its SMILES."""
        return decode_text(self.store, "smiles", item)

    def baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """See `LabelledData.baseline`: the mean of the training labels, of extensive ones per heavy atom."""
        items = evaluator.loader.items
        means = self.to_units(items, np.zeros((len(items), len(self.targets))))
        return label_metrics(means, evaluator.labels, self.targets)


def load_text_property(config: RunConfig, plans: Optional[Path], state: Mapping[str, Any]) -> TextPropertyData:
    """See `ipu_chem.tasks.registry.load_data`."""
    data = config.data
    if data.references not in ("auto", "none"):
        raise ValueError(
            f"data.references={data.references}: a model of text sees no elements to have references; leave it out."
        )
    readout = config.model.readout
    if readout not in ("auto", *POOLINGS):
        raise ValueError(f"model.readout={readout!r}: choose one of auto, {', '.join(POOLINGS)}.")
    chemgpt, vocabulary = _earlier(config, state)
    store = _labelled(config)
    targets = targets_of(store.info["targets"])
    if targets[0].extensive and readout not in ("auto", "sum"):
        raise ValueError(
            f"model.readout={readout}: only a sum grows with the molecule; leave it out, or set data.extensive=false "
            "for labels that do not grow."
        )
    tokenizer = choose_tokenizer(config, store, state)
    if vocabulary is not None:
        check_vocabulary(vocabulary, tokenizer, config.training.start_from)
    ids, known, unknown = encode_known(tokenizer, store)
    if unknown:
        item, reason = next(iter(unknown.items()))
        first = f"the first is {decode_text(store, 'smiles', item)}: {reason}"
        if not len(known):
            raise ValueError(f"the vocabulary can write none of the molecules; {first}")
        print(f"left out: {len(unknown):,} molecules that the vocabulary cannot write; {first}")
    width = chemgpt["hidden_features"] if chemgpt else width_of(config.model.size, config.model.hidden_features)
    longest = chemgpt["max_positions"] if chemgpt else int(ids.lengths.max())
    row = config.pack.tokens or choose_row(np.minimum(ids.lengths, longest), width)
    if chemgpt and longest < row and ids.lengths.max() > longest and data.long == "error":
        item = int(known[int(np.argmax(ids.lengths > longest))])
        raise ValueError(
            f"{decode_text(store, 'smiles', item)} is longer than the {longest} symbols, begin and end included, that "
            f"the model of {config.training.start_from} reads, as {int((ids.lengths > longest).sum()):,} molecules "
            "are; set data.long to drop or truncate."
        )
    if not chemgpt:
        chemgpt = fresh_arguments(config, tokenizer.vocab_size, row)
    rows = fit_rows(ids, min(row, chemgpt["max_positions"]), data.long)
    ids = ended(rows.ids, tokenizer.eos_id)
    if len(rows.kept) < len(store):
        store = store.take(known[rows.kept])
    items = split_items(store, data)
    if "standardizer" in state:
        fitted = Standardizer.from_dict(state["standardizer"])
    else:
        fitted = _fit(store, items["train"])
    shape = {"tokens": row, **({"segments": config.pack.graphs} if config.pack.graphs else {})}
    made, budget = plans_of_splits(
        items, lambda chosen: {"tokens": ids.lengths[chosen]}, lambda _: Budget(**shape), config, plans
    )
    segments = config.pack.graphs or max(plan.max_items_per_pack for plan in made.values())
    cut = {**rows.counts, "unknown symbols": len(unknown)}
    shape_of_packs = budget.replace(segments=segments)
    return TextPropertyData(store, items, made, shape_of_packs, targets, fitted, tokenizer, ids, chemgpt, cut)


def fresh_arguments(config: RunConfig, vocab_size: int, max_positions: int) -> Dict[str, Any]:
    """Arguments of a ChemGPT with the sizes of a config."""
    return {**config.model.arguments(), "vocab_size": vocab_size, "max_positions": max_positions}


def with_head(config: RunConfig, chemgpt: ChemGPT, targets: Sequence[Target]) -> ChemGPTProperty:
    """A fresh head for the labels of a run on a ChemGPT."""
    extensive = all(target.extensive for target in targets)
    return ChemGPTProperty(chemgpt, len(targets), config.model.readout, extensive, config.model.freeze)


def heavy_atoms_alike(heavy_atoms: np.ndarray) -> Ragged:
    """Atoms for a standardizer with references "none", which counts them and does not ask what they are.

    Extensive labels are shifted by so much for every heavy atom: a constant for every molecule would make two
    molecules together differ from the sum of the two, and the number of symbols depends on how a molecule is written.
    """
    offsets = np.append(0, np.cumsum(heavy_atoms, dtype=np.int64))
    return Ragged(np.zeros(offsets[-1], np.uint8), offsets)


def ended(ids: Ragged, eos_id: int) -> Ragged:
    """The same ids with the mark of the end also where molecules were truncated: what is pooled leaves it out."""
    values = ids.values.copy()
    values[ids.offsets[1:] - 1] = eos_id
    return Ragged(values, ids.offsets)


def _labelled(config: RunConfig) -> Store:
    """A corpus store with the labels asked for, of a file or of a data set that is SMILES with labels."""
    data: DataConfig = config.data
    if has_table(config):
        store = load_labelled_dataset(data.name, data.path, data.cache, data.limit, data.workers)
        return select_targets(store, data.target)
    if data.name != "file" or not data.path:
        raise ValueError(
            f"data.name={data.name}, data.path={data.path!r}: labels of molecules as text come from a .csv of your "
            "own or a data set of SMILES; give data.name=file and its path, or leave data.target empty to learn the "
            "text itself."
        )
    manner = {"cache": data.cache, "limit": data.limit, "workers": data.workers}
    return load_labelled_corpus(data.path, target_names(config), data.unit, data.extensive, data.kind, **manner)


def _earlier(config: RunConfig, state: Mapping[str, Any]) -> Tuple[Dict[str, Any], Optional[Tokenizer]]:
    """Arguments of the ChemGPT of a checkpoint or of `training.start_from`, and the latter's vocabulary."""
    if state:
        return dict(state["chemgpt"]), None
    if not config.training.start_from:
        return {}, None
    from ipu_chem.language_model import load_language_model

    earlier = load_language_model(config.training.start_from)
    return earlier.model.config(), earlier.tokenizer


def _fit(store: Store, train: np.ndarray) -> Standardizer:
    """A standardizer for the training molecules."""
    atoms = heavy_atoms_alike(store.fields["heavy_atoms"])
    fields = {"z": atoms.values, "y": store.fields["y"]}
    labelled = Store({"nodes": atoms.offsets}, fields, {"z": "nodes"}, {"targets": store.info["targets"]})
    return Standardizer.fit(labelled, train, "none")
