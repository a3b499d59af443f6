"""Embeddings of molecules: one vector each from a trained language model, in packs, chunk by chunk.

A chunk is encoded, packed and computed before the next one is read, so that neither memory nor a broken line ends
what may run for hours: a molecule that cannot be embedded gets NaN and a reason.
"""

import copy
from collections import deque
from functools import partial
from itertools import chain, islice
from typing import Any, Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ipu_chem.backends import get_backend
from ipu_chem.backends.options import Batching
from ipu_chem.batches.text_labels import TextPropertyLoader
from ipu_chem.data.corpora.encode import Manner, encode_lines, libraries
from ipu_chem.data.files.table import Entry, Failure, Line
from ipu_chem.data.representations.base import UnknownToken
from ipu_chem.data.representations.smiles import looks_like_selfies
from ipu_chem.embedding.options import EmbeddingOptions
from ipu_chem.models.base import Model
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.pooling import PooledChemGPT, ScoredChemGPT, check_pooling
from ipu_chem.parallel import in_parallel
from ipu_chem.tasks.sequences import usual_length
from packing import Budget, Ragged, make_plan

# Molecules of fewer tokens on average would leave slots of a packed sequence empty, and few sets have them.
_TOKENS_PER_MOLECULE = 8
_IT = "the molecule"
LIKELIHOOD = "log_likelihood"
_PER_TASK = 64  # molecules that a process is sent at a time


class Text(NamedTuple):
    """A molecule in the model's representation, or why it is none."""

    text: str
    reason: str


class Chunk(NamedTuple):
    """Some of the molecules, in their order.

    Attributes:
        entries: k molecules as they came.
        values: [k, F], NaN in rows without a vector.
        remarks: [k] why there is none, or that the molecule was truncated; "" for most.
    """

    entries: List[Entry]
    values: np.ndarray
    remarks: List[str]


class Embeddings(NamedTuple):
    """Vectors of all molecules.

    Attributes:
        values: [n, F] float32 (float64 from a model in float64), NaN in rows without a vector.
        failures: the molecules without one: line (the row, from 1), text and reason.
        dropped: how many of those were too long.
        truncated: molecules that were too long and lost their end.
    """

    values: np.ndarray
    failures: List[Failure]
    dropped: int
    truncated: int


class Embedder:
    """A model ready to embed; counts what it does. Use it as a context manager, or `close` it."""

    def __init__(self, model: ChemGPT, tokenizer: Any, options: Optional[EmbeddingOptions] = None) -> None:
        """Get the device; the model stays as it is and where it is, and on CPUs weights are not copied.

        Args:
            model: a `ChemGPT`.
            tokenizer: of the model (`ipu_chem.data.representations.tokenizer`).
            options: all others.

        Raises:
            ValueError: model, tokenizer and options do not go together, or there is no such device.
        """
        self.options = options or EmbeddingOptions()
        check_pooling(self.options.pooling)
        representation = tokenizer.representation
        if self.options.notation == "smiles":
            libraries(representation.name)
        elif self.options.notation not in ("text", representation.name):
            raise ValueError(
                f"notation={self.options.notation}: the model reads {representation.title}; give SMILES with "
                f"notation=smiles, or its {representation.title} as they are with notation=text."
            )
        self.model = model
        self.tokenizer = tokenizer.mapping_unknown() if self.options.unknown == "map" else tokenizer
        words = model.embedding.wte.num_embeddings
        if tokenizer.vocab_size > words:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {words}: take its own.")
        longest = model.max_positions
        if self.options.tokens is not None and self.options.tokens > longest:
            raise ValueError(f"tokens={self.options.tokens}: the model reads molecules of up to {longest} tokens.")
        self.features: int = 1 if self.options.likelihoods else model.embedding.wte.embedding_dim
        self.dtype = np.dtype("f8" if model.embedding.wte.weight.dtype == torch.float64 else "f4")
        self.embedded = self.failed = self.dropped = self.truncated = 0
        self._limit = self.options.tokens or longest
        self._row = self.options.tokens or min(usual_length(model.embedding.wte.embedding_dim), longest)
        self._compiled_row = 0
        self._batching = Batching(self.options.micro_batch_size)
        self._backend = get_backend(self.options.accelerator)

    @property
    def columns(self) -> List[str]:
        """Names of the numbers of a molecule."""
        return [LIKELIHOOD] if self.options.likelihoods else [f"f{index}" for index in range(self.features)]

    def chunks(self, entries: Iterable[Entry]) -> Iterator[Chunk]:
        """Embed molecules as they come; every one is in exactly one chunk, in order.

        Raises:
            ValueError: a molecule is too long and ``long`` is error; names it and what would do.
        """
        for part, texts in self._as_texts(_parts(entries, self.options.chunk)):
            yield self._embed(part, texts)

    def close(self) -> None:
        """Give the device back; calling it twice is fine."""
        self._backend.close()
        self._compiled_row = 0

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _as_texts(self, parts: Iterable[List[Entry]]) -> Iterator[Tuple[List[Entry], List[Text]]]:
        """Each part with the texts of its molecules; processes work one part ahead."""
        representation = self.tokenizer.representation
        if self.options.notation != "smiles":
            yield from ((part, [_unchanged(entry, representation.title) for entry in part]) for part in parts)
            return
        manner = Manner(self.options.stereo, self.options.fragments, representation.name)
        translate = partial(_translated, manner=manner)
        waiting: Deque[List[Entry]] = deque()

        def tasks() -> Iterator[List[Entry]]:
            for part in parts:
                waiting.append(part)
                yield from _parts(part, _PER_TASK)

        ahead = self.options.chunk // _PER_TASK
        texts = chain.from_iterable(in_parallel(translate, tasks(), self.options.workers, chunk=1, ahead=ahead))
        for text in texts:
            part = waiting.popleft()
            yield part, [text, *islice(texts, len(part) - 1)]

    def _embed(self, part: List[Entry], texts: List[Text]) -> Chunk:
        remarks = [text.reason for text in texts]
        values = np.full((len(part), self.features), np.nan, self.dtype)
        rows: List[int] = []
        ids: List[np.ndarray] = []
        for row, found in self._tokens(part, texts):
            if isinstance(found, str):
                remarks[row] = found
                continue
            if len(found) > self._limit:
                found, remarks[row] = self._shortened(found, part[row])
            if found is not None:
                rows.append(row)
                ids.append(found)
        if rows:
            values[rows] = self._vectors(Ragged.from_list(ids))
            for row in np.asarray(rows)[~np.isfinite(values[rows]).all(1)].tolist():
                values[row], remarks[row] = np.nan, "the model's numbers for it are not finite"
        missing = int(np.isnan(values[:, 0]).sum())
        self.failed += missing
        self.embedded += len(part) - missing
        return Chunk(part, values, remarks)

    def _tokens(self, part: List[Entry], texts: List[Text]) -> Iterator[Tuple[int, Union[np.ndarray, str]]]:
        """Rows with texts, and their token ids or why there are none."""
        rows = [row for row, text in enumerate(texts) if not text.reason]
        try:
            ids = self.tokenizer.encode_many([texts[row].text for row in rows])
        except ValueError:  # of one molecule: find out which
            for row in rows:
                try:
                    yield row, self.tokenizer.encode(texts[row].text, _IT)
                except ValueError as error:  # the line is named by whoever shows the reason
                    lacks = isinstance(error, UnknownToken)
                    why = f"{error.reason} (--unknown map reads it as the unknown one)" if lacks else str(error)
                    yield row, why[len(_IT) + 2 :] if why.startswith(f"{_IT}: ") else why
        else:
            yield from ((row, ids[index]) for index, row in enumerate(rows))

    def _shortened(self, tokens: np.ndarray, line: Entry) -> Tuple[Optional[np.ndarray], str]:
        """Tokens that are embedded of a molecule that is too long, and the remark about it."""
        longest, limit = self.model.max_positions, self._limit
        if self.options.long == "error":
            fits = f"--tokens {len(tokens)} would hold it" if len(tokens) <= longest else f"the model reads {longest}"
            raise ValueError(
                f"line {line.line} ({line.smiles}) has {len(tokens)} tokens, the limit is {limit}: {fits}; "
                "--long drop leaves such molecules out, --long truncate their ends."
            )
        if self.options.long == "drop":
            self.dropped += 1
            return None, f"dropped: {len(tokens)} tokens, the limit is {limit}"
        self.truncated += 1
        # The mark of the end stays, so that as many tokens are counted as of a molecule of that length.
        return np.append(tokens[: limit - 1], tokens[-1:]), f"truncated from {len(tokens)} to {limit} tokens"

    def _vectors(self, ids: Ragged) -> np.ndarray:
        """[n, F] of sequences that are short enough."""
        longest = int(ids.lengths.max())
        while self._row < longest:  # stays so: another length is another program to compile
            self._row = min(2 * self._row, self._limit)
        budget = Budget(tokens=self._row, segments=max(self._row // _TOKENS_PER_MOLECULE, 1))
        plan = make_plan(ids.lengths, budget, "best_fit")
        no_labels = np.full((len(ids), 1), np.nan)
        loader = TextPropertyLoader(ids, plan, no_labels, budget, self._batching, self.tokenizer.vocab_size)
        if self._compiled_row != self._row:
            self._compiled_row = self._row
            program = self._program(_same_weights(self.model))
            self._backend.compile(program, None, None, self._batching, loader.example(training=False))
        result = np.empty((len(ids), self.features), self.dtype)
        for batch, positions in loader.evaluation():
            result[positions] = self._backend.evaluate(batch).numpy()[batch.graph_mask.numpy()]
        return result

    def _program(self, model: ChemGPT) -> Model:
        leading = len(self.tokenizer.leading)
        if self.options.likelihoods:
            return ScoredChemGPT(model, leading)
        return PooledChemGPT(model, self.options.pooling, self.options.special_tokens, leading)


def _same_weights(model: ChemGPT) -> ChemGPT:
    """A copy that shares memory with the model, for a backend to move, and to put native kernels into."""
    shared: Dict[int, Any] = {id(weight): nn.Parameter(weight.detach(), False) for weight in model.parameters()}
    return copy.deepcopy(model, shared)


def embed(
    model: ChemGPT,
    tokenizer: Any,
    molecules: Sequence[str],
    pooling: str = "mean",
    progress: bool = False,
    **options: Any,
) -> Embeddings:
    """Vectors of molecules that are in memory; `Embedder` and `embed_file` take a stream of them.

    Args:
        model: a `ChemGPT`.
        tokenizer: its own.
        molecules: n texts; one that is no molecule gets a row of NaN and a reason.
        pooling: mean, max, sum, last or eos, see `ipu_chem.models.pooling`.
        progress: show a bar on stderr.
        **options: further ones of `EmbeddingOptions`, such as tokens, notation, workers and accelerator.

    Raises:
        ValueError: things do not go together, or a molecule is too long and ``long`` is error.
    """
    if isinstance(molecules, str):
        raise ValueError(f"molecules={molecules!r}: give a list of texts, even for one molecule.")
    chosen = EmbeddingOptions(pooling=pooling, **options)
    entries = entries_of(molecules, 1)
    with Embedder(model, tokenizer, chosen) as embedder:
        return embed_entries(embedder, entries, progress)


def log_likelihoods(
    model: ChemGPT, tokenizer: Any, molecules: Sequence[str], progress: bool = False, **options: Any
) -> Embeddings:
    """Log-likelihoods of molecules that are in memory, in nats, of all tokens after the first, the end included.

    Of a model that is given properties they are those of the molecules alone, with no property known.

    Args:
        model: a `ChemGPT`.
        tokenizer: its own.
        molecules: n texts; one that is no molecule gets NaN and a reason.
        progress: show a bar on stderr.
        **options: of `EmbeddingOptions`, such as notation and accelerator.

    Returns:
        `Embeddings` whose values are [n, 1].

    Raises:
        ValueError: things do not go together, or a molecule is too long and ``long`` is error.
    """
    return embed(model, tokenizer, molecules, progress=progress, likelihoods=True, **options)


def embed_entries(embedder: Embedder, entries: Sequence[Entry], progress: bool = False) -> Embeddings:
    """Vectors of all entries; see `Embedder.chunks`."""
    values, failures, first = np.empty((len(entries), embedder.features), embedder.dtype), [], 0
    with progress_bar(progress, len(entries)) as bar:
        for chunk in embedder.chunks(entries):
            values[first : first + len(chunk.entries)] = chunk.values
            failures += failures_of(chunk)
            first += len(chunk.entries)
            bar.update(len(chunk.entries))
    return Embeddings(values, failures, embedder.dropped, embedder.truncated)


def entries_of(molecules: Iterable[Any], first: int) -> List[Entry]:
    """Texts with their numbers, counted from ``first``; failures where something is no text."""
    return [
        Line(number, str(text)) if isinstance(text, str) else Failure(number, repr(text), "no text")
        for number, text in enumerate(molecules, first)
    ]


def failures_of(chunk: Chunk) -> List[Failure]:
    """The molecules of a chunk that have no vector."""
    missing = np.flatnonzero(np.isnan(chunk.values[:, 0])).tolist()
    return [Failure(chunk.entries[row].line, chunk.entries[row].smiles, chunk.remarks[row]) for row in missing]


def progress_bar(progress: bool, total: int) -> Any:
    """A bar on stderr that counts molecules."""
    return tqdm(total=total, desc="embedding", unit="molecule", disable=not progress, mininterval=0.5)


def _parts(entries: Iterable[Entry], size: int) -> Iterator[List[Entry]]:
    """Lists of ``size``, the last one shorter."""
    iterator = iter(entries)
    part = list(islice(iterator, size))
    while part:
        yield part
        part = list(islice(iterator, size))


def _unchanged(entry: Entry, title: str) -> Text:
    """A molecule that is in the model's representation already."""
    if isinstance(entry, Failure):
        return Text("", entry.reason)
    return Text(entry.smiles.strip(), "" if entry.smiles.strip() else f"no {title}")


def _translated(entries: Sequence[Entry], manner: Manner) -> List[Text]:
    """Texts of SMILES in the representation of the manner."""
    texts = [Text("", entry.reason if isinstance(entry, Failure) else "") for entry in entries]
    lines = []
    for row, (entry, text) in enumerate(zip(entries, texts)):
        if looks_like_selfies(entry.smiles):
            remedy = "say notation=selfies" if manner.representation == "selfies" else "give SMILES"
            texts[row] = Text("", f"looks like SELFIES; {remedy}")
        elif not text.reason:
            lines.append(Line(row, entry.smiles))
    encoded = encode_lines(lines, manner)
    for failure in encoded.failures:
        texts[failure.line] = Text("", failure.reason)
    for index, row in enumerate(encoded.line.tolist()):
        texts[row] = Text("".join(map(encoded.table.__getitem__, encoded.symbols[index].tolist())), "")
    return texts
