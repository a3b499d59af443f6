"""Embedding molecules with ChemGPT-4.7M: packed sequences against Hugging Face's GPT-Neo with padding.

    python benchmarks/embedding.py [--quick] [--shared PATH] [--no-goals] [--molecules N] [--stream N]

The same molecules (NCI, MOSES, ZINC250k, ChEMBL 30, a quarter each), the same weights, means over the tokens of each
molecule, one thread. Hugging Face's model takes ids that are ready, 32 molecules at a time: as they come, or sorted by
length. Ours takes SELFIES; translating SMILES, which both need, is timed apart and added to both for the last columns.
The vectors must agree. ``--stream`` embeds so many molecules from file to file in a fresh process with a tiny model,
and a tenth of them in another, and compares peaks of memory; they are SELFIES of 2,000 molecules of ZINC250k, again and
again, because translating takes its memory chunk by chunk, too, and takes long. Exits with 1 when a goal is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.chemgpt_tokens import hugging_face, new_model, pad, real_smiles
from benchmarks.common import (
    ROOT,
    Goals,
    in_child,
    interleaved,
    machine_line,
    median_ratio,
    print_table,
    throughput_line,
)
from ipu_chem.data.corpora.encode import Manner, encode_lines
from ipu_chem.data.files.table import Line
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.embedding import Embedder, EmbeddingOptions
from ipu_chem.embedding.embed import embed_entries, entries_of
from ipu_chem.embedding.files import embed_file
from ipu_chem.models.chemgpt import ChemGPT
from packing import Ragged

BATCH = 32  # molecules of a padded batch
GOAL = 5.0
DIFFERENT = 2000  # molecules of the comparison of memory
MEMORY = 1.15  # of the peak of a tenth of the molecules


def main() -> int:
    """Check, time, judge."""
    options = _options()
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "transformers", "selfies", "numpy"))
    smiles = real_smiles(options.shared, options.molecules)
    started = time.process_time()
    selfies = _translated(smiles)
    translating = time.process_time() - started
    tokenizer = Tokenizer.build(dict.fromkeys(symbol for text in selfies for symbol in _symbols(text)))
    ids = tokenizer.encode_many(selfies)
    print(f"{len(ids):,} molecules, {ids.lengths.mean():.1f} tokens each with begin and end")
    order = np.argsort(ids.lengths, kind="stable")
    embedder = Embedder(new_model(tokenizer.vocab_size), tokenizer, EmbeddingOptions(notation="selfies"))
    contestants: Dict[str, Callable[[], np.ndarray]] = {
        "packed": lambda: embed_entries(embedder, entries_of(selfies, 1)).values,
        "Hugging Face, as they come": padded(ids, tokenizer.vocab_size, np.arange(len(ids))),
        "Hugging Face, sorted by length": padded(ids, tokenizer.vocab_size, order),
    }
    timings = interleaved(contestants, 1 if options.quick else 5)
    ours = timings["packed"]
    for name, timing in timings.items():
        worst = float(np.abs(timing.result - ours.result).max())
        print(f"{name}: largest difference to packed {worst:.1e}")
        assert worst < 1e-4, "the two sides do not compute the same"
    rows = [
        [
            name,
            f"{len(ids) / timing.median:,.0f}",
            f"{median_ratio(timing, ours):.2f}",
            f"{len(ids) / (timing.median + translating):,.0f}",
            f"{(timing.median + translating) / (ours.median + translating):.2f}",
        ]
        for name, timing in timings.items()
    ]
    header = ["ChemGPT-4.7M", "molecules/CPU s", "packed is faster by", "from SMILES", "packed is faster by"]
    print_table("Vectors of molecules, median of the turns", header, rows)
    print(f"SMILES to SELFIES: {len(ids) / translating:,.0f} molecules/CPU s")
    goals = Goals()
    goals.at_least(
        "packed, times Hugging Face as molecules come", median_ratio(timings["Hugging Face, as they come"], ours), GOAL
    )
    if options.stream:
        _stream(options, goals)
    status = goals.finish(not options.no_goals and not options.quick)
    print(throughput_line(len(ids), ours.median))
    return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn, no goals")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    parser.add_argument("--molecules", type=int, default=1024, help="that are timed (default: %(default)s)")
    parser.add_argument("--stream", type=int, default=0, help="molecules of the comparison of memory; 0 leaves it out")
    return parser.parse_args()


def _translated(smiles: Sequence[str]) -> List[str]:
    encoded = encode_lines([Line(row, text) for row, text in enumerate(smiles)], Manner())
    return ["".join(map(encoded.table.__getitem__, symbols.tolist())) for symbols in encoded.symbols]


def _symbols(selfies: str) -> List[str]:
    from ipu_chem.data.selfies.symbols import split_symbols

    return split_symbols(selfies)


def padded(ids: Ragged, vocab_size: int, order: np.ndarray) -> Callable[[], np.ndarray]:
    """Vectors by Hugging Face's model, in batches of this order; padding is masked."""
    model = hugging_face(vocab_size).transformer.eval()

    def run() -> np.ndarray:
        result = np.empty((len(ids), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(ids), BATCH):
                items = order[start : start + BATCH]
                batch = pad(ids, items, 0)
                mask = batch["attention_mask"]
                hidden = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).last_hidden_state
                inside = mask.clone()
                inside[:, 0] = 0  # the marks of begin and end
                inside[torch.arange(len(items)), mask.sum(1) - 1] = 0
                total = torch.bmm(inside.unsqueeze(1).float(), hidden).squeeze(1)
                result[items] = (total / inside.sum(1, keepdim=True)).numpy()
        return result

    return run


def _stream(options: argparse.Namespace, goals: Goals) -> None:
    """Peaks of memory of a tenth of the molecules and of all of them."""
    zinc, rows, peaks = options.shared / "data" / "smiles" / "zinc250k.smi.gz", [], []
    for count in (options.stream // 10, options.stream):
        found = in_child("benchmarks.embedding:streamed", path=str(zinc), count=count)
        peaks.append(found["peak_mb"])
        rows.append(
            [f"{count:,}", f"{found['loaded_mb']:.0f}", f"{found['peak_mb']:.0f}", f"{count / found['wall']:,.0f}"]
        )
    header = ["molecules", "MB before", "MB at most", "molecules/s"]
    print_table("SELFIES of ZINC250k from file to .npy, a ChemGPT of 1 layer and 32 features", header, rows)
    goals.at_most("peak of memory, all molecules over a tenth of them", peaks[1] / peaks[0], MEMORY)


def streamed(path: str, count: int) -> Callable[[], Any]:
    """For `in_child`: embeds so many molecules from file to file."""
    import gzip
    import itertools

    folder = Path(tempfile.mkdtemp(prefix="embedding-"))
    with gzip.open(path, "rt", encoding="utf-8") as file:
        selfies = _translated([line.split(",")[0].split()[0] for line in itertools.islice(file, 1, DIFFERENT + 1)])
    with open(folder / "in.smi", "w", encoding="utf-8") as source:
        source.writelines(f"{text}\n" for text in itertools.islice(itertools.cycle(selfies), count))
    tokenizer = Tokenizer.build(dict.fromkeys(symbol for text in selfies for symbol in _symbols(text)))
    torch.manual_seed(0)
    model = ChemGPT(vocab_size=tokenizer.vocab_size, max_positions=128, hidden_features=32, num_layers=1)

    def run() -> int:
        with Embedder(model, tokenizer, EmbeddingOptions(notation="selfies")) as embedder:
            return embed_file(embedder, folder / "in.smi", folder / "out.npy", progress=False).embedded

    return run


if __name__ == "__main__":
    sys.exit(main())
