"""New molecules from a language model, token by token, many molecules at once."""

from typing import TYPE_CHECKING, Collection, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ipu_chem.data.representations.base import UnknownToken
from ipu_chem.generation.chance import Chance
from ipu_chem.generation.in_flight import Wanted, write_all
from ipu_chem.generation.writers import writers
from ipu_chem.models.chemgpt import ChemGPT

if TYPE_CHECKING:
    from ipu_chem.data.representations.tokenizer import Tokenizer

_FEWEST = 32  # molecules of a job at once, if there are: weights are read for all of them together


class Samples(NamedTuple):
    """Molecules as the model wrote them.

    Attributes:
        texts: N molecules in the representation of the vocabulary, the prefix included.
        finished: [N] bool; False where the sequence was full before the molecule ended.
        log_likelihoods: [N] float64, nats, of all tokens after the first and the properties that the model is given,
            prefix and end included, under the model as it was trained: at temperature 1, whatever the molecule was
            drawn at.
    """

    texts: List[str]
    finished: np.ndarray
    log_likelihoods: np.ndarray


def generate(
    model: ChemGPT,
    tokenizer: "Tokenizer",
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    prefix: str = "",
    batch: int = 256,
    seed: int = 0,
    max_length: Optional[int] = None,
    progress: bool = True,
    starts: Optional[Sequence[np.ndarray]] = None,
    banned: Collection[str] = (),
    jobs: int = 1,
    native: bool = True,
) -> Samples:
    """Draw molecules, on the device where the model is.

    Every molecule has random numbers of its own, by seed and index: it is the same whatever batch and jobs, to the
    bit in native kernels, elsewhere but for draws so close to a border that the rounding of a larger matrix product
    moves it. A molecule that has ended makes room for the next one at once.

    Args:
        model: on any device of torch's.
        tokenizer: whose ids the model was trained on.
        count: molecules.
        temperature: divides logits; below 1 the likely tokens become likelier.
        top_k: draw among this many likeliest tokens; 0 draws among all.
        top_p: draw among the fewest likeliest tokens that have this probability together; 1 draws among all. After
            top_k where both are given.
        prefix: what every molecule begins with, in the vocabulary's representation; one of SELFIES also takes SMILES
            and goes on at their last atom: all atoms and bonds stay, but a ring that is closed later may raise the
            order of a bond. SMILES are taken as they are written, open branches and rings included.
        batch: molecules at once; jobs divide them among themselves, but each has 32 or more.
        seed: 0 or more.
        max_length: tokens of a molecule, first and last included; None takes the model's `max_positions`.
        progress: show a bar on stderr.
        starts: ``count`` arrays of token ids, the first token included, in place of ``prefix``: molecule i begins
            with starts[i].
        banned: tokens that are never drawn (SELFIES as 2.x spell them); starts may hold them.
        jobs: threads that write; on CPUs one for each core, with `torch.set_num_threads` as many as jobs or more.
        native: take native kernels where the model is on the CPU and there is a C compiler; they compute beginnings
            that molecules share once. False takes torch.

    Raises:
        ValueError: a number out of range, a prefix or start that has no ids or leaves no room, a banned symbol that
            the vocabulary lacks, or a vocabulary larger than the model's.
        FloatingPointError: the model gives NaN.
    """
    length = model.max_positions if max_length is None else max_length
    _check(count, temperature, top_k, top_p, batch, seed, jobs)
    if not 2 <= length <= model.max_positions:
        raise ValueError(f"max_length={length}: a molecule of this model has 2 to {model.max_positions} tokens.")
    chance = Chance(temperature, top_k, top_p, never_drawn(model, tokenizer, banned))
    begins = _starts(tokenizer, count, length, prefix, starts)
    wanted = Wanted(count, length, begins, seed, tokenizer.eos_id)
    jobs = min(jobs, count)
    rows = min(max(-(-batch // jobs), min(batch, _FEWEST)), -(-count // jobs))
    was_training = model.training
    model.eval()
    texts = [""] * count
    finished, likelihoods = np.zeros(count, bool), np.zeros(count)
    try:
        new_writer = writers(model, rows, chance, count, native)
        with tqdm(total=count, desc="generating", unit="molecule", disable=not progress) as bar:
            for some in write_all(wanted, new_writer, rows, jobs):
                for index, ids, ended, nats in some:
                    texts[index], finished[index], likelihoods[index] = tokenizer.decode(ids), ended, nats
                bar.update(len(some))
    finally:
        model.train(was_training)
    if len(tokenizer.leading) > 1:
        stated = np.stack([start[: len(tokenizer.leading)] for start in begins])
        likelihoods -= _nats_of_stated(model, torch.from_numpy(stated).to(next(model.parameters()).device))
    if not np.isfinite(likelihoods).all():
        raise FloatingPointError("the model gives logits that are no numbers (NaN); its training has diverged.")
    return Samples(texts, finished, likelihoods)


def _nats_of_stated(model: ChemGPT, stated: Tensor) -> np.ndarray:
    """Log-likelihoods of the properties that a model is given, ids [B, 1 + P]; it was not trained to predict them."""
    ids, places = torch.unique(stated, dim=0, return_inverse=True)
    with torch.no_grad():
        logits = model(ids, torch.arange(ids.shape[1], device=ids.device).expand(ids.shape))[:, :-1].to(torch.float64)
    nats = torch.log_softmax(logits, 2).gather(2, ids[:, 1:, None]).sum((1, 2))
    return nats[places].cpu().numpy()


def encode_prefix(tokenizer: "Tokenizer", prefix: str) -> np.ndarray:
    """Ids that every molecule begins with, [1 + n] int64: the first token and those of the prefix.

    Raises:
        ValueError: the prefix cannot be written, or the vocabulary lacks one of its tokens.
    """
    if not prefix:
        return tokenizer.leading
    text = tokenizer.representation.beginning(prefix)
    try:
        ids = np.asarray(tokenizer.encode(text, name=f"prefix {prefix}"), np.int64)[:-1]
    except UnknownToken as error:
        raise ValueError(f"{error.reason}; begin with something else.") from None
    if (ids[1:] == tokenizer.unk_id).any():
        raise ValueError(f"prefix {prefix}: the vocabulary lacks one of the tokens of {text}.")
    return ids


def never_drawn(model: ChemGPT, tokenizer: "Tokenizer", banned: Collection[str] = ()) -> np.ndarray:
    """Ids that are never drawn, [K] int64, sorted: special tokens but the end, pieces of tokens as the published
    vocabulary has them, rows of the model's table beyond the vocabulary, and ``banned`` symbols.

    Raises:
        ValueError: the vocabulary is larger than the model's, lacks a banned symbol, or has no others.
    """
    there = model.embedding.wte.num_embeddings
    if tokenizer.vocab_size > there:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {there}: they do not belong together."
        )
    if isinstance(banned, str):
        raise ValueError(f"banned={banned!r}: give a list of tokens, even of one.")
    symbols = tokenizer.modern_symbols()
    unknown = [symbol for symbol in banned if symbol not in symbols]
    if unknown:
        raise ValueError(f"banned token {unknown[0]} is not in the vocabulary, so it is never drawn: leave it out.")
    never = {*tokenizer.never_written(there), *(index for index, symbol in enumerate(symbols) if symbol in banned)}
    if len(never) == there:
        raise ValueError("all tokens are banned: there is none to draw.")
    return np.array(sorted(never), np.int64)


def _starts(
    tokenizer: "Tokenizer", count: int, length: int, prefix: str, starts: Optional[Sequence[np.ndarray]]
) -> Sequence[np.ndarray]:
    """Ids that molecules begin with: one array for each of them, or one for all."""
    if starts is None:
        start = encode_prefix(tokenizer, prefix)
        if len(start) >= length:
            raise ValueError(
                f"the prefix has {len(start) - 1} tokens, but a sequence of {length} begins with one token and ends "
                "with another: give a shorter prefix or a larger max_length."
            )
        return [start]
    if prefix:
        raise ValueError("prefix and starts say both what molecules begin with: give one of them.")
    if len(starts) != count:
        raise ValueError(f"{len(starts)} starts for {count} molecules: give one each.")
    for index, start in enumerate(starts):
        if start.ndim != 1 or not len(start) or start.min() < 0 or start.max() >= tokenizer.vocab_size:
            raise ValueError(
                f"starts[{index}] holds no ids of the tokenizer: give [1 + n] ids, the first token's first."
            )
        if (start == tokenizer.eos_id).any():
            raise ValueError(f"starts[{index}] holds the token that ends a molecule: leave it out.")
        if len(start) >= length:
            raise ValueError(
                f"starts[{index}] has {len(start)} tokens, but a sequence of {length} ends with one more: give a "
                "shorter start or a larger max_length."
            )
    return starts


def _check(count: int, temperature: float, top_k: int, top_p: float, batch: int, seed: int, jobs: int) -> None:
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: it is 1 or more.")
    if count < 1 or batch < 1:
        raise ValueError(f"count={count}, batch={batch}: both are 1 or more.")
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: it is above 0; for the likeliest token alone use top_k=1.")
    if top_k < 0:
        raise ValueError(f"top_k={top_k}: it is 0 (all tokens) or more.")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p={top_p}: it is above 0 and at most 1 (all tokens).")
    if seed < 0:
        raise ValueError(f"seed={seed}: it is 0 or more.")
