"""A training step of ChemGPT-4.7M: packed rows against Hugging Face's GPT-Neo, in real tokens per CPU second.

    python benchmarks/chemgpt_tokens.py [--quick] [--shared PATH] [--no-goals]

The same molecules (NCI, MOSES, ZINC250k, ChEMBL 30, a quarter each), the same weights, AdamW, one thread. The model
of Hugging Face takes 16 molecules a step, padded to the longest of them (dynamic), to 128 or to 512 symbols, as
ChemGPT was trained; padding is masked and has no labels. Ours takes packed rows. A token is real when it is
predicted: padding and first symbols are not. Before anything is timed, the losses of the same molecules must agree.
Exits with 1 when a goal is missed.
"""

import gzip
import itertools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.common import Goals, arguments, machine_line, print_table, throughput_line
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.data.corpora import corpus_in_memory
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.gpt_neo import to_gpt_neo
from ipu_chem.optim import OptimizerConfig
from packing import Budget, Ragged, make_plan

FILES = ("moses_test.csv.gz", "zinc250k.smi.gz", "chembl30_valid.csv.gz")
ROWS = (96, 128, 256)
BATCH = 16  # molecules of a padded step
SYMBOLS = 1536  # of a packed step
OPTIMIZER = OptimizerConfig(learning_rate=1e-4)
Step = Callable[[], Tuple[int, float]]  # one training step -> (real tokens, CPU seconds)


def main() -> int:
    """Check, time, judge."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "transformers", "numpy"))
    ids, vocab_size = tokens(options.shared, 400 if options.quick else 2000)
    print(f"{len(ids):,} molecules, {ids.lengths.mean():.1f} tokens each with begin and end, {vocab_size} symbols")
    check(ids, vocab_size)
    kinds = {"plain": dict(kernels=False), "native kernels": dict(kernels=True)}
    if not options.quick:
        kinds["compiled"] = dict(kernels=False, compile=True, compile_blocks=True)
        kinds["native kernels, compiled"] = dict(kernels=True, compile=True, compile_blocks=True)
    steps: Dict[str, Step] = {
        "Hugging Face, dynamic padding": padded(ids, vocab_size, 0, BATCH),
        "Hugging Face, padding to 128": padded(ids, vocab_size, 128, BATCH),
        "Hugging Face, padding to 512": padded(ids, vocab_size, 512, 4),
    }
    for row, (kind, chosen) in itertools.product(ROWS[:1] if options.quick else ROWS, kinds.items()):
        if row == ROWS[0] or kind == "native kernels":
            steps[f"rows of {row}, {kind}"] = packed(ids, vocab_size, row, TorchOptions(threads=1, **chosen))
    rates: Dict[str, List[float]] = {name: [] for name in steps}
    for turn in range(-1, 2 if options.quick else 7):
        for name, step in steps.items():
            done = [step() for _ in range(1 if "512" in name or turn < 0 else 3)]
            if turn >= 0:
                rates[name].append(sum(count for count, _ in done) / sum(seconds for _, seconds in done))
    peers = list(steps)[:3]
    ratios = {
        name: [statistics.median(a / b for a, b in zip(rates[name], rates[peer])) for peer in peers] for name in steps
    }
    rows = [
        [name, f"{statistics.median(rates[name]):,.0f}", *(f"{ratio:.2f}" for ratio in ratios[name])] for name in steps
    ]
    header = ["ChemGPT-4.7M, training step", "real tokens/CPU s", "x dynamic", "x padding to 128", "x padding to 512"]
    print_table("Forward, backward, AdamW", header, rows)
    best = max(list(steps)[3:], key=lambda name: statistics.median(rates[name]))
    goals = Goals()
    for peer, ratio, goal in zip(peers, ratios[best], (1.8, 3.5, 30.0)):
        goals.at_least(f"{best}, times {peer}", ratio, goal)
    status = goals.finish(not options.no_goals and not options.quick)
    print(throughput_line(statistics.median(rates[best]) / float(ids.lengths.mean() - 1), 1.0))
    return status


def tokens(shared: Path, count: int) -> Tuple[Ragged, int]:
    """Ids of real molecules in a fixed random order, and the size of their vocabulary."""
    store, _ = corpus_in_memory(real_smiles(shared, count), workers=1)
    tokenizer = Tokenizer.build(store.info["symbols"])
    ids = tokenizer.encode_store(store)
    # No row of 96 holds the few longest of NCI: all contestants go without them.
    kept = np.random.default_rng(0).permutation(np.flatnonzero(ids.lengths <= ROWS[0]))
    return ids.take(kept), tokenizer.vocab_size


def real_smiles(shared: Path, count: int) -> List[str]:
    """SMILES of NCI, MOSES, ZINC250k and ChEMBL 30, a quarter each, in turns."""
    from rdkit import RDConfig

    files = [shared / "data" / "smiles" / name for name in FILES]
    lists = [list(itertools.islice(_smiles(file), 1, count // 4 + 1)) for file in files]
    with open(Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi", encoding="utf-8") as file:
        lists.append([line.split()[0] for line in itertools.islice(file, count // 4)])
    return [text for quarter in zip(*lists) for text in quarter]


def _smiles(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.split(",")[0].split()[0]


def new_model(vocab_size: int) -> ChemGPT:
    """ChemGPT-4.7M, always with the same weights."""
    torch.manual_seed(0)
    return ChemGPT("chemgpt-4.7m", vocab_size, 512)


def hugging_face(vocab_size: int) -> Any:
    """Hugging Face's model with the weights of `new_model`."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config, state = to_gpt_neo(new_model(vocab_size))
    config.update(bos_token_id=None, eos_token_id=None)
    model = GPTNeoForCausalLM(GPTNeoConfig(**config))
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(
        name.endswith((".attn.attention.bias", ".attn.attention.masked_bias", "lm_head.weight")) for name in missing
    )
    return model.train()


def pad(ids: Ragged, items: np.ndarray, length: int) -> Dict[str, torch.Tensor]:
    """Molecules in rows of their own; 0 takes the length of the longest."""
    lengths = ids.lengths[items]
    length = length or int(lengths.max())
    mask = np.arange(length) < lengths[:, None]
    rows = np.zeros(mask.shape, np.int64)
    rows[mask] = ids.take(items).values
    labels = np.where(mask, rows, -100)
    named = {"input_ids": rows, "attention_mask": mask.astype(np.int64), "labels": labels}
    return {name: torch.from_numpy(array) for name, array in named.items()}


def padded(ids: Ragged, vocab_size: int, length: int, batch: int) -> Step:
    """Steps of Hugging Face's model."""
    model = hugging_face(vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), OPTIMIZER.learning_rate, weight_decay=0.0)
    order = itertools.cycle(np.arange(len(ids) // batch * batch).reshape(-1, batch))

    def step() -> Tuple[int, float]:
        items = next(order)
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        model(**pad(ids, items, length)).loss.backward()
        optimizer.step()
        return int((ids.lengths[items] - 1).sum()), time.process_time() - started

    return step


def packed(ids: Ragged, vocab_size: int, row: int, options: TorchOptions) -> Step:
    """Steps of ours."""
    batching = Batching(micro_batch_size=SYMBOLS // row)
    plan = make_plan(ids.lengths, Budget(tokens=row))
    loader = TokenLoader(ids, plan, Budget(tokens=row), batching, vocab_size)
    backend = TorchBackend("cpu", options)
    example = loader.example(training=True)
    backend.compile(new_model(vocab_size), token_cross_entropy, OPTIMIZER, batching, example)
    batches = (batch for epoch in itertools.count() for batch, _ in loader.epoch(0, epoch))

    def step() -> Tuple[int, float]:
        started = time.process_time()
        batch = next(batches)
        backend.train_step(batch, OPTIMIZER.learning_rate)
        seconds = time.process_time() - started
        return int((batch.weight > 0).sum()), seconds

    return step


def check(ids: Ragged, vocab_size: int) -> None:
    """Both sides give the same loss of the same molecules."""
    some = ids.take(np.arange(48))
    with torch.no_grad():
        theirs = float(hugging_face(vocab_size)(**pad(some, np.arange(48), 0)).loss)
    budget = Budget(tokens=ROWS[0])
    plan = make_plan(some.lengths, budget)
    loader = TokenLoader(some, plan, budget, Batching(plan.num_packs), vocab_size)
    batch, _ = next(loader.epoch(0, 0))
    with torch.no_grad():
        ours = float(token_cross_entropy(new_model(vocab_size)(*batch.inputs), *batch.targets))
    print(f"loss of 48 molecules: ours {ours:.6f}, Hugging Face {theirs:.6f}")
    assert abs(ours - theirs) < 1e-5 * theirs, "the two sides do not compute the same"


if __name__ == "__main__":
    sys.exit(main())
