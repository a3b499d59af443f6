"""What a language model gives a device in training and in evaluation."""

import torch

from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.next_token import NextToken


def test_evaluation_gives_the_log_likelihood_of_the_next_symbol():
    torch.manual_seed(0)
    model = NextToken(ChemGPT(vocab_size=7, max_positions=9, hidden_features=32, num_layers=1)).double()
    ids = torch.randint(0, 7, (3, 9))
    positions = torch.arange(9).expand(3, 9)
    logits = model(ids, positions)
    assert logits.shape == (3, 9, 7)
    found = model.eval()(ids, positions)
    expected = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    assert found.shape == (3, 9)
    torch.testing.assert_close(found[:, :-1], expected)
    assert set(model.state_dict()) == set(model.model.state_dict()), "checkpoints hold the model's own names"
