"""The command `embed`: molecules of a file as vectors from a trained language model.

On data's way: run folder, file of SMILES -> Embedder -> .npy, .csv or .parquet.
"""

from typing import Any

_SHOWN = 10  # molecules without a vector; the output lists all


def add_arguments(parser: Any) -> None:
    """Arguments of `embed`."""
    parser.add_argument("run", help="folder of a trained language model, a run's or Hugging Face's")
    parser.add_argument("input", help=".smi, .csv, .tsv or .txt file, also in .gz or .zip")
    parser.add_argument(
        "--output", type=str, default="embeddings.npy", help=".npy (and an .index.csv beside it), .csv or .parquet"
    )
    parser.add_argument(
        "--pooling", type=str, default="mean", help="mean, max or sum over symbols, last (symbol) or eos (the end)"
    )
    parser.add_argument("--special_tokens", type=bool, default=False, help="count the marks of begin and end too")
    parser.add_argument(
        "--tokens", type=int, default=None, help="of a row; grows with the molecules if not given, up to the model's"
    )
    parser.add_argument("--long", type=str, default="error", help="molecules that are longer: error, drop or truncate")
    parser.add_argument("--notation", type=str, default="smiles", help="smiles or selfies")
    parser.add_argument("--stereo", type=bool, default=True, help="keep what SMILES say about stereochemistry")
    parser.add_argument("--smiles_column", type=str, default=None, help="column of a table that holds the molecules")
    parser.add_argument("--micro_batch_size", type=int, default=8, help="rows that are computed at once")
    parser.add_argument("--workers", type=int, default=None, help="processes that translate SMILES; None: all cores")
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, cuda or ipu")


def run(arguments: Any) -> int:
    """Embed the molecules and say which could not be."""
    from dataclasses import fields

    from ipu_chem.embedding import Embedder, EmbeddingOptions, embed_file
    from ipu_chem.embedding.files import check_output
    from ipu_chem.language_model import load_language_model

    check_output(arguments.output)
    chosen = {option.name for option in fields(EmbeddingOptions)} & set(vars(arguments))
    options = EmbeddingOptions(**{name: getattr(arguments, name) for name in chosen})
    language = load_language_model(arguments.run)
    with Embedder(language.model, language.tokenizer, options) as embedder:
        summary = embed_file(embedder, arguments.input, arguments.output, arguments.smiles_column)
        features = embedder.features
    for failure in summary.failures[:_SHOWN]:
        print(f"line {failure.line} ({failure.smiles}): {failure.reason}")
    if summary.failed > _SHOWN:
        print(f"... and {summary.failed - _SHOWN:,} more, listed in the output")
    long = f"; too long: {summary.dropped:,} of those, {summary.truncated:,} truncated"
    print(
        f"{summary.embedded:,} molecules embedded in {features} numbers each, {summary.failed:,} without"
        f"{long if summary.dropped or summary.truncated else ''}: {arguments.output}"
    )
    return 0 if summary.embedded else 1
