"""A few thousand SMILES as a corpus store in memory, for generated molecules and requests for embeddings."""

from functools import partial
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.corpora.assemble import assemble
from ipu_chem.data.corpora.encode import USUAL, Chunk, Manner, encode_lines, libraries
from ipu_chem.data.files.table import CHUNK, Failure, Line
from ipu_chem.data.molecule import encode_texts
from ipu_chem.parallel import in_parallel
from packing.store import Store


def corpus_in_memory(
    smiles: Sequence[str], names: Optional[Sequence[str]] = None, workers: int = 1, manner: Manner = USUAL
) -> Tuple[Store, List[Failure]]:
    """Encode SMILES; every one is an item of the store or a failure, duplicates too.

    Args:
        smiles: I texts, one molecule each.
        names: I texts, kept as the field "name".
        workers: processes for more than 1,000 SMILES; 0 takes all cores.
        manner: see `Manner`.

    Returns:
        (store, failures). "line" [items] int64 of the store, and of a failure, is the place in ``smiles``, from 1.

    Raises:
        ValueError: none of them can be encoded, or there are more or fewer names.
    """
    if isinstance(smiles, str):
        raise ValueError("corpus_in_memory takes a list of SMILES; encode_smiles takes one.")
    if names is not None and len(names) != len(smiles):
        raise ValueError(f"there are {len(names)} names for {len(smiles)} SMILES.")
    chunks = encode_in_memory([_line(number, text) for number, text in enumerate(smiles, 1)], workers, manner)
    failures = [failure for chunk in chunks for failure in chunk.failures]
    store = corpus_of(chunks, manner)
    if names is None:
        return store, failures
    values, offsets = encode_texts([str(names[line - 1]) for line in store.fields["line"]])
    return store.join(Store({"name": offsets}, {"name": values}, {"name": "name"})), failures


def encode_in_memory(lines: Sequence[Union[Line, Failure]], workers: int = 1, manner: Manner = USUAL) -> List[Chunk]:
    """Encode lines in parallel processes; failures among them are passed on."""
    libraries(manner.representation)
    blocks = [lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK)]
    return list(in_parallel(partial(encode_lines, manner=manner), blocks, workers or None, chunk=1, few=2))


def corpus_of(chunks: Sequence[Chunk], manner: Manner = USUAL) -> Store:
    """All molecules of some chunks, duplicates too.

    Raises:
        ValueError: there is none.
    """
    store = assemble(chunks, np.ones(sum(len(chunk.line) for chunk in chunks), bool))
    store.info.update(name="memory", source="a list of SMILES", licence="the user's own", citation=[])
    store.info.update(versions=libraries(manner.representation), options=manner._asdict())
    store.info["representation"] = manner.representation
    return store


def _line(number: int, text: Any) -> Union[Line, Failure]:
    if isinstance(text, str):
        return Line(number, text.strip())
    return Failure(number, str(text), f"no text but {type(text).__name__}")
