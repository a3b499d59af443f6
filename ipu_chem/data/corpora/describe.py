"""Summary of a corpus store, in a few lines."""

from typing import List

import numpy as np

from ipu_chem.data.molecule import decode_text
from packing.store import Store

_REASONS = 5
_SAMPLE = 3


def describe_corpus(store: Store) -> List[str]:
    """Size, failures by reason, duplicates, symbols, lengths, and a few molecules, one line each.

    Args:
        store: from `load_corpus` or `corpus_in_memory`.
    """
    info = store.info
    failures, counts = info["failures"], info["symbol_counts"]
    tokens, heavy = store.sizes()["tokens"], np.asarray(store.fields["heavy_atoms"])
    lines = [
        f"molecules: {len(store):,} of {info['lines']:,} lines of {info['source']}",
        f"duplicates left out: {info['duplicates']:,}",
        f"failures: {failures['count']:,}",
    ]
    reasons = list(failures["by_reason"].items())
    lines += [f"  {count:,} {reason}" for reason, count in reasons[:_REASONS]]
    if len(reasons) > _REASONS:
        others = sum(count for _, count in reasons[_REASONS:])
        lines.append(f"  {others:,} for {len(reasons) - _REASONS} other reasons")
    common = ", ".join(f"{symbol} {100 * n / sum(counts):.1f}%" for symbol, n in zip(info["symbols"][:5], counts))
    rare = sum(count < 10 for count in counts)
    lines.append(f"symbols: {len(counts)} different ({rare} of them fewer than 10 times), {common}")
    lines.append(f"tokens of a molecule: {_spread(tokens)}, {int(tokens.sum()):,} in all, without BOS and EOS")
    lines.append(f"heavy atoms: {_spread(heavy)}")
    for item in np.linspace(0, len(store) - 1, min(_SAMPLE, len(store))).astype(int).tolist():
        symbols = "".join(info["symbols"][index] for index in store.ragged("symbols")[item])
        lines.append(f"sample: {decode_text(store, 'smiles', item)}  {symbols}")
    return lines


def _spread(values: np.ndarray) -> str:
    median, high = np.percentile(values, [50, 99])
    return f"mean {values.mean():.1f}, median {median:g}, 99% up to {high:g}, at most {values.max()}"
