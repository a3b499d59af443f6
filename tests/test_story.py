"""The files that train.py names as the story of a run are those that a run goes through on its way to the loss."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import ipu_chem.train
from ipu_chem.cli import main
from ipu_chem.losses import mse

ROOT = Path(__file__).resolve().parents[1]
SMILES = "C N O C#C C#N C=O CC CO CC#C CC#N CC=O NC=O CCC CCO C1CC1 C1CO1 CC(C)=O c1ccccc1 CC(=O)N FC(F)F".split()


def write_qm9(folder):
    """Raw files as QM9 has them, with a few molecules and random labels."""
    chem, geometry = pytest.importorskip("rdkit.Chem"), pytest.importorskip("rdkit.Chem.rdDistGeom")
    labels = np.random.default_rng(0).normal(0, 100, (len(SMILES), 19))
    columns = "mol_id A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom"
    rows, records = [columns.replace(" ", ",")], []
    for index, smiles in enumerate(SMILES):
        molecule = chem.AddHs(chem.MolFromSmiles(smiles))
        geometry.EmbedMolecule(molecule, randomSeed=1)
        molecule.SetProp("_Name", f"gdb_{index + 1}")
        records.append(chem.MolToMolBlock(molecule) + "$$$$\n")
        rows.append(",".join([f"gdb_{index + 1}", *(f"{value:.6f}" for value in labels[index])]))
    (folder / "gdb9.sdf").write_text("".join(records))
    (folder / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    head = "\n\nList of molecules\n\n\n\n====\n#   Index   GDB17 SMILES\n====\n"
    (folder / "uncharacterized.txt").write_text(head + "       3    N    N    6.036217\n====\n")


def files_called(run):
    """Files of ours whose functions a run calls until it computes its first loss."""
    found = set()

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_flags & 1:  # a function, not the body of a module or class
            found.add(code.co_filename)
            if code is mse.__code__:
                sys.setprofile(None)

    sys.setprofile(note)
    try:
        assert run() == 0 and sys.getprofile() is None
    finally:
        sys.setprofile(None)
    return {Path(name).relative_to(ROOT).as_posix() for name in found if ROOT in Path(name).parents}


def test_the_story_is_what_a_run_goes_through(tmp_path):
    write_qm9(tmp_path)
    words = ["train", "--data.name", "qm9", "--data.path", str(tmp_path), "--data.cache", str(tmp_path / "cache")]
    words += ["--data.target", "u0", "--model.name", "schnet", "--training.epochs", "1", "--training.prefetch", "0"]
    words += ["--training.report", "false", "--accelerator", "cpu", "--out", str(tmp_path / "run")]
    story = re.findall(r"^ +((?:ipu_chem|packing)/\S+\.py) +\S", ipu_chem.train.__doc__, re.M)
    assert 5 < len(story) <= 15 and story[-1] == "ipu_chem/losses.py"
    assert set(story) <= files_called(lambda: main(words))
