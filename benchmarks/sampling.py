"""Tokens that ChemGPT-4.7M writes per CPU second: ours against Hugging Face's `generate` with its cache.

    python benchmarks/sampling.py [--run FOLDER] [--quick] [--shared PATH] [--no-goals]

The same sizes (24 layers, 128 features, 16 heads, 684 tokens) and the same weights, float32, one thread each,
sampling at temperature 1. Weights are fresh but for the end, whose logit is set by position so that molecules are as
long as those of MOSES: the other tokens are about equally likely, so that beginnings which molecules share save
nothing here. Tokens are those of molecules, the end included; what Hugging Face computes behind an end is not counted.
With --run, a run of the recipe `chemgpt_moses` writes 10,000 molecules on all cores besides, in seconds of the clock.
Exits with 1 when a goal is missed.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.common import Goals, arguments, machine_line, print_table, throughput_line
from benchmarks.selfies_tokens import read_smiles
from ipu_chem.data.corpora import corpus_in_memory
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.generation.sampling import generate
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.decoder_layers import through_layers
from ipu_chem.models.gpt_neo import to_gpt_neo
from ipu_chem.parallel import core_count

VOCABULARY = 684
LONGEST = 80  # tokens
FEATURE = 0  # of the embedding, by which the end learns the position
BATCHES = (64, 256)  # of Hugging Face
COUNT = 512  # molecules of a turn of ours; also four times as many, of which more begin alike
RECIPE = 10_000
OURS = "ours, native kernels"


def main() -> int:
    """Calibrate, time, judge."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--run", default="", help="folder of a run of the recipe chemgpt_moses")
    own, rest = parser.parse_known_args()
    options = arguments(__doc__, rest)
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "transformers", "numpy"))
    lengths = lengths_of_moses(options.shared, 500 if options.quick else 2000)
    tokenizer = Tokenizer.build([f"[{number}C]" for number in range(VOCABULARY - 4)], robust_alphabet=False)
    goals = Goals()
    title = f"ChemGPT-4.7M, fresh, lengths as of MOSES ({lengths.mean():.1f} tokens)"
    ratio, rate = race(title, model_of_lengths(lengths, tokenizer), tokenizer, options.quick)
    goals.at_least(f"{OURS}, times Hugging Face", ratio, 4.0)
    if own.run:
        from ipu_chem.tasks.language_model import load_language_model

        language = load_language_model(own.run)
        race(f"The model of {Path(own.run).name}", language.model, language.tokenizer, options.quick)
        count = RECIPE // 20 if options.quick else RECIPE
        seconds = recipe(language.model, language.tokenizer, count)
        goals.at_most(f"seconds of {count:,} molecules", seconds, 60.0 * count / RECIPE)
    status = goals.finish(not options.no_goals and not options.quick)
    print(throughput_line(rate / float(lengths.mean()), 1.0))
    return status


def race(title: str, model: ChemGPT, tokenizer: Tokenizer, quick: bool) -> Tuple[float, float]:
    """Let all sides write in turns; returns our speed, in units of theirs at its best and in tokens per CPU second."""
    seeds = itertools.count()

    def ours(native: bool, count: int) -> Callable[[], List[int]]:
        def write() -> List[int]:
            options = dict(seed=next(seeds), progress=False, native=native, max_length=LONGEST)
            return tokens_of(generate(model, tokenizer, count, **options).texts)

        return write

    contestants = {f"Hugging Face, {batch} at once": theirs(model, tokenizer, batch) for batch in BATCHES}
    count = COUNT // 2 if quick else COUNT
    contestants[f"ours in torch, {count // 2} molecules"] = ours(False, count // 2)
    contestants.update({f"{OURS}, {many:,} molecules": ours(True, many) for many in (count, 4 * count)})
    rates: Dict[str, List[float]] = {name: [] for name in contestants}
    sizes: Dict[str, List[int]] = {name: [] for name in contestants}
    for turn in range(-1, 1 if quick else 3):
        for name, write in contestants.items():
            started = time.process_time()
            tokens = write()
            if turn >= 0:
                rates[name].append(sum(tokens) / (time.process_time() - started))
                sizes[name] += tokens
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    best = max(list(contestants)[: len(BATCHES)], key=lambda name: medians[name])
    ratios = {name: statistics.median(a / b for a, b in zip(rate, rates[best])) for name, rate in rates.items()}
    header = ["sampling", "tokens/CPU s", f"x {best}", "tokens a molecule"]
    rows = [[name, f"{medians[name]:,.0f}", f"{ratios[name]:.2f}", f"{np.mean(sizes[name]):.1f}"] for name in rates]
    print_table(title, header, rows)
    name = f"{OURS}, {count:,} molecules"
    return ratios[name], medians[name]


def lengths_of_moses(shared: Path, count: int) -> np.ndarray:
    """Tokens of molecules of MOSES after the first, the end included."""
    store, _ = corpus_in_memory(read_smiles(shared, "moses_test.csv.gz", count), workers=1)
    return store.ragged("symbols").lengths + 1


def model_of_lengths(lengths: np.ndarray, tokenizer: Tokenizer) -> ChemGPT:
    """A fresh model, whose molecules have such lengths.

    One feature of every token tells the position alone, and the end alone reads it: what it is at a position is found
    from the logits of random molecules, which it changes a little itself, hence in turns.
    """
    torch.manual_seed(0)
    model = ChemGPT("chemgpt-4.7m", VOCABULARY, 512).eval()
    end, others = tokenizer.eos_id, torch.arange(VOCABULARY) >= 4
    ids = torch.randint(4, VOCABULARY, (32, LONGEST))
    positions = torch.arange(LONGEST).expand(32, -1)
    at_risk = np.array([(lengths > place).sum() for place in range(LONGEST)])
    ending = np.array([(lengths == place + 1).sum() for place in range(LONGEST)])
    hazard = torch.from_numpy(np.clip(np.where(at_risk > 0, ending / np.maximum(at_risk, 1), 1.0), 1e-6, 1 - 1e-3))
    with torch.no_grad():
        tokens, places = model.embedding.wte.weight, model.embedding.wpe.weight  # type: ignore[union-attr]
        tokens[:, FEATURE] = 0.0
        tokens[end], tokens[end, FEATURE] = 0.0, 8.0
        places[:, FEATURE] = 0.0
        for layer in model.layers:
            for linear in (layer.attention.out_proj, layer.mlp.c_proj):  # type: ignore[union-attr]
                linear.weight[FEATURE] = 0.0
        for _ in range(8):
            logits = model(ids, positions)
            rest = torch.logsumexp(logits[..., others].double(), -1).mean(0)
            wanted = torch.log(hazard / (1 - hazard)) + rest
            features = through_layers(model.embedding, model.layers, ids, positions)
            spread = features.std(-1, unbiased=False).mean(0).double()
            places[:LONGEST, FEATURE] += ((wanted - logits[..., end].mean(0)) / 8.0 * spread).float()
    return model


def theirs(model: ChemGPT, tokenizer: Tokenizer, batch: int) -> Callable[[], List[int]]:
    """Hugging Face's `generate` of one batch."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config, state = to_gpt_neo(model)
    config.update(bos_token_id=None, eos_token_id=None, use_cache=True)
    peer = GPTNeoForCausalLM(GPTNeoConfig(**config)).eval()
    peer.load_state_dict(state, strict=False)
    check(model, peer)
    first = torch.full((batch, 1), tokenizer.bos_id)
    options = dict(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=LONGEST - 1)
    special = dict(pad_token_id=tokenizer.pad_id, eos_token_id=tokenizer.eos_id)
    never = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id]

    def write() -> List[int]:
        mask = torch.ones_like(first)
        with torch.no_grad():
            found = peer.generate(first, attention_mask=mask, suppress_tokens=never, **options, **special)
        return (found[:, 1:] != tokenizer.pad_id).sum(1).tolist()

    return write


def check(model: ChemGPT, peer: torch.nn.Module) -> None:
    """Both sides have the same logits."""
    ids = torch.randint(4, len(model.head.weight), (2, 20))
    with torch.no_grad():
        difference = (peer(ids).logits - model(ids, torch.arange(20).expand(2, -1))).abs().max()
    assert float(difference) < 1e-4, "the two sides do not compute the same"


def tokens_of(selfies: List[str]) -> List[int]:
    """Tokens of each molecule after the first, the end included."""
    return [text.count("[") + 1 for text in selfies]


def recipe(model: ChemGPT, tokenizer: Tokenizer, count: int) -> float:
    """Seconds of the clock in which a model writes molecules on all cores; prints what came of it."""
    started, cpu = time.perf_counter(), time.process_time()
    samples = generate(model, tokenizer, count, jobs=core_count(), progress=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    tokens = sum(tokens_of(samples.texts))
    print(
        f"\n{count:,} molecules, {tokens / count:.1f} tokens each, {int(samples.finished.sum()):,} finished, in "
        f"{seconds:.1f} s on {core_count()} cores, {cpu:.1f} CPU s: {tokens / cpu:,.0f} tokens/CPU s"
    )
    return seconds


if __name__ == "__main__":
    sys.exit(main())
