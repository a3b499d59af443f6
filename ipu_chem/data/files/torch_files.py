"""Files of torch.save from anywhere: tensors are read, and nothing that a file may say beside them is run."""

import codecs
import pickle
import re
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

_DAMAGE = (pickle.UnpicklingError, zipfile.BadZipFile)


def load_torch(file: Path, remedy: str) -> Any:
    """Tensors, numbers, lists and dictionaries of a file; since torch 2.6 also numpy's arrays.

    Args:
        file: written by torch.save.
        remedy: what else to do, for a file that may run code.

    Raises:
        ValueError: it is damaged, a TorchScript archive, or asks for more than that.
    """
    import torch

    serialization: Any = torch.serialization
    allowed: Any = nullcontext()
    if hasattr(serialization, "get_unsafe_globals_in_checkpoint"):  # since torch 2.6
        array, make = np.zeros(1), np.zeros(1).__reduce__()[0]  # numpy renames the function's module
        kinds = {type(np.dtype(kind)) for kind in "bBhHiIlLqQfd"}
        names = [(make, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
        allowed = serialization.safe_globals([type(array), np.dtype, codecs.encode, *kinds, *names])
    try:
        _check_archive(file)
        with allowed:
            return torch.load(str(file), map_location="cpu", weights_only=True)
    # A damaged pickle raises whatever its first wrong byte leads to.
    except (OSError, EOFError, RuntimeError, AttributeError, LookupError, TypeError, MemoryError, *_DAMAGE) as error:
        asked = re.search(r"(?i)unsupported (?:global: )?(?:global|class) ([\w.]+)", str(error))
        if asked is None:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{file} is no file of tensors ({reason}); fetch it again.") from None
        raise ValueError(f"{file} asks for {asked[1]} beside tensors, which may run code; {remedy}") from None


def _check_archive(file: Path) -> None:
    """Refuse a TorchScript archive, which torch.load may hand to torch.jit.load, weights_only or not.

    Raises:
        ValueError: it is one, or claims more content than it has.
        RuntimeError, zipfile.BadZipFile: it is damaged.
    """
    import torch

    with open(file, "rb") as opened:
        if opened.read(4) != b"PK\x03\x04":  # by these torch, too, tells an archive from a bare pickle
            return
    reader: Any = torch._C.PyTorchFileReader(str(file))  # sees the archive as torch does
    if any(name == "constants.pkl" or name.startswith("code/") for name in reader.get_all_records()):
        raise ValueError(
            f"{file} is a TorchScript archive, which holds code that loading would run; "
            "it must be a file of tensors by torch.save."
        )
    with zipfile.ZipFile(file) as archive:  # torch.save packs nothing
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > file.stat().st_size:
        raise ValueError(f"{file} claims a content of {claimed:,} bytes, more than it has; fetch it again.")
