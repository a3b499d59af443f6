"""Prepare a data set and its edges, and print what is in it."""

from dataclasses import dataclass, fields

from ipu_chem.commands.renamed import renamed
from ipu_chem.config import DataConfig
from ipu_chem.executors import PROCESSES, check_executor
from ipu_chem.ranges import CUTOFF, check_fields

SECTIONS = {"": DataConfig}


@dataclass(frozen=True)
class Options:
    """Preparation of a data set.

    Attributes:
        cutoff: longest edge, in Å.
        text: name=file: SMILES as text, for chemgpt.
        executor: engine that encodes text: processes of this machine; submitit, jobs of Slurm; dask, or dask:tcp://HOST:8786;
            module:factory, which returns an executor of Python. Workers elsewhere need the cache folder.
        check_forces: compare forces with the energies of near frames: sign and units.
    """

    cutoff: float = 5.0
    text: bool = False
    executor: str = PROCESSES
    check_forces: bool = False

    def __post_init__(self) -> None:
        check_fields(self, cutoff=CUTOFF)
        check_executor(self.executor)


def run(options: Options, data: DataConfig) -> int:
    """Prepare a data set and print its contents; complaints name its options as this command has them."""
    with renamed({one.name: one.name for one in fields(data)}):
        return _run(options, data)


def _run(options: Options, data: DataConfig) -> int:
    import numpy as np

    from ipu_chem.data.corpora import CORPORA, describe_corpus, load_corpus
    from ipu_chem.data.force_check import check_energy_forces, report
    from ipu_chem.metrics import is_binary
    from ipu_chem.tasks.early import check_data
    from ipu_chem.tasks.graphs import load_store

    check_data(data)
    if options.text or (data.name in CORPORA and data.name != "file"):
        path = getattr(data, "path", "")
        corpus = load_corpus(
            data.name, path or None, data.cache or None, executor=options.executor, **data.corpus_options()
        )
        print("\n".join(describe_corpus(corpus)))
        return 0
    if options.executor != PROCESSES:
        raise ValueError(f"executor={options.executor} encodes text: add --text true, or leave it out.")
    store = load_store(data, options.cutoff)
    info = store.info
    sizes = store.sizes()
    print(f"name         {info.get('name', '')}")
    print(f"level        {info.get('level', '')}")
    print(f"source       {info.get('source', '')}")
    print(f"licence      {info.get('licence', '')}")
    print(f"molecules    {len(store):,}")
    print(f"left out     {info.get('failures', {}).get('count', 0):,}")
    for reason, count in info.get("failures", {}).get("by_reason", {}).items():
        print(f"             {count:,} {reason}")
    for note in info.get("notes", []):
        print(f"note         {note}")
    for axis in ("nodes", "edges"):
        print(f"{axis:13}{sizes[axis].mean():.1f} per molecule, {sizes[axis].min()} to {sizes[axis].max()}")
    for column, target in enumerate(info["targets"]):
        values = np.asarray(store.fields["y"])[:, column]
        mean, spread = np.nanmean(values), np.nanstd(values)
        what = f"{mean:.2%} are 1" if is_binary(target) else f"{mean:.6g} +- {spread:.4g} {target['unit']}"
        print(f"target       {target['name']}: {what}")
    if "forces" in store:
        forces = store.fields["forces"]
        size = float(np.sqrt(np.nanmean(np.square(forces, dtype=np.float64))))
        print(f"forces       of {info['forces_of']}, {size:.4g} (root mean square)")
    print(f"fingerprint  {store.fingerprint()}")
    if options.check_forces:
        unit = next((target["unit"] for target in info["targets"] if target["name"] == info.get("forces_of")), "")
        print("\n".join(report(check_energy_forces(store), unit)))
    return 0
