"""Benchmarks of an IPU-POD: lists them, prints their exact commands, runs them and collects the figures.

    python -m benchmarks.pod --list
    python -m benchmarks.pod --dry-run
    python -m benchmarks.pod --run 'schnet_*_pod64' --hosts pod1,pod2,pod3,pod4 --out results

benchmarks.yml describes them in the form of Graphcore's examples, so Graphcore's own runner takes it, too. Every
command is checked before anything is printed or run: what poprun and the benchmark would refuse is said here.
A benchmark with parameters has a variant for each of their values; its name, a variant's or a pattern chooses.
"""

import argparse
import csv
import fnmatch
import json
import os
import re
import shlex
import shutil
import statistics
import string
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import poprun, throughput
from benchmarks.common import ROOT
from packing.files import atomic_file

SPEC = Path(__file__).resolve().parent / "benchmarks.yml"
_PROGRAM = ("python", "-m", "benchmarks.throughput")
# Where the machine is described: variable of a command -> option of this script.
_SITE = {
    "HOSTS": ("hosts", "hosts of the pod, comma separated, this one first"),
    "VIPU_CLI_API_HOST": ("vipu-server-host", "where the V-IPU server runs"),
    "IPUOF_VIPU_API_PARTITION_ID": ("vipu-partition", "name of the partition, see `vipu list partitions`"),
    "TCP_IF_INCLUDE": ("network", "network that all hosts are on, such as 10.1.3.0/24"),
    "PYTORCH_CACHE_DIR": ("cache", "folder for compiled programs"),
    "DATASETS_DIR": ("datasets", "folder of real data"),
}
_REDUCTIONS = {"mean": statistics.mean, "min": min, "max": max, "final": lambda values: values[-1]}


class Variant(NamedTuple):
    """One command of a benchmark.

    Attributes:
        name: of the benchmark, with its parameters' values.
        benchmark: name in the file.
        description: what it is.
        words: the command; shell variables still stand in it.
        env: variables that the file gives a value.
        data: metric -> regexp, skip and reduction_type.
    """

    name: str
    benchmark: str
    description: str
    words: List[str]
    env: Dict[str, str]
    data: Dict[str, Dict[str, Any]]

    @property
    def ipus(self) -> Optional[int]:
        """IPUs of the pod that the name says, None for other machines."""
        found = re.search(r"_pod(\d+)", self.name)
        return int(found.group(1)) if found else None


def load(path: Path = SPEC) -> List[Variant]:
    """Every command of a file, in order.

    Raises:
        ValueError: the file is not in the form of benchmarks.yml; names the benchmark.
    """
    import yaml

    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a list of benchmarks is a mapping from names to their commands.")
    described = {name: entry for name, entry in entries.items() if isinstance(entry, dict) and "cmd" in entry}
    return [variant for name, entry in described.items() for variant in _variants(name, entry)]


def check(variant: Variant, site: Mapping[str, str]) -> List[str]:
    """The words of a command on this machine, checked against poprun's options, the pod and the benchmark's.

    Args:
        variant: what to run.
        site: values of shell variables; one without a value stays as it is.

    Raises:
        ValueError: it could not run; names the benchmark and what would do.
    """
    values = {**variant.env, **{name: os.environ[name] for name in variant.env if name in os.environ}, **site}
    words = [string.Template(word).safe_substitute(values) for word in variant.words]
    try:
        program = words
        launched = poprun.parse(words, variant.ipus) if words[:1] == ["poprun"] else None
        if launched is not None:
            program = list(launched.program)
        if tuple(program[:3]) != _PROGRAM:
            raise ValueError(f"runs {shlex.join(program[:3])}, not {' '.join(_PROGRAM)}.")
        settings = throughput.read(program[3:])
        if launched is not None:
            _agree(launched, settings)
        elif variant.ipus is not None:
            raise ValueError("a command for a pod begins with poprun.")
    except ValueError as error:
        raise ValueError(f"{variant.name}: {error}") from error
    return words


def choose(variants: Sequence[Variant], patterns: Sequence[str]) -> List[Variant]:
    """Variants by their name, their benchmark's or a pattern such as "schnet_*_pod16".

    Raises:
        ValueError: a pattern fits none.
    """
    chosen: List[Variant] = []
    for pattern in patterns:
        found = [v for v in variants if any(fnmatch.fnmatchcase(name, pattern) for name in (v.name, v.benchmark))]
        if not found:
            raise ValueError(f"no benchmark is called {pattern}; python -m benchmarks.pod --list names them all.")
        chosen += [variant for variant in found if variant not in chosen]
    return chosen


def figures(output: str, data: Mapping[str, Mapping[str, Any]]) -> Dict[str, Optional[float]]:
    """Metrics in a program's output: what the regular expressions find, reduced; None for what they do not."""
    result: Dict[str, Optional[float]] = {}
    for name, how in data.items():
        found = [_number(text) for text in re.findall(how["regexp"], output)]
        kept = [value for value in found if value is not None][int(how.get("skip", 0)) :]
        result[name] = _REDUCTIONS[how.get("reduction_type", "mean")](kept) if kept else None
    return result


def ready(variant: Variant, site: Mapping[str, str]) -> List[str]:
    """The words of `check`, if this machine can run them.

    Raises:
        ValueError: the command, a variable or poprun itself is missing; says which.
    """
    words = check(variant, site)
    for name in sorted(set(re.findall(r"\$\{?(\w+)", " ".join(words)))):
        flag, what = _SITE.get(name, ("", "a variable of the command"))
        raise ValueError(f"{variant.name} needs {name}, {what}; set it" + (f" or give --{flag}." if flag else "."))
    if words[0] == "poprun" and shutil.which("poprun") is None:
        raise ValueError(
            "poprun is not on the PATH: it comes with the Poplar SDK, source its enable script; "
            "--dry-run prints the commands anywhere."
        )
    return words


def run(variant: Variant, site: Mapping[str, str]) -> Dict[str, Any]:
    """Run one command, show what it prints and return its record; raises what `ready` does."""
    words = ready(variant, site)
    if words[0] == "python":  # the interpreter that runs this, whatever is first on the PATH
        words[0] = sys.executable
    environment = {**variant.env, **os.environ, **site}
    started, lines = time.perf_counter(), []
    with subprocess.Popen(
        words, cwd=str(ROOT), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:  # stopped: the program must not go on alone
            process.terminate()
            raise
    return {
        "name": variant.name,
        "status": process.returncode,
        "seconds": round(time.perf_counter() - started, 2),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(words),
        **figures("".join(lines), variant.data),
    }


def write(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write records to out.json and out.csv, each whole or not at all."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    with atomic_file(out.with_name(out.name + ".json"), "w") as file:
        json.dump(list(records), file, indent=1)
    with atomic_file(out.with_name(out.name + ".csv"), "w") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """List, print or run benchmarks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="name every benchmark and what it is")
    action.add_argument("--run", nargs="+", metavar="NAME", help="benchmarks, variants or patterns")
    parser.add_argument("--dry-run", action="store_true", help="print the commands instead, without --run all of them")
    parser.add_argument("--spec", type=Path, default=SPEC, help="another list of benchmarks")
    parser.add_argument("--out", type=Path, default=Path("pod_results"), help="results go to OUT.json and OUT.csv")
    for variable, (flag, what) in _SITE.items():
        parser.add_argument(f"--{flag}", dest=variable, help=f"{what} (default: ${variable})")
    arguments = parser.parse_args(argv)
    if not (arguments.list or arguments.run or arguments.dry_run):
        parser.error("say what to do: --list, --run NAME ... or --dry-run")
    given = {name: getattr(arguments, name) or os.environ.get(name) for name in _SITE}
    site = {name: value for name, value in given.items() if value}
    try:
        variants = load(arguments.spec)
        if arguments.list:
            return _list(variants)
        chosen = choose(variants, arguments.run or ["*"])
        commands = [check(variant, site) for variant in chosen]
        if arguments.dry_run:
            print("\n".join(_quoted(words) for words in commands))
            return 0
        return _run_all(chosen, site, arguments.out)
    except (ValueError, OSError) as error:
        print(f"pod: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pod: stopped; what had finished is in {arguments.out}.json", file=sys.stderr)
        return 130


def _variants(name: str, entry: Mapping[str, Any]) -> Iterator[Variant]:
    """The commands of an entry; rows of values, or every combination of comma separated ones."""
    parameters = entry.get("parameters", {})
    if isinstance(parameters, list):
        if any(len(row) != len(parameters[0]) for row in parameters):
            raise ValueError(f"{name}: every row of its parameters has {len(parameters[0])} values.")
        rows = [dict(zip(parameters[0], map(str, row))) for row in parameters[1:]]
    else:
        rows = [{}]
        for key, values in parameters.items():
            rows = [{**row, key: value} for value in str(values).split(",") for row in rows]
    for metric, how in entry.get("data", {}).items():
        if how.get("reduction_type", "mean") not in _REDUCTIONS:
            raise ValueError(f"{name}: reduction_type of {metric} is one of {', '.join(_REDUCTIONS)}.")
        if re.compile(how.get("regexp", "")).groups != 1:
            raise ValueError(f"{name}: regexp of {metric} has one pair of brackets, around the number.")
    for row in rows:
        full = "_".join([name, *(f"{key}_{row[key]}" for key in sorted(row))])
        try:
            words = [" ".join(word.split()) for word in shlex.split(entry["cmd"].format(**row))]
        except (KeyError, IndexError) as error:
            raise ValueError(f"{name}: its command has {{{error.args[0]}}}, its parameters do not.") from error
        env = {key: str(value) for key, value in entry.get("env", {}).items()}
        yield Variant(full, name, " ".join(entry.get("description", "").split()), words, env, entry.get("data", {}))


def _agree(launched: poprun.PopRun, settings: throughput.Settings) -> None:
    """poprun and the program must speak of the same replicas and IPUs."""
    pairs = (
        ("num-replicas", "batching.replication_factor", settings.batching.replication_factor),
        ("ipus-per-replica", "ipu.ipus_per_replica", settings.ipu.ipus_per_replica),
    )
    for option, name, value in pairs:
        if launched.count(option) != value:
            raise ValueError(f"poprun --{option} {launched.count(option)}, but --{name} {value}; give both the same.")
    if settings.accelerator != "ipu":
        raise ValueError(f"poprun starts programs for IPUs; --accelerator is {settings.accelerator}, give ipu.")


def _list(variants: Sequence[Variant]) -> int:
    counts = {variant.benchmark: 0 for variant in variants}
    for variant in variants:
        counts[variant.benchmark] += 1
    described = {variant.benchmark: variant.description for variant in variants}
    for name, number in counts.items():
        print(f"{name:36}{number:3} variant{'s' if number > 1 else ' '}  {described[name]}")
    return 0


def _run_all(chosen: Sequence[Variant], site: Mapping[str, str], out: Path) -> int:
    """Run one after the other; what is done is on disk before the next begins."""
    for variant in chosen:
        ready(variant, site)  # rather now than after hours
    records: List[Dict[str, Any]] = []
    for variant in chosen:
        print(f"$ {_quoted(check(variant, site))}", flush=True)
        records.append(run(variant, site))
        write(records, out)
    failed = [record["name"] for record in records if record["status"] or record.get("throughput") is None]
    for record in records:
        rate = record.get("throughput")
        print(f"{record['name']}: {f'{rate:,.2f} samples/sec' if rate is not None else 'no throughput'}")
    if failed:
        print(f"pod: failed: {', '.join(failed)}; see their output above.", file=sys.stderr)
    return int(bool(failed))


def _number(text: str) -> Optional[float]:
    """A number, None for what lines of several processes have made of it."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _quoted(words: Sequence[str]) -> str:
    """A command to paste; variables that are still in it stay variables."""
    return " ".join(_double_quoted(word) if "$" in word else shlex.quote(word) for word in words)


def _double_quoted(word: str) -> str:
    escaped = re.sub(r'["`\\]', r"\\\g<0>", word)
    return f'"{escaped}"'


if __name__ == "__main__":
    sys.exit(main())
