"""Turn molecules of a SMILES file into vectors of a trained language model, or into their log-likelihoods."""

from dataclasses import asdict, dataclass, fields
from typing import Optional

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_file, data_of
from ipu_chem.ranges import check_fields

_SHOWN = 10  # molecules without a vector; the output lists all


@dataclass(frozen=True)
class Options:
    """Molecules, model and form of their features.

    Attributes:
        output: .npy (and an .index.csv beside it), .csv or .parquet.
        pooling: mean, max or sum over tokens, last (token) or eos (the end).
        special_tokens: count the marks of begin and end too.
        likelihoods: log-likelihoods in nats in place of vectors.
        tokens: of a packed sequence; grows with the molecules if not given, up to the model's.
        long: molecules that are longer: error, drop or truncate.
        notation: smiles, or texts as the model reads them: selfies, or text for any representation.
        stereo: keep stereochemistry.
        fragments: of molecules of several: keep, largest or error.
        unknown: symbols that the vocabulary lacks: error (no vector) or map (read as the unknown one).
        smiles_column: column of a table that holds the molecules, if it is not called so.
        delimiter: between the cells of a table: comma, semicolon, tab or another character; found if not given.
        encoding: of the file, such as cp1252; found if not given.
        micro_batch_size: packed sequences that are computed at once.
        workers: processes that translate SMILES; all cores if not given.
        accelerator: auto, cpu, cuda or ipu.
    """

    run: str = positional("folder of a trained language model, a run's or Hugging Face's")
    input: str = positional(".smi, .csv, .tsv or .txt file, also in .gz or .zip")
    output: str = "embeddings.npy"
    pooling: str = "mean"
    special_tokens: bool = False
    likelihoods: bool = False
    tokens: Optional[int] = None
    long: str = "error"
    notation: str = "smiles"
    stereo: bool = True
    fragments: str = "keep"
    unknown: str = "error"
    smiles_column: Optional[str] = None
    delimiter: str = ""
    encoding: str = ""
    micro_batch_size: int = 8
    workers: Optional[int] = None
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, micro_batch_size="from 1 to 1,000,000", workers="from 1 to 1,024")


def run(options: Options) -> int:
    """Embed the molecules and say which could not be."""
    from ipu_chem.embedding import Embedder, EmbeddingOptions, embed_file
    from ipu_chem.embedding.files import check_output
    from ipu_chem.tasks.language_model import load_language_model

    check_output(options.output)
    check_file("--output", options.output, inputs=[options.input, *data_of([options.run])])
    names = {one.name for one in fields(EmbeddingOptions)}
    chosen = EmbeddingOptions(**{name: value for name, value in asdict(options).items() if name in names})
    language = load_language_model(options.run)
    with Embedder(language.model, language.tokenizer, chosen) as embedder:
        table = {"delimiter": options.delimiter, "encoding": options.encoding}
        summary = embed_file(embedder, options.input, options.output, options.smiles_column, **table)
        features = embedder.features
    for failure in summary.failures[:_SHOWN]:
        print(f"line {failure.line} ({failure.smiles}): {failure.reason}")
    if summary.failed > _SHOWN:
        print(f"... and {summary.failed - _SHOWN:,} more, listed in the output")
    done = "with their log-likelihood" if options.likelihoods else f"embedded in {features} numbers each"
    long = f"; too long: {summary.dropped:,} of those, {summary.truncated:,} truncated"
    print(
        f"{summary.embedded:,} molecules {done}, {summary.failed:,} without"
        f"{long if summary.dropped or summary.truncated else ''}: {options.output}"
    )
    return 0 if summary.embedded else 1
