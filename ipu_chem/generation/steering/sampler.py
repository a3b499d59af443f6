"""A language model as steering uses it: texts that go on from given symbols, and log-likelihoods of given texts."""

from typing import Any, Collection, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ipu_chem.data.representations.base import UnknownToken
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.generation.sampling import Samples, generate
from ipu_chem.models.chemgpt import ChemGPT

_TOKENS = 1 << 14  # scored at once


class Drawn(NamedTuple):
    """N texts, of which some are given up before they are molecules.

    Attributes:
        samples: of the texts; what is given up is "" and not finished.
        given_up: N reasons, "" where there is a text.
    """

    samples: Samples
    given_up: List[str]


class Sampler:
    """A model, its vocabulary, and the manner of drawing."""

    def __init__(
        self,
        model: ChemGPT,
        tokenizer: Tokenizer,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        batch: int = 256,
        max_length: Optional[int] = None,
        banned: Collection[str] = (),
        leading: Optional[np.ndarray] = None,
        jobs: int = 1,
        workers: Optional[int] = None,
    ) -> None:
        """Bind them.

        Args:
            model: on any device of torch's.
            tokenizer: of SELFIES, whose ids the model was trained on.
            temperature, top_k, top_p, batch, max_length, banned, jobs: see `generate`.
            leading: [1 + P] ids that all texts begin with: the first token, and those of P properties that the model is
                stated; None takes the vocabulary's own, which say nothing.
            workers: processes that decode and spell; None takes the cores this process may use.

        Raises:
            ValueError: the vocabulary is of other texts than SELFIES.
        """
        if tokenizer.representation.name != "selfies":
            raise ValueError(
                f"scaffolds, linkers, decorations and motifs are spelled as SELFIES, and this model writes "
                f"{tokenizer.representation.title}: use one that was trained on SELFIES."
            )
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        self.options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "batch": batch, "jobs": jobs}
        self.length = model.max_positions if max_length is None else max_length
        self.banned, self.workers = banned, workers
        self.leading = tokenizer.leading if leading is None else leading

    def encode(self, symbols: Sequence[str]) -> np.ndarray:
        """Ids of symbols without first and last token, [n] int64.

        Raises:
            UnknownToken: the vocabulary lacks one.
        """
        if not symbols:
            return np.zeros(0, np.int64)
        ids = np.asarray(self.tokenizer.encode("".join(symbols)), np.int64)[-len(symbols) - 1 : -1]
        if (ids == self.tokenizer.unk_id).any():
            lacking = symbols[int(np.argmax(ids == self.tokenizer.unk_id))]
            raise UnknownToken(f"symbol {lacking!r} is not in the vocabulary", "give something else.")
        return ids

    def begun(self, *parts: np.ndarray) -> np.ndarray:
        """Ids of a text that begins with these, the leading tokens included."""
        return np.concatenate([self.leading, *parts])

    def fits(self, ids: np.ndarray) -> bool:
        """Test if a text that begins with these ids has room for one token more."""
        return len(ids) < self.length

    def go_on(self, starts: Sequence[np.ndarray], seed: int) -> Samples:
        """Texts that begin with these ids, each drawn to its end; see `generate`."""
        return generate(
            self.model,
            self.tokenizer,
            len(starts),
            seed=seed,
            max_length=self.length,
            progress=False,
            starts=starts,
            banned=self.banned,
            **self.options,  # type: ignore[arg-type]
        )

    def log_likelihoods(self, texts: Sequence[np.ndarray], since: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods of given texts at temperature 1.

        Args:
            texts: N arrays of ids, the first token included.
            since: N places in them.

        Returns:
            ([N] float64 nats of the tokens from these places on, those of all tokens behind the leading ones).
        """
        tails, totals = np.zeros(len(texts)), np.zeros(len(texts))
        device = next(self.model.parameters()).device
        order = np.argsort([len(text) for text in texts], kind="stable")
        at = 0
        self.model.eval()
        while at < len(order):
            # As many as make so many tokens; the longest of them is the last.
            rows = order[at : at + max(1, _TOKENS // len(texts[order[min(at + 255, len(order) - 1)]]))][:256]
            width = max(len(texts[row]) for row in rows)
            ids = np.full((len(rows), width), self.tokenizer.pad_id, np.int64)
            for place, row in enumerate(rows):
                ids[place, : len(texts[row])] = texts[row]
            tokens = torch.from_numpy(ids).to(device)
            positions = torch.arange(width, device=device).expand(len(rows), width)
            with torch.no_grad():
                logits = self.model(tokens, positions)[:, :-1].to(torch.float64)
                nats = torch.log_softmax(logits, 2).gather(2, tokens[:, 1:, None]).squeeze(2).cpu().numpy()
            for place, row in enumerate(rows):
                own = nats[place, : len(texts[row]) - 1]
                tails[row] = own[max(since[row] - 1, 0) :].sum()
                totals[row] = own[len(self.leading) - 1 :].sum()
            at += len(rows)
        if not np.isfinite(totals).all():
            raise FloatingPointError("the model gives logits that are no numbers (NaN); its training has diverged.")
        return tails, totals

    def likeliest(self, texts: Sequence[np.ndarray]) -> int:
        """Index of the text that the model finds likeliest to begin with."""
        return int(np.argmax(self.log_likelihoods(texts, [len(self.leading)] * len(texts))[1]))


def merged(count: int, kept: Sequence[int], samples: Samples, reason: Any) -> Drawn:
    """Samples of some of N texts as samples of all; ``reason``, a text or N of them, is why the others are given up."""
    finished, likelihoods, selfies = np.zeros(count, bool), np.zeros(count), [""] * count
    given_up = [reason] * count if isinstance(reason, str) else list(reason)
    finished[list(kept)], likelihoods[list(kept)] = samples.finished, samples.log_likelihoods
    for place, text in zip(kept, samples.texts):
        selfies[place], given_up[place] = text, ""
    return Drawn(Samples(selfies, finished, likelihoods), given_up)
