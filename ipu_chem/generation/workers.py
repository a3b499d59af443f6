"""One function over many molecules in parallel processes, in order."""

from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable, Iterator, Optional, Sequence

from tqdm import tqdm

from ipu_chem.data.smiles import core_count

# Below this many molecules, starting processes costs more than it gains.
_FEW = 256
_CHUNK = 64


def map_in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], workers: Optional[int] = None, title: Optional[str] = None
) -> Iterator[Any]:
    """Results in the order of the items, whatever the number of processes.

    Args:
        function: of one item, at the top level of a module.
        items: what it is called with.
        workers: processes; None takes the cores this process may use.
        title: of a bar on stderr; None shows none.
    """
    if workers is None:
        workers = core_count()
    with tqdm(total=len(items), desc=title, unit="molecule", disable=title is None, mininterval=0.5) as bar:
        if workers <= 1 or len(items) < _FEW:
            for item in items:
                yield function(item)
                bar.update()
            return
        with ProcessPoolExecutor(workers) as pool:
            for result in pool.map(function, items, chunksize=_CHUNK):
                yield result
                bar.update()
