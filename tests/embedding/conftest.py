"""Real molecules, a tokenizer of their symbols, and a model with fresh weights for it."""

from pathlib import Path
from typing import List

import pytest
import torch

from ipu_chem.checkpoint import save_checkpoint
from ipu_chem.config import ModelConfig, RunConfig, to_dict
from ipu_chem.data.corpora import encode_smiles
from ipu_chem.data.files.table import read_smiles_file
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selfies.symbols import split_symbols
from ipu_chem.models.chemgpt import ChemGPT


@pytest.fixture(scope="session")
def smiles() -> List[str]:
    """300 molecules of one fragment each."""
    from rdkit import RDConfig

    lines = read_smiles_file(Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi")
    return [line.smiles for line in lines if "." not in line.smiles and 6 < len(line.smiles) < 50][:300]


@pytest.fixture(scope="session")
def tokenizer(smiles: List[str]) -> Tokenizer:
    return Tokenizer.build(dict.fromkeys(symbol for one in smiles for symbol in split_symbols(encode_smiles(one)[1])))


@pytest.fixture
def chemgpt(tokenizer: Tokenizer) -> ChemGPT:
    torch.manual_seed(0)
    return ChemGPT(vocab_size=tokenizer.vocab_size, max_positions=160, hidden_features=32, num_layers=2)


@pytest.fixture
def run_folder(chemgpt: ChemGPT, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A run that ended with the weights of ``chemgpt``, as `ipu-chem train` leaves it."""
    sizes = ModelConfig(name="chemgpt", hidden_features=32, num_layers=2)
    state = {
        "config": to_dict(RunConfig(model=sizes)),
        "tokenizer": tokenizer.to_dict(),
        "budget": {"tokens": chemgpt.max_positions},
    }
    weights = {name: value.clone() for name, value in chemgpt.state_dict().items()}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors", {"model": weights}, state)
    return tmp_path / "run"
