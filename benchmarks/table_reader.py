"""Rows per second of the reader of tables, against another checkout of this repository.

    python benchmarks/table_reader.py --before ../before

A table of molecules that ship with RDKit is written as .csv, as .csv with quotes, as .csv.gz and as .smi. Processes of
either checkout take turns; what counts is the ratio of the medians of their CPU seconds.
"""

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, machine_line

# Run by every contestant, in its own checkout; the readers of before have their functions in one module.
READ = """
import json, sys, time
from pathlib import Path
from ipu_chem.data.files import table
try:
    from ipu_chem.data.files.layout import read_layout
    from ipu_chem.data.files.numbers import read_labels
except ImportError:
    from ipu_chem.data.files.table import read_labels, read_layout
seconds = {}
def timed(name, call):
    start = time.process_time()
    call()
    seconds[name] = time.process_time() - start
for path in map(Path, sys.argv[1:]):
    layout = read_layout(path)
    def rows():
        for chunk in table.read_chunks(path, layout):
            [found for record in chunk for found in table.parse(record, layout)]
    timed(f"{path.name}, molecules for graphs", lambda: table.read_smiles_file(path))
    timed(f"{path.name}, molecules for text", rows)
    if layout.delimiter:
        timed(f"{path.name}, labels", lambda: read_labels(path, layout, ["logS"]))
print(json.dumps(seconds))
"""


def write_tables(folder: Path, rows: int) -> List[Path]:
    """The same molecules as files of every kind."""
    from rdkit import RDConfig

    source = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    smiles = [line.split()[0] for line in source.read_text().splitlines() if line.strip()]
    draw = random.Random(0)
    table = [(smiles[row % len(smiles)], f"molecule {row}", f"{draw.gauss(0, 3):.6f}") for row in range(rows)]
    header = "smiles,name,logS\n"
    plain = header + "".join(f"{one},{name},{value}\n" for one, name, value in table)
    quoted = header + "".join(f'"{one}","{name}",{value}\n' for one, name, value in table)
    smi = "".join(f"{one} {name}\n" for one, name, _ in table)
    contents = {"plain.csv": plain, "quoted.csv": quoted, "plain.csv.gz": plain, "plain.smi": smi}
    for name, text in contents.items():
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return [folder / name for name in contents]


def seconds_of(checkout: Path, files: List[Path]) -> Dict[str, float]:
    """CPU seconds of one process."""
    words = [sys.executable, "-c", READ, *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}  # python -c looks in its own folder first
    done = subprocess.run(words, cwd=checkout, env=environment, check=True, capture_output=True)
    return json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "now": ROOT}
    found: Dict[str, Dict[str, List[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_tables(Path(folder), options.rows)
        for _ in range(options.repeats):
            for name, checkout in checkouts.items():
                for what, seconds in seconds_of(checkout, files).items():
                    found.setdefault(what, {}).setdefault(name, []).append(seconds)
    print(machine_line("text", "numpy"), f"| {options.rows:,} rows, medians of {options.repeats}\n")
    print("| read | rows/s before | rows/s now | ratio |\n|---|---|---|---|")
    for what, seconds in found.items():
        before, now = (statistics.median(seconds[name]) for name in checkouts)
        print(f"| {what} | {options.rows / before:,.0f} | {options.rows / now:,.0f} | {before / now:.2f} |")


if __name__ == "__main__":
    main()
