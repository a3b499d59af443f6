"""SAFE: SMILES in the order of fragments, which closed rings between them join; tokens are those of SMILES.

E. Noutahi et al., "Gotta be SAFE: a new framework for molecular design", Digital Discovery 3, 796 (2024). The authors'
package safe-mol writes and reads them: bonds are cut where BRICS cuts, a molecule without such bonds is its SMILES.
"""

import hashlib
from typing import Dict, List

from ipu_chem.data.representations.base import stands_for
from ipu_chem.data.representations.smiles import Smiles

_MISSING = "SAFE needs the package safe-mol, which needs Python 3.11 or later: pip install 'ipu-chem[safe]'."


class Safe(Smiles):
    """Fragments of a molecule one after the other; what a model leaves open between them is closed by hydrogen."""

    name = "safe"
    title = "SAFE"

    def versions(self) -> Dict[str, str]:
        from importlib.metadata import version

        try:
            import safe  # noqa: F401
        except ImportError:
            raise ValueError(_MISSING) from None
        return {"safe-mol": version("safe-mol")}

    def write(self, smiles: str, canonical: str) -> List[str]:
        import safe

        if smiles == canonical:
            how = {"canonical": True}
        else:  # its fragments are in random order, too
            seed = int.from_bytes(hashlib.blake2b(smiles.encode("utf-8"), digest_size=4).digest(), "little")
            how = {"canonical": False, "randomize": True, "seed": seed}
        try:
            text = safe.encode(smiles, allow_empty=True, **how)
        except Exception:  # whatever its fragments trip over
            raise ValueError("safe-mol cannot encode the molecule") from None
        if not stands_for(text, canonical):
            raise ValueError(f"{self.title} stand for another molecule")
        return super().write(text, canonical)

    def read(self, text: str) -> str:
        import safe

        found = safe.decode(text, canonical=False, ignore_errors=True) if text else ""
        if found is None:
            raise ValueError("no SAFE that can be decoded")
        return found
