"""One molecule, and a chunk of lines, from SMILES to canonical SMILES and the symbols of its SELFIES.

M. Krenn et al., "Self-referencing embedded strings (SELFIES): A 100% robust molecular string representation", Mach.
Learn.: Sci. Technol. 1, 045024 (2020). RDKit writes the canonical SMILES, selfies (2.x, its default constraints)
encodes that, and the result is kept only if it stands for the same molecule: what is decoded has the same canonical
SMILES. Iodine with three bonds and ferrocene, for which SELFIES have no room, are failures.
"""

import hashlib
import json
import re
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple, Union

import numpy as np

from ipu_chem.data.files.table import Failure, Line, smiles_doubt
from ipu_chem.data.fragments import ERROR, KEEP, SEVERAL, exceeds, largest_fragment, without_maps
from ipu_chem.data.molecule import encode_texts
from ipu_chem.data.selfies.symbols import DOT, split_symbols
from packing.arrays import open_arrays
from packing.files import atomic_file
from packing.types import Ragged, offsets_of

MOST_ATOMS = 1000  # of a fragment, without hydrogens; some RDKits take two seconds for as many
_MOST_SYMBOLS = 2**16
OTHER = "SELFIES stand for another molecule"
# Molecules without stereochemistry, of atoms and charges that organic chemistry is made of. Where their bonds keep to
# the constraints of selfies, which its strict encoder tests, the decoder makes the same graph bond by bond, and no
# choice of double bonds in a ring changes what RDKit takes for aromatic. All others are decoded.
_PLAIN = re.compile(
    r"(?:[BCNOPSFIbcnops0-9()=#%.-]|Cl|Br|\[(?:nH|n\+|N\+|NH\+|NH2\+|NH3\+|O-|S-|N-|Na\+|K\+|Cl-|Br-)\])+"
)


class Manner(NamedTuple):
    """Options of what a SMILES is encoded as.

    Attributes:
        stereo: keep what it says about stereochemistry; isotopes stay in any case.
        fragments: "keep" all, "largest" of them by heavy atoms, or "error" for molecules of several.
    """

    stereo: bool = True
    fragments: str = KEEP


USUAL = Manner()


class Chunk(NamedTuple):
    """The n molecules of some lines, and what failed.

    Attributes:
        table: the symbols they have, in the order met.
        symbols: n items, uint16 places in ``table``.
        smiles: n items, canonical SMILES as UTF-8 bytes.
        heavy_atoms: [n] uint16.
        line: [n] int64, number of the line.
        split: [n] uint8, index in `lines.SPLITS`.
        digest: [n, 2] uint64, equal where the canonical SMILES are.
        cut: [n] bool, molecules of which only the largest fragment is there.
        failures: lines without a molecule.
    """

    table: List[str]
    symbols: Ragged
    smiles: Ragged
    heavy_atoms: np.ndarray
    line: np.ndarray
    split: np.ndarray
    digest: np.ndarray
    cut: np.ndarray
    failures: List[Failure]


class _NoMolecule(ValueError):
    """A line without a molecule; the reason alone."""


def encode_smiles(smiles: str, stereo: bool = True) -> Tuple[str, str]:
    """Canonical SMILES and SELFIES (2.x) of one molecule.

    Args:
        smiles: of one molecule, of one or several fragments.
        stereo: keep what it says about stereochemistry; isotopes stay in any case.

    Raises:
        ValueError: names the SMILES and why it has no SELFIES; also if selfies or rdkit is not installed.
    """
    libraries()
    from rdkit import rdBase

    try:
        with rdBase.BlockLogs():
            canonical, symbols, *_ = _encode(smiles, Manner(stereo))
    except _NoMolecule as error:
        raise ValueError(f"{smiles!r}: {error}.") from None
    return canonical, "".join(symbols)


def encode_lines(lines: Iterable[Union[Line, Failure]], manner: Manner) -> Chunk:
    """Encode lines that are parsed already; failures among them are passed on."""
    from rdkit import rdBase

    texts: List[str] = []
    table: Dict[str, int] = {}
    symbols: List[List[int]] = []
    molecules: List[Tuple[int, int, int, int]] = []  # heavy atoms, line, split, cut
    failures: List[Failure] = []
    with rdBase.BlockLogs():
        for line in lines:
            if isinstance(line, Failure):
                failures.append(line)
                continue
            try:
                canonical, found, heavy_atoms, cut = _encode(line.smiles, manner)
            except _NoMolecule as error:
                failures.append(Failure(line.line, line.smiles, str(error), line.name))
                continue
            symbols.append([table.setdefault(symbol, len(table)) for symbol in found])
            texts.append(canonical)
            molecules.append((heavy_atoms, line.line, line.split, cut))
    columns = np.array(molecules, np.int64).reshape(-1, 4)
    digests = b"".join(hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest() for text in texts)
    flat = np.array([index for molecule in symbols for index in molecule], np.uint16)
    return Chunk(
        list(table),
        Ragged(flat, offsets_of([len(one) for one in symbols])),
        Ragged(*encode_texts(texts)),
        columns[:, 0].astype(np.uint16),
        columns[:, 1],
        columns[:, 2].astype(np.uint8),
        np.frombuffer(digests, np.uint64).reshape(-1, 2),
        columns[:, 3].astype(bool),
        failures,
    )


def save_chunk(path: Path, chunk: Chunk) -> None:
    """Write a part file, atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    arrays: Dict[str, Any] = {name: value for name, value in chunk._asdict().items() if isinstance(value, np.ndarray)}
    for name, ragged in (("symbols", chunk.symbols), ("smiles", chunk.smiles)):
        arrays[name], arrays[f"{name}.offsets"] = ragged.values, ragged.offsets
    texts = json.dumps([chunk.table, chunk.failures])
    arrays["texts"] = np.frombuffer(texts.encode("utf-8"), np.uint8)
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def load_chunk(path: Path) -> Chunk:
    """Read a part file.

    Raises:
        ValueError: it is damaged; it is removed, so that the next build encodes its lines again.
    """
    with _part_file(path) as arrays:
        table, failures = json.loads(arrays["texts"].tobytes().decode("utf-8"))
        ragged = {name: Ragged(arrays[name], arrays[f"{name}.offsets"]) for name in ("symbols", "smiles")}
        plain = {name: arrays[name] for name in ("heavy_atoms", "line", "split", "digest", "cut")}
        return Chunk(table=table, failures=[Failure(*one) for one in failures], **ragged, **plain)


def load_digests(path: Path) -> np.ndarray:
    """The digests alone of a part file, [n, 2] uint64; raises as `load_chunk`."""
    with _part_file(path) as arrays:
        return arrays["digest"]


@lru_cache(maxsize=None)
def libraries() -> Dict[str, str]:
    """Versions of the libraries that decide what a SMILES is encoded as.

    Raises:
        ValueError: one is not installed.
    """
    from importlib.metadata import version

    try:
        import rdkit
        import selfies  # noqa: F401
    except ImportError as error:
        raise ValueError(f"molecules are encoded by RDKit and selfies: pip install {error.name}.") from None
    # selfies.__version__ is behind the release it comes with.
    return {"rdkit": rdkit.__version__, "selfies": version("selfies")}


@contextmanager
def _part_file(path: Path) -> Iterator[Any]:
    """An open part file; one that turns out to be damaged is removed."""
    try:
        with open_arrays(path) as arrays:
            yield arrays
    except (ValueError, KeyError, TypeError) as error:
        path.unlink()
        raise ValueError(
            f"{path} is damaged ({error}) and was removed; call again, only its lines are encoded anew."
        ) from None


def _encode(smiles: str, manner: Manner) -> Tuple[str, List[str], int, bool]:
    """(canonical SMILES, symbols of the SELFIES, number of heavy atoms, fragments are left out).

    Raises:
        _NoMolecule: the reason alone.
    """
    from rdkit import Chem

    doubt = smiles_doubt(smiles)
    if doubt:
        raise _NoMolecule(doubt)
    if exceeds(smiles, MOST_ATOMS):
        raise _NoMolecule(f"more than {MOST_ATOMS:,} atoms")
    cut = False
    try:
        mol = Chem.MolFromSmiles(without_maps(smiles))
        if mol is None:
            raise _NoMolecule("RDKit cannot parse the SMILES")
        if not manner.stereo:
            Chem.RemoveStereochemistry(mol)
        if manner.fragments != KEEP and DOT in smiles:
            whole, (mol, count) = mol, largest_fragment(mol)
            if manner.fragments == ERROR and count > 1:
                raise _NoMolecule(f"{SEVERAL} ({count})")
            cut = mol is not whole
        canonical = Chem.MolToSmiles(mol)
    except RuntimeError:  # an invariant of RDKit is violated
        raise _NoMolecule("RDKit cannot parse the SMILES") from None
    if mol.GetNumAtoms() == 0:
        raise _NoMolecule("no atoms")
    return canonical, _symbols(canonical), mol.GetNumHeavyAtoms(), cut


def _symbols(canonical: str) -> List[str]:
    """Symbols of the SELFIES of a canonical SMILES.

    Raises:
        _NoMolecule: there are none, or they stand for another molecule.
    """
    import selfies

    if _PLAIN.fullmatch(canonical):
        try:
            return _decodable(split_symbols(selfies.encoder(canonical)))
        except (selfies.EncoderError, RecursionError):
            pass  # beyond the constraints
    try:
        text = selfies.encoder(canonical, strict=False)
        symbols = split_symbols(text)
    except MemoryError:
        raise
    except Exception:  # also IndexError, KeyError or RecursionError for what its parser does not foresee
        raise _NoMolecule("selfies cannot encode the molecule") from None
    _decodable(symbols)
    if not _stands_for(text, canonical):
        raise _NoMolecule(OTHER)
    return symbols


def _stands_for(text: str, canonical: str) -> bool:
    """Test if SELFIES are decoded to the molecule of a canonical SMILES."""
    import selfies
    from rdkit import Chem

    try:
        mol = Chem.MolFromSmiles(selfies.decoder(text))
        # Of a few molecules RDKit's canonical SMILES is not its own.
        return mol is not None and Chem.MolToSmiles(mol) in (canonical, Chem.CanonSmiles(canonical))
    except MemoryError:
        raise
    except Exception:  # as in `_symbols`
        return False


def _decodable(symbols: List[str]) -> List[str]:
    """The same symbols, if the decoder takes all of them."""
    for symbol in dict.fromkeys(symbols):  # in their order: of several the first is named, always
        if not _decodes(symbol):
            raise _NoMolecule(f"selfies cannot decode its own symbol {symbol}")
    return symbols


@lru_cache(maxsize=_MOST_SYMBOLS)
def _decodes(symbol: str) -> bool:
    """Test if the decoder takes a symbol. It judges each for itself, so a text of symbols it takes is taken, too."""
    import selfies

    if symbol == DOT:
        return True
    try:
        selfies.decoder(symbol)
    except selfies.DecoderError:
        return False
    return True
