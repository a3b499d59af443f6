"""Native kernels: compiled once per machine with the C compiler that is there, kept in the cache folder.

There is no Python header and no C++ in it, so that compiling takes a second, needs nothing but `cc`, and one library
serves every Python.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import List, Optional

from packing.files import atomic_file

_SOURCES = [Path(__file__).with_name(name) for name in ("convolution.c", "transformer.c")]
# Without the promise that numbers are finite and sums may be reordered, loops are not turned into vectors. The
# library is linked without it: there the same flag would switch off denormals in the whole process.
_COMPILE = ["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fPIC", "-std=c11", "-c"]
_LINK = ["-shared", "-lm"]


class NativeError(RuntimeError):
    """The kernels cannot be compiled or loaded here; says why."""


@lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        NativeError: there is no C compiler, or it refuses.
    """
    compiler = find_compiler()
    if compiler is None:
        raise NativeError("no C compiler here (cc, gcc or clang, or the one that $CC names)")
    path = _cache_folder() / f"kernels-{_key(compiler)}.so"
    if not path.is_file():
        _compile(compiler, path)
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


def _cache_folder() -> Path:
    from ipu_chem.cache import cache_folder

    return cache_folder(None)


def _key(compiler: str) -> str:
    """Changes with the source, the compiler and the processor that the code is made for."""
    digest = hashlib.blake2b(b"".join(source.read_bytes() for source in _SOURCES), digest_size=8)
    version = subprocess.run([compiler, "--version"], capture_output=True).stdout
    digest.update(repr((version, _COMPILE, _LINK, platform.platform(), _processor())).encode())
    return digest.hexdigest()


def _processor() -> List[str]:
    """Lines that distinguish processors that need other code: a cache folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})


def _compile(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder) / "kernels.so"
        compiled = [str(Path(folder) / f"{source.stem}.o") for source in _SOURCES]
        commands = [[compiler, *_COMPILE, str(source), "-o", made] for source, made in zip(_SOURCES, compiled)]
        for command in (*commands, [compiler, *compiled, *_LINK, "-o", str(linked)]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise NativeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
        try:
            with atomic_file(path, "wb") as file:
                file.write(linked.read_bytes())
        except OSError as error:
            raise NativeError(f"the compiled kernels cannot be kept in {path.parent}: {error}") from error
