"""Contestants of gpu.py on text: a training step of ChemGPT-4.7M on packed rows, and of Hugging Face's GPT-Neo."""

import itertools
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch

from benchmarks import chemgpt_tokens
from benchmarks.gpu_contestants import BATCHES, FORMS, OPTIMIZER, RATE, NotHere, Scale, Step, options_of
from ipu_chem.backends.options import Batching
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.losses import token_cross_entropy
from packing import Budget, Ragged, make_plan

_LENGTH = 36  # symbols of a molecule, about


def contestants(scale: Scale) -> Dict[str, Callable[[], Step]]:
    """Name -> function that builds the step; see `gpu_contestants.contestants`."""
    ids, vocab = tokens(scale)
    forms = {
        form: {**options, **({"compile_blocks": True} if form.startswith("compiled") else {})}
        for form, options in FORMS.items()
    }
    made: Dict[str, Callable[[], Step]] = {
        f"ours, {form}": lambda options=options: packed(ids, vocab, scale, options) for form, options in forms.items()
    }
    for form in list(FORMS)[:4]:
        made[f"Hugging Face, {form}"] = lambda form=form: hugging_face(ids, vocab, scale, form)
    return made


def tokens(scale: Scale) -> Tuple[Ragged, int]:
    """Ids of real molecules, or of made-up ones where the files or RDKit are not there."""
    try:
        return chemgpt_tokens.tokens(scale.shared, 400)
    except (OSError, ImportError):
        random = np.random.default_rng(0)
        lengths = np.clip(random.normal(_LENGTH, 9, 400).astype(int), 8, chemgpt_tokens.ROWS[0])
        return Ragged.from_list([random.integers(1, 90, length).astype(np.uint8) for length in lengths]), 96


def packed(ids: Ragged, vocab: int, scale: Scale, chosen: Dict[str, Any]) -> Step:
    """Our ChemGPT on packed rows of 128."""
    options, row = options_of(scale.device, **chosen), 128
    many = ids.take(np.arange(BATCHES * scale.symbols // _LENGTH) % len(ids))
    plan = make_plan(many.lengths, Budget(tokens=row), "best_fit")
    batching = Batching(max(plan.num_packs // BATCHES, 1))
    loader = TokenLoader(many, plan, Budget(tokens=row), batching, vocab)
    backend = TorchBackend(scale.device, options)
    example = loader.example(training=True)
    backend.compile(chemgpt_tokens.new_model(vocab), token_cross_entropy, OPTIMIZER, batching, example)
    batches = [batch for batch, _ in itertools.islice(loader.epoch(0, 0), BATCHES)]
    source = itertools.cycle([(batch, int((batch.weight > 0).sum())) for batch in batches])

    def step() -> int:
        batch, count = next(source)
        backend.train_step(batch, RATE)
        return count

    return step


def hugging_face(ids: Ragged, vocab: int, scale: Scale, form: str) -> Step:
    """Hugging Face's GPT-Neo; padded to the longest of the batch, to one length where it is compiled."""
    try:
        model: Any = chemgpt_tokens.hugging_face(vocab).to(scale.device)
    except ImportError as error:
        raise NotHere(f"transformers is not installed ({error})") from None
    is_compiled = "compiled" in form
    run = torch.compile(model) if is_compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0, fused=scale.device == "cuda")
    size = max(scale.symbols // 64, 1)
    length = int(ids.lengths.max()) if is_compiled else 0
    batches = []
    for first in range(BATCHES):
        items = np.arange(first * size, (first + 1) * size) % len(ids)
        batches.append((chemgpt_tokens.pad(ids, items, length), int((ids.lengths[items] - 1).sum())))
    source = itertools.cycle(batches)

    def step() -> int:
        batch, count = next(source)
        batch = {key: value.to(scale.device, non_blocking=True) for key, value in batch.items()}
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device, torch.bfloat16, enabled="bf16" in form):
            loss = run(**batch).loss
        loss.backward()
        optimizer.step()
        float(loss.detach())
        return count

    return step
