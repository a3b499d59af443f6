"""Arrays from a file of torch.save, without running what else such a file may say.

A .pt file is a pickle, which may call any function. `torch.load(weights_only=True)` refuses numpy arrays in older
versions of torch and can only be told of them in newer ones. A pickle reader of our own that knows the few functions
which arrays and tensors are made by works with all of them, and whatever else the file asks for is refused.
"""

import pickle
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict

import numpy as np

_CORE = "numpy.core" if np.__version__.startswith("1.") else "numpy._core"  # one, renamed
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # bytes, in old pickles
    *((module, name) for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    (f"{_CORE}.multiarray", "_reconstruct"),
    (f"{_CORE}.multiarray", "scalar"),
    (f"{_CORE}.numeric", "_frombuffer"),
    ("torch._utils", "_rebuild_tensor_v2"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(("numpy.core.", "numpy._core.")):
            module = f"{_CORE}.{module.rpartition('.')[2]}"
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return super().find_class(module, name)


def load_arrays(path: Path) -> Dict[str, np.ndarray]:
    """The arrays of a dict that torch.save has written, as numpy arrays or as tensors.

    Raises:
        ValueError: it is damaged, holds something else than integers or numbers, or asks for any other object.
    """
    import torch

    reader: Any = ModuleType("arrays")
    reader.Unpickler, reader.load = _Reader, lambda file, **options: _Reader(file, **options).load()
    try:
        # The reader takes the place of weights_only, which torch does not combine with another reader.
        found = torch.load(str(path), map_location="cpu", pickle_module=reader, weights_only=False)
        arrays = {str(name): np.asarray(values) for name, values in found.items()}
    except (OSError, EOFError, RuntimeError, AttributeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no file of arrays ({str(error).splitlines()[0]}); fetch it again.") from None
    for name, values in arrays.items():
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{path}: {name} is {values.dtype}, not numbers; fetch it again.")
    return arrays
