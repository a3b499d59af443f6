"""Native kernels: compiled once per machine with the C compiler that is there, kept in the cache folder.

There is no Python header and no C++ in it, so that compiling takes seconds, needs nothing but `cc`, and one library
serves every Python. Options in IPU_CHEM_CFLAGS come after ours: -mno-avx512f leaves out AVX-512. A library runs as the
user who loads it: it is taken only from a folder and a file that nobody else can write, and only if its digest is that
of the one that was compiled.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import List, Optional

from packing.files import atomic_file, file_digest

_FOLDER = Path(__file__).parent
_FORCES = ("molecules.c", "schnet.c", "painn.c", "painn_features.c")
_DECODING = ("decoding/decoding.c", "decoding/drawing.c", "decoding/reading.c")
_MODELS = (*(f"forces/{name}" for name in _FORCES), "spooky/spooky.c", *_DECODING)
_SOURCES = {"float": ("convolution.c", "transformer.c", *_MODELS), "double": _MODELS}
# Without the promise that numbers are finite and sums may be reordered, loops are not turned into vectors. The
# library is linked without it: there the same flag would switch off denormals in the whole process.
_COMPILE = ["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fPIC", "-std=c11", "-c"]
_LINK = ["-shared", "-lm"]
# For some processors GCC multiplies and adds in two steps, rounding twice, where sums form a single chain, as they do
# for one row but not for six: the numbers of a molecule would depend on its company.
_SAME_SUMS = "--param=avoid-fma-max-bits=0"


class NativeError(RuntimeError):
    """The kernels cannot be compiled or loaded here; says why."""


@lru_cache(maxsize=None)
def library(real: str = "float") -> ctypes.CDLL:
    """The compiled kernels.

    Args:
        real: float; or double, for energies and forces of models in float64 alone.

    Raises:
        NativeError: there is no C compiler, it refuses, or others can write where the kernels are kept.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NativeError("no C compiler here (cc, gcc or clang, or the one that $CC names)")
    path = _own_folder() / f"kernels-{real}-{_key(compiler)}.so"
    problem = _problem(path)
    if problem:
        if path.exists():
            print(f"native kernels: {path} {problem} and is compiled again", file=sys.stderr)
        _compile(compiler, real, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"the compiled kernels cannot be loaded: {error}") from error


def find_compiler() -> Optional[str]:
    """Path of the C compiler, or None."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


def _own_folder() -> Path:
    """A folder of the cache for this user alone: others may share the cache.

    Raises:
        NativeError: it is another's, or others can write it.
    """
    from ipu_chem.cache import cache_folder

    folder = cache_folder(None) / f"kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        problem = _not_ours(folder.lstat())
    except OSError as error:
        raise NativeError(f"{folder} cannot be made: {error}") from error
    if problem or folder.is_symlink():
        problem = problem or "is a link"
        raise NativeError(f"{folder} {problem}, so its kernels are not loaded; delete it, or set IPU_CHEM_CACHE")
    return folder


def _not_ours(status: os.stat_result) -> str:
    """In words, why somebody else could have written a file or folder; "" if nobody could."""
    if status.st_uid != os.getuid():
        return f"belongs to user {status.st_uid}"
    return "can be written by other users" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _problem(path: Path) -> str:
    """In words, why a library is not loaded; "" if it is the one that was compiled here."""
    try:
        if path.is_symlink():
            return "is a link"
        digest = _digest_file(path).read_text(encoding="utf-8")
        return _not_ours(path.stat()) or ("" if file_digest(path) == digest else "is damaged")
    except (OSError, ValueError):
        return "is not whole"


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".digest")


def _key(compiler: str) -> str:
    """Changes with the source, the compiler and the processor that the code is made for."""
    sources = sorted(path for path in _FOLDER.rglob("*") if path.suffix in (".c", ".h"))
    digest = hashlib.blake2b(b"".join(source.read_bytes() for source in sources), digest_size=8)
    version = subprocess.run([compiler, "--version"], capture_output=True).stdout
    options = (_options(), _SAME_SUMS, _LINK)
    digest.update(repr((version, _SOURCES, options, platform.platform(), _processor())).encode())
    return digest.hexdigest()


def _options() -> List[str]:
    """Of the compiler. Not CFLAGS: some environments set it for programs that are to run anywhere."""
    given = os.environ.get("IPU_CHEM_CFLAGS", "")
    try:
        return [*_COMPILE, *shlex.split(given)]
    except ValueError as error:
        raise ValueError(f"IPU_CHEM_CFLAGS={given}: {error}; write options as a shell takes them.") from None


def _same_sums(compiler: str) -> List[str]:
    """The option above, where the compiler knows it: GCC 8 does not, and clang needs none."""
    command = [compiler, _SAME_SUMS, "-E", "-x", "c", os.devnull]
    return [_SAME_SUMS] if subprocess.run(command, capture_output=True).returncode == 0 else []


def _processor() -> List[str]:
    """Lines that distinguish processors that need other code: a cache folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})


def _compile(compiler: str, real: str, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder) / "kernels.so"
        compiled = [str(Path(folder) / f"{number}.o") for number in range(len(_SOURCES[real]))]
        command = [compiler, *_options(), f"-DREAL={real}"]
        extra = {True: _same_sums(compiler), False: []}
        commands = [
            [*command, *extra[name in _DECODING], str(_FOLDER / name), "-o", made]
            for name, made in zip(_SOURCES[real], compiled)
        ]
        for command in (*commands, [compiler, *compiled, *_LINK, "-o", str(linked)]):
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
            if done.returncode:
                raise NativeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
        try:
            with atomic_file(path, "wb") as file:
                file.write(linked.read_bytes())
            os.chmod(path, 0o600)  # whatever the umask
            with atomic_file(_digest_file(path), "w") as file:
                file.write(file_digest(linked))
        except OSError as error:
            raise NativeError(f"the compiled kernels cannot be kept in {path.parent}: {error}") from error
