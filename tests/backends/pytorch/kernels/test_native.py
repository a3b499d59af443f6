"""Native kernels run as the user: none is loaded that somebody else could have written, or that is damaged."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ipu_chem.backends.pytorch.kernels import native

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler")


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_SOURCES", {"float": ("convolution.c",)})  # it is how files are kept that counts
    native.library.cache_clear()
    yield tmp_path / "cache" / f"kernels-{os.getuid()}"
    native.library.cache_clear()


def test_a_damaged_library_is_compiled_again_and_that_is_said_once(folder, capsys):
    def load() -> str:
        native.library.cache_clear()
        native.library()
        return capsys.readouterr().err

    assert load() == ""
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    (path,) = folder.glob("*.so")
    whole = path.read_bytes()
    path.unlink()  # what is loaded already must not change under this process
    path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    path.chmod(0o600)
    assert load() == f"native kernels: {path} is damaged and is compiled again\n"
    assert load() == "" and len(path.read_bytes()) == len(whole)
    path.chmod(0o666)
    assert load() == f"native kernels: {path} can be written by other users and is compiled again\n"
    assert path.stat().st_mode & 0o777 == 0o600
    path.with_suffix(".digest").unlink()
    assert native._problem(path) == "is not whole"


def test_a_folder_that_others_can_write_is_not_used(folder):
    folder.mkdir(parents=True)
    for mode in (0o770, 0o707):
        folder.chmod(mode)
        with pytest.raises(native.NativeError, match=f"{folder} can be written by other users.*IPU_CHEM_CACHE"):
            native.library()
    folder.rmdir()
    folder.parent.joinpath("elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")
    with pytest.raises(native.NativeError, match="is not loaded|are not loaded"):
        native.library()


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    folder.mkdir(parents=True, mode=0o700)
    someone = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: someone)
    folder.rename(folder.with_name(f"kernels-{someone}"))
    with pytest.raises(native.NativeError, match=rf"belongs to user {someone - 1}, so its kernels are not loaded"):
        native.library()


def test_options_that_no_shell_would_read_are_named(folder, monkeypatch):
    monkeypatch.setenv("IPU_CHEM_CFLAGS", "-DX='a")
    with pytest.raises(ValueError, match=r"IPU_CHEM_CFLAGS=-DX='a: No closing quotation; write options as a shell"):
        native.library()


def results_of(tests, chosen, flags, cache):
    """What tests of kernels say of those that are compiled with further options."""
    environment = {**os.environ, "IPU_CHEM_CFLAGS": flags, "IPU_CHEM_CACHE": str(cache)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    files = [str(Path(__file__).with_name(f"test_{name}_kernels.py")) for name in tests]
    return subprocess.run([*command, *files], env=environment, capture_output=True, encoding="utf-8")


@pytest.mark.skipif("avx512f" not in " ".join(native._processor()), reason="this processor has no AVX-512 to leave out")
def test_the_form_for_narrower_vectors_equals_autograd(tmp_path):
    chosen = "float64_equals_autograd or fill_no_vector or no_farther_from_float64"
    done = results_of(["force"], chosen, "-mno-avx512f", tmp_path)
    assert done.returncode == 0, done.stdout
    compiled = {path.name.rsplit("-", 1)[0] for path in tmp_path.rglob("*.so")}
    assert compiled == {"kernels-float", "kernels-double"}  # and nothing of those of the widest vectors


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of compilers for x86-64")
@pytest.mark.parametrize("flags", ["-mno-avx512f -mtune=znver2", "-mtune=znver2 --param=avoid-fma-max-bits=512"])
def test_company_changes_no_bit_where_the_compiler_likes_to_add_and_multiply_apart(flags, tmp_path):
    if not native._same_sums(native.find_compiler()):
        pytest.skip("a compiler without this option")
    done = results_of(["decoding"], "company", flags, tmp_path)
    assert done.returncode == 0, done.stdout
