"""Molecules to ids: our tokenizers against the published fast tokenizer of ChemGPT, on one core.

    python benchmarks/selfies_tokens.py [--quick]

Everyone gets the same real molecules (MOSES, ZINC250k, ChEMBL 30) as the strings it is made for, written beforehand.
Hugging Face's tokenizer, a WordPiece model in Rust, gets SELFIES 1.0.4 without stereochemistry, the language of its
vocabulary, so that it breaks no symbol; once it also gets SELFIES 2.x, which most people feed it, and breaks them. Ours
get SELFIES 2.x with stereochemistry; `ChemGPTTokenizer` drops that and translates on the way, and its ids must be those
of the published file for every molecule whose symbols that has. What counts is the fastest of Hugging Face's ways; ids
are lists there and arrays here. CPU seconds of the process, so threads would not help either side; contestants take
turns.
"""

import gzip
import itertools
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    Goals,
    arguments,
    interleaved,
    machine_line,
    median_ratio,
    print_table,
    throughput_line,
)
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from ipu_chem.data.selfies.dialect import to_version_1, without_stereo
from ipu_chem.data.selfies.symbols import split_symbols
from packing.types import Ragged

FILES = ("moses_test.csv.gz", "zinc250k.smi.gz", "chembl30_valid.csv.gz")
GOAL = 8.0  # times as fast as the fastest of Hugging Face's ways


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run everything; the exit status is 1 when a goal is missed."""
    options = arguments(__doc__, argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    print(machine_line("ids of 8 and 16 bits", "numpy", "tokenizers"))
    new = read_selfies(options.shared, 700 if options.quick else 2000)
    old = [published_spelling(text) for text in new]
    folder = options.shared / "data" / "chemgpt_tokenizer" / "ChemGPT-4.7M"
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    chemgpt = ChemGPTTokenizer.from_published(folder, unknown="map", fragments="map")
    own = Tokenizer.build(dict.fromkeys(symbol for text in new for symbol in split_symbols(text)))

    peers: Dict[str, Callable[[], List[List[int]]]] = {
        "Hugging Face, one by one": lambda: [theirs.encode(text).ids for text in old],
        "Hugging Face, batch": lambda: _ids(theirs.encode_batch(old)),
    }
    if hasattr(theirs, "encode_batch_fast"):
        peers["Hugging Face, batch without offsets"] = lambda: _ids(theirs.encode_batch_fast(old))
    ours: Dict[str, Callable[[], Ragged]] = {
        "ours, published vocabulary": lambda: chemgpt.encode_many(new),
        "ours, own vocabulary": lambda: own.encode_many(new),
    }
    broken = {"Hugging Face, batch, 2.x (broken symbols)": lambda: _ids(theirs.encode_batch(new))}
    timings = interleaved({**peers, **broken, **ours}, 3 if options.quick else 9, least_seconds=0.2)

    found = timings["ours, published vocabulary"].result
    expected = timings["Hugging Face, batch"].result
    known = [item for item in range(len(new)) if chemgpt.unk_id not in found[item]]  # [H] of a few has no id
    same = sum(found[item].tolist() == expected[item] for item in known)
    best = min(peers, key=lambda name: timings[name].median)
    rows = []
    for name, timing in timings.items():
        tokens = len(timing.result.values) if name in ours else sum(map(len, timing.result))
        dialect = "2.x" if name in ours or name in broken else "1.0.4"
        rate, ratio = len(new) / timing.median, median_ratio(timings[best], timing)
        rows.append([name, dialect, f"{tokens / len(new):.1f}", f"{rate:,.0f}", f"{ratio:.1f}"])
    print_table(
        f"{len(new):,} molecules", ["tokenizer", "SELFIES", "ids a molecule", "molecules/s", "times as fast"], rows
    )
    goals = Goals()
    goals.at_least(f"molecules with the published ids, of {len(known):,} that it has all symbols of", same, len(known))
    goals.at_least(
        f"published vocabulary, times as fast as '{best}'",
        median_ratio(timings[best], timings["ours, published vocabulary"]),
        GOAL,
    )
    goals.at_least(
        f"own vocabulary, times as fast as '{best}'", median_ratio(timings[best], timings["ours, own vocabulary"]), GOAL
    )
    status = goals.finish(not options.no_goals)
    print(throughput_line(len(new), timings["ours, published vocabulary"].median))
    return status


def read_smiles(shared: Path, file: str, count: Optional[int] = None) -> List[str]:
    """The first SMILES of one of the shared files."""
    with gzip.open(shared / "data" / "smiles" / file, "rt") as lines:
        return [line.split(",")[0].strip() for line in itertools.islice(lines, 1, count and count + 1)]


def read_selfies(shared: Path, count: int) -> List[str]:
    """SELFIES 2.x of ``count`` molecules of every file."""
    import selfies

    return [selfies.encoder(one, strict=False) for file in FILES for one in read_smiles(shared, file, count)]


def published_spelling(selfies: str) -> str:
    """A molecule's SELFIES as ChemGPT has seen them: 1.0.4, without stereochemistry."""
    return "".join(map(to_version_1, map(without_stereo, split_symbols(selfies))))


def _ids(encodings: Sequence[Any]) -> List[List[int]]:
    return [encoding.ids for encoding in encodings]


if __name__ == "__main__":
    sys.exit(main())
