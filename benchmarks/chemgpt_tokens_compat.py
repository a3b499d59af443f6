"""Does `ChemGPTTokenizer` give what the published tokenizer gives for SELFIES 1.0.4? Counted on the test set of MOSES.

    pip install --no-deps --target FOLDER selfies==1.0.4
    python benchmarks/chemgpt_tokens_compat.py --selfies1 FOLDER [--quick]

The installed selfies 2.x and selfies 1.0.4 write every SMILES. Ours gets the 2.x strings, the published tokenizer.json
the 1.0.4 strings. Where both versions have chosen the same Kekulé structure, ids must be equal. Where they have not,
which is theirs to decide and not a tokenizer's, the strings must still mean the same molecule; RDKit judges. No symbol
that the published vocabulary has in its 1.0.4 spelling may be broken into pieces. For comparison, what the published
tokenizer makes of 2.x strings. About five minutes on one core.
"""

import argparse
import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import List, Optional, Sequence

from tqdm import tqdm

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import Goals, arguments, machine_line, print_table
from benchmarks.selfies_tokens import published_spelling, read_smiles
from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from ipu_chem.data.selfies.dialect import to_version_2
from ipu_chem.data.selfies.symbols import split_symbols

_AT_ONCE = 4096


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run everything; the exit status is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--selfies1", type=Path)
    own, rest = parser.parse_known_args(argv)
    options = arguments(__doc__, rest)
    if own.selfies1 is None:
        raise SystemExit("name the folder of selfies 1.0.4 with --selfies1; see --help for how to get it.")
    old = selfies_1(own.selfies1)
    import selfies
    import tokenizers
    from rdkit import Chem

    # The files of a selfies do not always know their version.
    print(machine_line("int16 ids", "tokenizers", "rdkit"), "| selfies", version("selfies"))
    smiles = read_smiles(options.shared, "moses_test.csv.gz", 3000 if options.quick else None)
    folder = options.shared / "data" / "chemgpt_tokenizer" / "ChemGPT-4.7M"
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = ChemGPTTokenizer.from_published(folder, unknown="map")

    symbols = with_outside = pieces = agree = equal = same_molecule = tokens_of_2 = broken_by_2 = 0
    for start in tqdm(range(0, len(smiles), _AT_ONCE), unit="block", disable=None):
        block = smiles[start : start + _AT_ONCE]
        new = [selfies.encoder(one) for one in block]
        first = [old.encoder(one) for one in block]
        spelled = [published_spelling(one) for one in new]
        found = ours.encode_many(new)
        symbols += len(found.values) - 2 * len(block)
        of_2 = [len(ids) for ids in _published(theirs, new)]
        tokens_of_2 += sum(of_2) - 2 * len(block)
        broken_by_2 += sum(length != wanted for length, wanted in zip(of_2, found.lengths.tolist()))
        for item, (ids, translated) in enumerate(zip(_published(theirs, first), _published(theirs, spelled))):
            if ours.unk_id in found[item]:
                with_outside += 1
                continue
            pieces += len(translated) - len(found[item])
            if spelled[item] == first[item]:
                agree += 1
                equal += found[item].tolist() == ids
            else:
                modern = "".join(map(to_version_2, split_symbols(first[item])))
                meant = {Chem.CanonSmiles(selfies.decoder(text)) for text in (modern, new[item])}
                same_molecule += meant == {Chem.CanonSmiles(block[item])}

    count, judged = len(smiles), len(smiles) - with_outside
    rows = [
        ["molecules", f"{count:,}"],
        ["SELFIES symbols", f"{symbols:,}"],
        ["symbols outside the published vocabulary", f"{ours.unknown_count:,} in {with_outside:,} molecules"],
        ["pieces of symbols, in the others", f"{pieces:,}"],
        ["2.x strings translated to what 1.0.4 writes", f"{agree:,} ({agree / judged:.2%})"],
        ["of these, with the ids of the published tokenizer", f"{equal:,}"],
        ["another Kekulé structure of the same molecule", f"{same_molecule:,} of {judged - agree:,}"],
        ["2.x strings broken by the published tokenizer", f"{broken_by_2:,} ({broken_by_2 / count:.2%})"],
        ["its tokens a symbol of 2.x", f"{tokens_of_2 / symbols:.3f}"],
    ]
    print_table("Test set of MOSES", ["figure", "value"], rows)
    goals = Goals()
    goals.at_most("pieces of symbols that the vocabulary has", pieces, 0)
    goals.at_most("molecules of the same Kekulé structure with other ids", agree - equal, 0)
    goals.at_most("molecules that mean something else", judged - agree - same_molecule, 0)
    return goals.finish(not options.no_goals)


def selfies_1(folder: Path) -> ModuleType:
    """selfies 1.0.4 from a folder, beside the installed version: both modules are called selfies."""
    if not (folder / "selfies").is_dir():
        raise SystemExit(f"{folder} holds no package selfies; see --help for how to get it.")
    installed = _forget_selfies()
    sys.path.insert(0, str(folder))
    try:
        old = importlib.import_module("selfies")
    finally:
        sys.path.pop(0)
        _forget_selfies()
        sys.modules.update(installed)
    if not old.__version__.startswith("1.0."):  # the files of 1.0.4 call themselves 1.0.3
        raise SystemExit(f"{folder} holds selfies {old.__version__}, not 1.0.4; see --help for how to get it.")
    return old


def _forget_selfies() -> dict:
    names = [name for name in sys.modules if name.split(".")[0] == "selfies"]
    return {name: sys.modules.pop(name) for name in names}


def _published(theirs, texts: List[str]) -> List[List[int]]:
    return [encoding.ids for encoding in theirs.encode_batch(texts)]


if __name__ == "__main__":
    sys.exit(main())
