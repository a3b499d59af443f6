"""Predictions of a run that learned labels of molecules as text, for the SMILES of a file."""

from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from ipu_chem.backends import get_backend
from ipu_chem.data.corpora.memory import corpus_of, encode_in_memory
from ipu_chem.data.files.table import Failure, Line, column_names, find_columns, line_of, read_layout, read_rows
from ipu_chem.data.selfies.store import encode_known
from ipu_chem.prediction.tables import Predictions, Refused, check_strict
from ipu_chem.tasks.evaluation import predict_split
from ipu_chem.tasks.text_labels import TextPropertyTask, ended, heavy_atoms_alike
from ipu_chem.tasks.text_rows import fit_rows
from packing import Ragged
from packing.files import PathLike


def predict_text(
    task: TextPropertyTask,
    weights: Mapping[str, Any],
    source: PathLike,
    smiles_column: Optional[str],
    strict: bool,
    workers: Optional[int],
) -> Predictions:
    """Predict every molecule of a file of SMILES; see `ipu_chem.prediction.predict.predict_file`.

    Molecules longer than a row are truncated if the run did so with its own, else refused.
    """
    lines, names = _read(Path(source), smiles_column)
    chunks = encode_in_memory(lines, workers or 0)
    refused = [Refused(*failure) for chunk in chunks for failure in chunk.failures]
    found: Dict[str, Any] = {"lines": [], "names": [], "values": np.zeros((0, len(task.targets)))}
    if any(len(chunk.line) for chunk in chunks):
        store, tokenizer = corpus_of(chunks), task.tokenizer
        numbers = store.fields["line"].tolist()
        ids, kept, reasons = encode_known(tokenizer, store)
        row = min(task.budget["tokens"], task.chemgpt["max_positions"])
        if task.config.data.long != "truncate":
            over = ids.lengths > row
            for item, length in zip(kept[over].tolist(), ids.lengths[over].tolist()):
                reasons[item] = f"{length} symbols with begin and end do not fit the run's rows of {row}"
            ids, kept = ids.take(np.flatnonzero(~over)), kept[~over]
        refused += [Refused(numbers[item], names[numbers[item]], reason) for item, reason in reasons.items()]
        found["lines"] = [numbers[item] for item in kept.tolist()]
        found["names"] = [names[line] for line in found["lines"]]
        check_strict(sorted(refused), strict)
        if len(kept):
            standardized = _predict(task, weights, ended(fit_rows(ids, row, "truncate").ids, tokenizer.eos_id))
            atoms = heavy_atoms_alike(store.fields["heavy_atoms"][kept])
            found["values"] = task.labels.standardizer.invert(atoms, standardized)
    refused.sort()
    return Predictions(**found, refused=refused)


def _read(source: Path, smiles_column: Optional[str]) -> Tuple[List[Union[Line, Failure]], Dict[int, str]]:
    """Rows of a file, and what the molecule of each is called: its name, else the number of its line."""
    layout = read_layout(source, smiles_column)
    _, place = find_columns(column_names(source, layout), source, smiles_column)
    lines: List[Union[Line, Failure]] = []
    names: Dict[int, str] = {}
    for number, cells in read_rows(source, layout):
        lines.append(line_of(number, cells, layout))
        name = "" if isinstance(cells, Failure) or not 0 <= place < len(cells) else cells[place].strip()
        names[number] = name or str(number)
    if not lines:
        raise ValueError(f"{source} holds no SMILES.")
    return lines, names


def _predict(task: TextPropertyTask, weights: Mapping[str, Any], ids: Ragged) -> np.ndarray:
    """[K, T] float64, standardized."""
    config, loader = task.config, task.unlabelled_loader(ids)
    with closing(get_backend(config.accelerator, config.torch, config.ipu, config.precision)) as backend:
        backend.compile(task.model(), task.loss(), None, config.batching, loader.example(training=False))
        backend.load_state_dict({"model": dict(weights)})
        return predict_split(backend, loader)
