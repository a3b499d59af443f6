"""Kill what writes, flip bytes of what is read and fill the disk, and count what is lost.

    python tests/kill_campaign.py               # 100 kills, 40 flipped bytes, 10 full disks: a quarter of an hour
    python tests/kill_campaign.py --scale 0.1   # a tenth of each
    python tests/kill_campaign.py --seed 3      # other moments

Every trial is a process of its own that is ended by SIGKILL at a random moment, with all that it has started left
alone; the same command then goes on, and its result is compared with that of a process that nobody has killed. The
table has what was lost, what was damaged without a word, and which processes lived on 3 s later: all of it is to be 0.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
import yaml
from support import CHAINS

from ipu_chem.checkpoint import BEST, LAST, load_checkpoint
from ipu_chem.cli import main as command_line
from ipu_chem.data.corpora import load_corpus
from ipu_chem.data.datasets import load_dataset
from ipu_chem.train import train  # noqa: F401 (once for all that are forked)
from packing import files
from packing.store import Store

ORPHANS_AFTER = 3.0  # seconds
FREE_OF_A_FULL_DISK = (0, 4, 8, 16, 24, 32, 48, 64, 96, 160)  # kB
Job = Callable[[], Any]
Argument = List[str]


class Row(NamedTuple):
    """Figures of a kind of trial."""

    what: str
    trials: int
    lost: List[str]
    unnoticed: List[str]
    orphans: List[str]
    seconds: float


class Campaign:
    """A folder, a source of random moments and the figures so far."""

    def __init__(self, folder: Path, seed: int, scale: float) -> None:
        self.folder, self.random, self.scale = folder, random.Random(seed), scale
        self.rows: List[Row] = []
        self.cache = folder / "cache"
        os.environ["IPU_CHEM_CACHE"] = str(self.cache)
        small = {"name": "schnet", "hidden_features": 8, "num_filters": 8, "num_interactions": 1, "num_gaussians": 8}
        training = {"progress": False, "report": False, "checkpoint_every": 1}
        rest = {"accelerator": "cpu", "torch": {"threads": 1}}
        graph = {
            "data": {"name": "nci3d", "limit": 60, "validation": 0.2, "test": 0.1},
            "model": {**small, "cutoff": 4.0},
            "pack": {"nodes": 80},
            "batching": {"micro_batch_size": 2},
            "training": {**training, "epochs": 15},
        }
        self.smiles = folder / "chains.smi"
        self.smiles.write_text("\n".join(CHAINS) + "\n")
        text = {
            "data": {"name": "file", "path": str(self.smiles), "validation": 8, "test": 8, "workers": 1},
            "model": {"name": "chemgpt", "hidden_features": 16, "num_layers": 1},
            "training": {**training, "epochs": 1, "samples": 0},
        }
        self.graph, self.text, self.grid = folder / "graph.yaml", folder / "text.yaml", folder / "grid.yaml"
        self.graph.write_text(yaml.safe_dump({**graph, **rest}))
        self.text.write_text(yaml.safe_dump({**text, **rest}))
        self.grid.write_text(yaml.safe_dump({"optimizer.learning_rate": [0.001, 0.01]}))

    def many(self, count: int) -> int:
        return max(1, round(count * self.scale))

    def note(self, row: Row) -> None:
        self.rows.append(row)
        lines = [f"    {text}" for text in (*row.lost, *row.unnoticed, *row.orphans)]
        print("\n".join([line_of(row), *lines]), flush=True)

    def kill(self, kind: str, count: int, job: Callable[[], Job], seconds: float, check: Callable[[bool], str]) -> None:
        """Kill ``job()`` at random moments of the seconds that it takes, until that has happened ``count`` times.

        Args:
            kind: of the row.
            count: of kills.
            job: gives what is to be run next.
            seconds: that it takes when nobody kills it.
            check: says what is lost; its argument is true where a job has come to its end, which follows every few
                kills.
        """
        began, kills = time.monotonic(), 0
        lost: List[str] = []
        orphans: List[str] = []
        while kills < count:
            process = start(job(), self.folder / "log.txt")
            code = wait(process, self.random.uniform(0, seconds))
            if code is None:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                kills, killed = kills + 1, time.monotonic()
                said = check(False)
                if kills % 4 == 0 or kills == count:
                    said = said or self.finish(job, check)
                time.sleep(max(0.0, ORPHANS_AFTER - (time.monotonic() - killed)))
                orphans += [f"kill {kills}: {one}" for one in session_of(process)]
            else:
                said = f"ended with {code}: {tail(self.folder / 'log.txt')}" if code else check(True)
            lost += [f"kill {kills}: {said}"] if said else []
        self.note(Row(kind, count, lost, [], orphans, time.monotonic() - began))

    def finish(self, job: Callable[[], Job], check: Callable[[bool], str]) -> str:
        code = wait(start(job(), self.folder / "log.txt"), 600)
        return f"goes on with {code}: {tail(self.folder / 'log.txt')}" if code else check(True)

    def measured(self, job: Job) -> float:
        """Seconds of a job that nobody kills."""
        began = time.monotonic()
        code = wait(start(job, self.folder / "log.txt"), 600)
        assert code == 0, f"{code}: {(self.folder / 'log.txt').read_text()}"
        return time.monotonic() - began

    # The kinds of trial.

    def training(self) -> None:
        out = self.folder / "run"
        seconds = self.measured(cli("train", "--config", self.graph, "--out", self.folder / "whole"))
        whole = load_checkpoint(self.folder / "whole" / LAST)

        def job() -> Job:
            if (out / LAST).is_file():
                return cli("train", "--resume", out)
            return cli("train", "--config", self.graph, "--out", out)

        def check(ended: bool) -> str:
            with suppress(FileNotFoundError):
                load_checkpoint(out / BEST)
            found = load_checkpoint(out / LAST) if (out / LAST).is_file() else None
            if not ended:
                return ""
            same = found is not None and same_state(found, whole)
            left = [path.name for path in out.rglob(".*")]
            shutil.rmtree(out)
            return "" if same and not left else f"other weights than those of a run not killed, or leftovers {left}"

        self.kill("training", self.many(40), job, seconds, guarded(check))

    def searching(self) -> None:
        out = self.folder / "search"
        words = ("--config", self.graph, "--training.epochs", "4", "--grid", self.grid, "--keep", "2", "--jobs", "2")
        seconds = self.measured(cli("search", *words, "--budget", "0.5", "--out", self.folder / "searched"))
        whole = metrics_of(self.folder / "searched")

        def check(ended: bool) -> str:
            for path in out.rglob("*.json"):
                json.loads(path.read_text())
            if not ended:
                return ""
            found = metrics_of(out)
            shutil.rmtree(out)
            return "" if found == whole else f"{found} instead of {whole}"

        job = lambda: cli("search", *words, "--budget", "0.5", "--out", out)  # noqa: E731
        self.kill("search", self.many(10), job, seconds, guarded(check))

    def corpora(self) -> None:
        path, cache = self.folder / "many.smi", self.folder / "corpora"
        path.write_text("".join(f"{'C' * (1 + i % 40)}N{'C' * (1 + i // 40)}O\n" for i in range(3000)))

        def encode(folder: Path) -> Job:
            return lambda: load_corpus("file", path, folder, workers=2, progress=False)

        seconds = self.measured(encode(self.folder / "encoded"))
        whole = store_in(self.folder / "encoded").fingerprint()

        def check(ended: bool) -> str:
            if not ended:
                return ""
            found, left = store_in(cache).fingerprint(), len(list(cache.iterdir()))
            shutil.rmtree(cache)
            return "" if (found, left) == (whole, 1) else f"another corpus, or leftovers: {left} entries"

        self.kill("corpora", self.many(20), lambda: encode(cache), seconds, guarded(check))

    def embedding(self) -> None:
        run, output = self.folder / "chemgpt", self.folder / "vectors.npy"
        self.measured(cli("train", "--config", self.text, "--out", run))
        job = cli("embed", run, self.smiles, "--output", output, "--workers", "1")
        seconds = self.measured(job)
        whole = output.read_bytes()

        def check(ended: bool) -> str:
            return "" if output.read_bytes() == whole else "the file of before is not whole"

        self.kill("embeddings", self.many(10), lambda: job, seconds, guarded(check))

    def replacing(self) -> None:
        """A writer that is killed and a reader that goes on, by both ways to replace a folder."""
        count, began = self.many(20), time.monotonic()
        lost: List[str] = []
        path, stop, report = self.folder / "swap" / "store", self.folder / "stop", self.folder / "reader.txt"
        save_numbered(path, 0)
        reader = start(lambda: read_until(path, stop, report), self.folder / "reader.log")
        for trial in range(count):
            process = start(partial(replace_forever, path, trial % 2 == 0), self.folder / "log.txt")
            code = wait(process, self.random.uniform(0.05, 3.0))
            if code is None:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            else:
                lost.append(f"the writer ended with {code}: {tail(self.folder / 'log.txt')}")
        time.sleep(0.5)
        stop.touch()
        code = wait(reader, 60)
        said = report.read_text() if report.is_file() else ""
        lost += said.splitlines()[1:] + ([f"the reader ended with {code}"] if code else [])
        wait(start(lambda: save_numbered(path, 0), self.folder / "log.txt"), 60)
        lost += [f"left over: {one.name}" for one in path.parent.iterdir() if one != path]
        reads = said.splitlines()[0] if said else "no reads"
        self.note(Row(f"folders replaced ({reads})", count, lost, [], [], time.monotonic() - began))

    def flipped(self) -> None:
        count, began = self.many(20), time.monotonic()
        unnoticed: List[str] = []
        lost: List[str] = []
        stores = [folder for folder in self.cache.iterdir() if (folder / "meta.json").is_file()]
        for _ in range(count):
            folder = self.random.choice(stores)
            file = self.random.choice(sorted(folder.iterdir()))
            before = file.read_bytes()
            place = flip(file, before, self.random)
            if not refused(partial(Store.open, folder)):
                unnoticed.append(f"byte {place} of {file}")
            file.write_bytes(before)
        data = next(folder for folder in stores if folder.name.startswith("nci3d"))
        whole = Store.open(data).fingerprint()
        flip(data / "pos.npy", (data / "pos.npy").read_bytes(), self.random)
        if load_dataset("nci3d", cache=self.cache, limit=60, progress=False, workers=1).fingerprint() != whole:
            lost.append("a damaged data set was not prepared again")
        self.note(Row("bytes of stores flipped", count, lost, unnoticed, [], time.monotonic() - began))
        began, unnoticed = time.monotonic(), []
        for _ in range(count):
            file = self.folder / "whole" / self.random.choice([BEST, LAST])
            before = file.read_bytes()
            place = flip(file, before, self.random)
            if not refused(partial(load_checkpoint, file)):
                unnoticed.append(f"byte {place} of {file}")
            file.write_bytes(before)
        self.note(Row("bytes of checkpoints flipped", count, [], unnoticed, [], time.monotonic() - began))

    def full(self) -> None:
        """A disk with little room left: a file system of its own where this may be mounted, else a limit."""
        count, began = self.many(10), time.monotonic()
        lost: List[str] = []
        whole = load_checkpoint(self.folder / "whole" / LAST)
        disk = self.folder / "disk"
        disk.mkdir()
        options = ("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk))
        mounted = subprocess.run(["mount", *options], stderr=subprocess.DEVNULL).returncode == 0
        try:
            for trial in range(count):
                said = self.fill(disk, FREE_OF_A_FULL_DISK[trial % 10] << 10, mounted, whole)
                lost += [f"{FREE_OF_A_FULL_DISK[trial % 10]} kB: {said}"] if said else []
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(disk)], check=False)
        how = "disks full" if mounted else "limits of a file's size"
        self.note(Row(how, count, lost, [], [], time.monotonic() - began))

    def fill(self, disk: Path, free: int, mounted: bool, whole: Any) -> str:
        """Train where there is so much room, make room and go on; says what is lost."""
        out, log, ballast = disk / "run", self.folder / "log.txt", disk / "ballast"
        if mounted:
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - free))
        job = cli("train", "--config", self.graph, "--out", out)
        limit = None if mounted else max(free, 1)
        code = wait(start(job, log, limit), 600)
        said = [line for line in log.read_text().splitlines() if line.startswith(("ipu-chem:", "Traceback"))]
        with suppress(FileNotFoundError):
            ballast.unlink()
        wrong = ""
        if code != 1 or len(said) != 1 or "could not be written" not in said[0] or "free" not in said[0]:
            wrong = f"ended with {code}: {said or tail(log)}"
        goes_on = cli("train", "--resume", out) if (out / LAST).is_file() else job
        code = wait(start(goes_on, log), 600)
        if not wrong and (code or not same_state(load_checkpoint(out / LAST), whole)):
            wrong = f"goes on with {code}, or to other weights: {tail(log)}"
        shutil.rmtree(out, ignore_errors=True)
        return wrong


def cli(*words: Any) -> Job:
    return lambda: command_line([str(word) for word in words])


def start(job: Job, log: Path, limit: Optional[int] = None) -> int:
    """Run a job in a process of a session of its own; its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = job()
        code = code if isinstance(code, int) else 0
    except BaseException as error:
        import traceback

        with suppress(Exception):
            traceback.print_exc()
            print(error, flush=True)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int, seconds: float) -> Optional[int]:
    """Exit status of a process; None if it still runs after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def session_of(leader: int) -> List[str]:
    """Processes that a killed one has left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                command = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(f"process {path.parent.name} lives: {command[:120]}")
    return found


def guarded(check: Callable[[bool], str]) -> Callable[[bool], str]:
    """A check whose errors are what is lost."""

    def guard(ended: bool) -> str:
        try:
            return check(ended)
        except Exception as error:
            return repr(error)

    return guard


def same_state(found: Tuple[Dict, Dict], whole: Tuple[Dict, Dict]) -> bool:
    """True if two checkpoints hold the same weights, optimizer and progress, bit by bit."""
    for group, values in whole[0].items():
        for name, value in values.items():
            other = found[0].get(group, {}).get(name)
            if not (torch.equal(value, other) if torch.is_tensor(value) else value == other):
                return False
    return found[1]["progress"] == whole[1]["progress"]


def metrics_of(search: Path) -> Dict[str, Any]:
    """Step, status and metrics of every candidate."""
    found = {path.parent.name: json.loads(path.read_text()) for path in search.glob("*/candidate.json")}
    return {name: (one["status"], one["step"], one["metrics"]) for name, one in sorted(found.items())}


def store_in(cache: Path) -> Store:
    (folder,) = [path.parent for path in cache.glob("*/meta.json")]
    return Store.open(folder)


def save_numbered(path: Path, number: int) -> None:
    """A store whose every value is one number."""
    values = {name: np.full(64, number, np.int64) for name in "abcdef"}
    Store({}, values, {}, {"number": number}).save(path)


def replace_forever(path: Path, exchanged: bool) -> None:
    if not exchanged:
        files._exchange = lambda *_: False
    number = int(Store.open(path).info["number"])
    while True:
        number += 1
        save_numbered(path, number)


def read_until(path: Path, stop: Path, report: Path) -> None:
    """Read a store until told to stop; the first line says how often, the others what was wrong."""
    reads, wrong, seen = 0, [], 0
    while not stop.exists():
        try:
            store = Store.open(path)
            numbers = {int(value) for values in store.fields.values() for value in values} | {store.info["number"]}
            if len(numbers) != 1 or min(numbers) < seen:
                wrong.append(f"read {reads}: {sorted(numbers)} after {seen}")
            seen = max(seen, *numbers)
        except Exception as error:
            wrong.append(f"read {reads}: {error!r}")
        reads += 1
    report.write_text("\n".join([f"{reads:,} reads of {seen:,} folders", *wrong[:20]]))


def flip(file: Path, content: bytes, choice: random.Random) -> int:
    """Change a byte of a file, keeping its times."""
    place, state = choice.randrange(len(content)), file.stat()
    changed = bytearray(content)
    changed[place] ^= choice.randrange(1, 256)
    file.write_bytes(changed)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    return place


def refused(read: Job) -> bool:
    try:
        read()
    except ValueError:
        return True
    return False


def tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-3:])[:300]


def line_of(row: Row) -> str:
    counts = (len(row.lost), len(row.unnoticed), len(row.orphans))
    return f"{row.what:55} {row.trials:6} " + " ".join(f"{count:9}" for count in counts) + f" {row.seconds:8.0f}"


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the trials; the exit status is 1 if anything was lost, unnoticed or left alive."""
    parser = argparse.ArgumentParser(description="Kill, flip bytes, fill disks, and count what is lost.")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    kinds = ("training", "searching", "corpora", "embedding", "replacing", "flipped", "full")
    parser.add_argument("kind", nargs="*", help=f"only these of {', '.join(kinds)}; the last two need training")
    asked = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="kill_campaign_"))
    campaign = Campaign(folder, asked.seed, asked.scale)
    print(f"{'kind':55} {'trials':>6} {'lost':>9} {'unnoticed':>9} {'orphans':>9} {'seconds':>8}", flush=True)
    try:
        for kind in asked.kind or kinds:
            getattr(campaign, kind)()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = campaign.rows
    kept: Tuple[List[str], ...] = tuple([text for row in rows for text in row[at]] for at in (2, 3, 4))
    total = sum(row.trials for row in rows)
    print(line_of(Row("all", total, *kept, seconds=sum(row.seconds for row in rows))))
    return int(any(kept))


if __name__ == "__main__":
    sys.exit(main())
