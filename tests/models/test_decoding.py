"""Decoding symbol by symbol equals the full forward pass, in every variant of the model."""

import pytest
import torch

from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.decoding import decode_step, larger_cache, new_cache

VARIANTS = {
    "published": {"scale_attention": False, "local_window": 4},
    "scaled": {},
    "rope": {"positions": "rope"},
    "rope-local-mup-untied": {"positions": "rope", "local_window": 3, "mup_base_width": 6, "tie_embeddings": False},
}
ROWS, SYMBOLS = 3, 14


def model_of(dtype, **options):
    torch.manual_seed(0)
    model = ChemGPT(vocab_size=11, max_positions=SYMBOLS, hidden_features=12, num_layers=4, num_heads=3, **options)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.to(dtype)


def decode(model, ids, cache):
    return torch.stack(
        [decode_step(model, ids[:, place], torch.full((len(ids),), place), cache) for place in range(ids.shape[1])],
        1,
    )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_equals_the_forward_pass(variant, dtype, tolerance):
    model = model_of(dtype, **VARIANTS[variant])
    generator = torch.Generator().manual_seed(1)
    cache = new_cache(model, ROWS)
    shapes = [tuple(part.shape) for part in (*cache.keys, *cache.values)]
    assert set(shapes) == {(ROWS, 3, SYMBOLS, 4)} and len(shapes) == 2 * 4
    for symbols in (SYMBOLS, 9):  # the second time what the first has left is in the cache
        ids = torch.randint(0, 11, (ROWS, symbols), generator=generator)
        expected = model(ids, torch.arange(symbols).expand(ROWS, -1))
        got = decode(model, ids, cache)
        assert not got.requires_grad and got.dtype == dtype
        torch.testing.assert_close(got, expected.detach(), rtol=tolerance, atol=tolerance)
    assert [tuple(part.shape) for part in (*cache.keys, *cache.values)] == shapes


def test_a_smaller_cache_gives_the_same():
    model = model_of(torch.float64)
    ids = torch.randint(0, 11, (ROWS, 6), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        decode(model, ids, new_cache(model, ROWS, 6)), decode(model, ids, new_cache(model, ROWS))
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_row_is_at_a_position_of_its_own(variant):
    """Row r begins r steps after the first, where another molecule has stood; the cache grows on the way."""
    model = model_of(torch.float64, **VARIANTS[variant])
    ids = torch.randint(0, 11, (ROWS, SYMBOLS), generator=torch.Generator().manual_seed(4))
    expected = model(ids, torch.arange(SYMBOLS).expand(ROWS, -1)).detach()
    cache = new_cache(model, ROWS, 8)
    for step in range(SYMBOLS):
        if step == 8:
            cache = larger_cache(cache, SYMBOLS)
        positions = (step - torch.arange(ROWS)) % SYMBOLS  # the last ones of another molecule first
        if step < 8:
            positions = positions.clamp(max=7)
        got = decode_step(model, ids[torch.arange(ROWS), positions], positions, cache)
        for row in range(min(step + 1, ROWS)):
            torch.testing.assert_close(got[row], expected[row, step - row], rtol=1e-10, atol=1e-10)


def test_rows_do_not_see_each_other():
    model = model_of(torch.float64)
    ids = torch.randint(0, 11, (2, 8), generator=torch.Generator().manual_seed(3))
    other = torch.stack([ids[0], (ids[1] + 1) % 11])
    first, second = (decode(model, rows, new_cache(model, 2)) for rows in (ids, other))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])


@pytest.mark.parametrize("rows, positions", [(0, 0), (2, SYMBOLS + 1), (2, -1)])
def test_caches_that_make_no_sense_are_refused(rows, positions):
    with pytest.raises(ValueError, match=f"1 or more rows and 1 to {SYMBOLS} positions"):
        new_cache(model_of(torch.float32), rows, positions)
