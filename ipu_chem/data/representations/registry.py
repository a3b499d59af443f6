"""Representations by name: those of this package, and a user's own as ``package.module:Class``."""

import hashlib
import inspect
import re
from functools import lru_cache
from typing import Any, Dict

from ipu_chem.data.representations.base import Representation
from ipu_chem.data.representations.safe import Safe
from ipu_chem.data.representations.smiles import Smiles
from ipu_chem.data.selfies.representation import Selfies
from ipu_chem.options import meant
from ipu_chem.signatures import load

USUAL = "selfies"
REPRESENTATIONS: Dict[str, Any] = {one.name: one for one in (Selfies, Smiles, Safe)}


@lru_cache(maxsize=None)
def representation_named(name: str = USUAL) -> Representation:
    """The representation of a name; the libraries that it needs are asked for by `Representation.versions`.

    Raises:
        ValueError: there is none, its module cannot be imported, or the class is none.
    """
    if name in REPRESENTATIONS:
        return REPRESENTATIONS[name]()
    if ":" not in name:
        raise ValueError(
            f"representation={name!r}{meant(name, REPRESENTATIONS)}: choose one of {', '.join(REPRESENTATIONS)}, or "
            "package.module:Class of your own."
        )
    kind = load(name, "representation")
    if not (inspect.isclass(kind) and issubclass(kind, Representation) and kind.pattern):
        raise ValueError(
            f"representation={name}: it is no subclass of ipu_chem.data.representations.base.Representation with a "
            "pattern of its tokens."
        )
    if re.compile(kind.pattern).groups:
        raise ValueError(f"representation={name}: its pattern has groups; write (?:...) in place of (...).")
    made = kind()
    made.name = name
    return made


def identity(name: str) -> str:
    """Text that changes with the code of a user's own representation; the name alone of one of this package."""
    if name in REPRESENTATIONS:
        return name
    source = inspect.getsource(type(representation_named(name)))
    return f"{name} {hashlib.blake2b(source.encode('utf-8'), digest_size=8).hexdigest()}"
