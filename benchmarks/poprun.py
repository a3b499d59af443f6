"""The command line of poprun, Graphcore's launcher, read and checked without it.

poprun starts one process for each instance, on one host or several, and lends every instance its share of
the replicas. A wrong option shows only on the machine, often after the partition has been made; here it shows
where the command is written. The options are those of the PopRun user guide and of Graphcore's own examples.

Use: `parse(words, ipus)` before a command is printed or run; `benchmarks.pod` and the README's test do.
"""

import re
import shlex
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

# Option -> what it takes. Names that poprun shares with mpirun have a `--mpi-...-args` of their own.
OPTIONS: Dict[str, str] = {
    "help": "nothing",
    "version": "nothing",
    "version-format": "text",
    "verbose": "nothing",
    "import-config": "text",
    "export-config": "text",
    "overwrite-config": "switch",
    "host": "hosts",
    "host-subnet": "text",
    "num-instances": "count",
    "num-replicas": "count",
    "ipus-per-replica": "count",
    "num-ilds": "count",
    "vipu-server-host": "text",
    "vipu-server-port": "count",
    "vipu-server-timeout": "count",
    "vipu-partition": "text",
    "vipu-partition-attempts": "count",
    "vipu-allocation": "text",
    "vipu-cluster": "text",
    "update-partition": "switch",
    "reset-partition": "switch",
    "remove-partition": "switch",
    "sync-type": "text",
    "executable-cache-path": "text",
    "mpi-global-args": "mpirun",
    "mpi-local-args": "mpirun",
    "instance-mpi-local-args": "mpirun",
    "numa-aware": "switch",
    "print-topology": "switch",
    "only-output-from-instance": "index",
    "offline-mode": "switch",
    "distribute-ssh-key": "switch",
    "synchronise-poplar-sdk": "switch",
    "synchronise-python-venv": "switch",
}
_VERBOSE = ("-v", "-vv", "--vv", "--verbose")
_SHORT = {"-H": "host", "-h": "help"}
_SWITCH = ("yes", "no", "true", "false", "on", "off", "1", "0")
_REPEATED = ("instance-mpi-local-args",)  # once for each instance
# mpirun's options that are easily given to poprun itself.
_OF_MPIRUN = ("tag-output", "allow-run-as-root", "mca", "bind-to", "x", "np", "report-bindings", "output-filename")


class PopRun(NamedTuple):
    """A checked command.

    Attributes:
        options: name without dashes -> value, in the order given.
        program: what every instance runs, with its arguments.
    """

    options: Dict[str, str]
    program: Tuple[str, ...]

    def count(self, name: str) -> int:
        """Value of a counting option; poprun's default is 1."""
        return int(self.options.get(name, "1"))

    @property
    def ipus(self) -> int:
        """IPUs that all replicas together take."""
        return self.count("num-replicas") * self.count("ipus-per-replica")

    @property
    def hosts(self) -> Optional[List[str]]:
        """Hosts by name: this one if none is given, None while they are still a shell variable."""
        given = self.options.get("host", "localhost")
        return None if "$" in given else expand_hosts(given)


def parse(words: Sequence[str], ipus: Optional[int] = None) -> PopRun:
    """Read a command and check it.

    Args:
        words: the command, beginning with "poprun"; shell variables such as $HOSTS may still stand in texts.
        ipus: size of the partition; None leaves that unchecked.

    Raises:
        ValueError: poprun or the machine would refuse it; names the option and what would do.
    """
    if not words or words[0] != "poprun":
        raise ValueError(f"a command for several processes begins with poprun, this one with {' '.join(words[:1])!r}.")
    options: Dict[str, str] = {}
    rest = list(words[1:])
    while rest and rest[0].startswith("-"):
        name, value = _take_option(rest)
        if name in options and name not in _REPEATED and name != "verbose":
            raise ValueError(f"poprun: --{name} is given twice; leave one of them out.")
        options[name] = value
    command = PopRun(options, tuple(rest))
    _check(command, ipus)
    return command


def expand_hosts(text: str) -> List[str]:
    """Hosts of a list such as "pod1,pod2" or "pod[1-3,7]".

    Raises:
        ValueError: a name is empty or a range runs backwards.
    """
    hosts: List[str] = []
    for part in re.split(r",(?![^\[]*\])", text):  # not at the commas inside brackets
        match = re.fullmatch(r"([\w.-]*)\[([^\]]*)\]([\w.-]*)", part)
        if match is not None:
            numbers = [number for piece in match.group(2).split(",") for number in _numbers(text, piece)]
            hosts += [f"{match.group(1)}{number}{match.group(3)}" for number in numbers]
        elif re.fullmatch(r"[\w.:-]+", part):
            hosts.append(part)
        else:
            raise ValueError(f"poprun: --host {text!r} has no host in {part!r}; give names or addresses with commas.")
    return hosts


def _numbers(text: str, piece: str) -> List[str]:
    """Numbers of a range such as "3" or "08-11", as they stand in names."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
    if match is None or int(match.group(2) or match.group(1)) < int(match.group(1)):
        raise ValueError(f"poprun: --host {text!r}: {piece!r} is no range of numbers; give e.g. [1-4,7].")
    first, last = match.group(1), match.group(2) or match.group(1)
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _take_option(rest: List[str]) -> Tuple[str, str]:
    """Remove the first option and its value from the words; returns (name, value)."""
    word = rest.pop(0)
    if word in _VERBOSE:
        return "verbose", word
    flag, equals, value = word.partition("=")
    name = _SHORT.get(flag, flag[2:] if flag.startswith("--") else "")
    if name not in OPTIONS:
        if flag.lstrip("-") in _OF_MPIRUN:
            raise ValueError(f'poprun: {flag} is an option of mpirun; write --mpi-global-args="{flag} ...".')
        raise ValueError(f"poprun: unknown option {flag}; poprun --help lists what there is.")
    kind = OPTIONS[name]
    if kind == "nothing":
        if equals:
            raise ValueError(f"poprun: --{name} takes no value.")
        return name, ""
    if not equals:
        if not rest or (rest[0].startswith("-") and (kind != "mpirun" or _is_option(rest[0]))):
            raise ValueError(f"poprun: --{name} needs a value.")
        value = rest.pop(0)
    _check_value(name, kind, value)
    return name, value


def _is_option(word: str) -> bool:
    """True where a word is an option of poprun rather than a value for mpirun that begins with a dash."""
    return word in _VERBOSE or word in _SHORT or word.partition("=")[0][2:] in OPTIONS


def _check_value(name: str, kind: str, value: str) -> None:
    if kind in ("count", "index"):
        lowest = 1 if kind == "count" else 0
        if not re.fullmatch(r"\d+", value) or int(value) < lowest:
            raise ValueError(f"poprun: --{name} {value!r}: give a whole number of {lowest} or more.")
        if name == "vipu-server-port" and int(value) > 65535:
            raise ValueError(f"poprun: --{name} {value}: ports end at 65535.")
    elif kind == "switch" and value not in _SWITCH:
        raise ValueError(f"poprun: --{name} {value!r}: give yes or no.")
    elif kind == "hosts" and "$" not in value:
        expand_hosts(value)
    elif kind == "mpirun":
        try:
            first = shlex.split(value)[:1]
        except ValueError as error:
            raise ValueError(
                f"poprun: --{name} {value!r}: {error}; quote the arguments of mpirun as one word."
            ) from error
        if first and not first[0].startswith("-"):
            raise ValueError(f"poprun: --{name} {value!r}: give options of mpirun, such as --tag-output.")
    elif not value.strip():
        raise ValueError(f"poprun: --{name} needs a value.")


def _check(command: PopRun, ipus: Optional[int]) -> None:
    """Checks of several options together."""
    if {"help", "version"} & set(command.options):
        return
    if not command.program:
        raise ValueError("poprun: no program to run; end the command with e.g. python -m benchmarks.throughput ...")
    replicas, instances = command.count("num-replicas"), command.count("num-instances")
    per_replica = command.count("ipus-per-replica")
    if replicas % instances:
        raise ValueError(
            f"poprun: {replicas} replicas cannot be shared out to {instances} instances equally; "
            f"use {_fitting(replicas, instances)} instances."
        )
    for what, number in (("--ipus-per-replica", per_replica), ("replicas x IPUs per replica", command.ipus)):
        if number & (number - 1):
            raise ValueError(f"poprun: {what} is {number}: IPUs are lent in powers of two; use 1, 2, 4, ...")
    if ipus is not None and command.ipus > ipus:
        raise ValueError(
            f"poprun: {replicas} replicas x {per_replica} IPUs are {command.ipus} IPUs, the partition has {ipus}; "
            f"use {max(ipus // per_replica, 1)} replicas or fewer."
        )
    hosts = command.hosts
    if hosts is not None and len(set(hosts)) != len(hosts):
        raise ValueError(f"poprun: a host is named twice in --host {command.options['host']}.")
    if hosts is not None and instances % len(hosts):
        raise ValueError(
            f"poprun: {instances} instances cannot be shared out to {len(hosts)} hosts equally; "
            f"use a multiple of {len(hosts)}."
        )
    shown: Any = command.options.get("only-output-from-instance")
    if shown is not None and int(shown) >= instances:
        raise ValueError(f"poprun: --only-output-from-instance {shown}: the {instances} instances count from 0.")


def _fitting(replicas: int, instances: int) -> int:
    """The largest number of instances, at most the one asked for, that divides the replicas."""
    return max(number for number in range(1, instances + 1) if replicas % number == 0)
