"""Reading whole molecules in native kernels equals the layers of the model, whatever lies beside them in a pack."""

import pytest
import torch

from ipu_chem.backends.options import Batching
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels import native
from ipu_chem.backends.pytorch.kernels.decoding.reading import Reader, use_reading_kernels
from ipu_chem.models.decoder_layers import through_layers
from ipu_chem.models.pooling import PooledChemGPT, ScoredChemGPT
from tests.backends.pytorch.kernels.test_decoding_kernels import LONGEST, VARIANTS, VOCABULARY, model_of

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler here")

LENGTHS = [[17, 1, 30], [LONGEST], [3, 2, 1, 40, 20]]


def packs_of(seed=1):
    """Ids and places [3, 80] of molecules of `LENGTHS`; the rest is padding."""
    ids = torch.randint(0, VOCABULARY, (len(LENGTHS), LONGEST), generator=torch.Generator().manual_seed(seed))
    places = torch.zeros(ids.shape, dtype=torch.int64)
    for pack, lengths in enumerate(LENGTHS):
        counted = torch.cat([torch.arange(length) for length in lengths])
        places[pack, : len(counted)] = counted
    return ids, places


def ends_of():
    """[3, 5] tokens up to the end of each molecule."""
    ends = [torch.tensor(lengths).cumsum(0) for lengths in LENGTHS]
    return torch.stack([torch.cat([one, one[-1:].expand(5 - len(one))]) for one in ends])


def both(model, ids, places):
    with torch.no_grad():
        read = Reader(model.embedding, model.layers)(ids, places)
        return read, through_layers(model.embedding, model.layers, ids, places)


def real(x):
    return torch.cat([x[pack, : sum(lengths)] for pack, lengths in enumerate(LENGTHS)])


@pytest.mark.parametrize("features", [24, 40, 64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_forward_pass_of_packs(variant, features):
    options = dict(VARIANTS[variant])
    if options.get("num_heads"):
        options["num_heads"] = features // 8
    read, expected = both(model_of(torch.float64, features, **options), *packs_of())
    torch.testing.assert_close(real(read), real(expected), rtol=1e-11, atol=1e-11)


def test_float32_is_as_near_as_torch():
    model = model_of(torch.float64, 64)
    ids, places = packs_of()
    exact = through_layers(model.embedding, model.layers, ids, places).detach()
    read, plain = (real((one - exact).abs()).max() for one in both(model.float(), ids, places))
    assert read < 2 * plain


def test_molecules_do_not_meet():
    """To the bit: others in the pack, and anything in padding, change nothing."""
    model = model_of(torch.float32)
    reader = Reader(model.embedding, model.layers)
    ids, places = packs_of()
    with torch.no_grad():
        before = reader(ids, places)
        ids[0, :17], ids[2, 66:], places[2, 66:] = 5, -7, 999
        after = reader(ids, places)
    assert torch.equal(before[0, 17:48], after[0, 17:48]) and torch.equal(before[2, :66], after[2, :66])
    assert not torch.equal(before[0, :17], after[0, :17]) and torch.isfinite(after).all()


def test_it_notices_weights_that_change():
    model = model_of(torch.float32)
    ids, places = packs_of()
    reader = Reader(model.embedding, model.layers)
    with torch.no_grad():
        before = reader(ids, places)
        model.layers[1].mlp.c_fc.weight.add_(0.1)
        after = reader(ids, places)
        expected = through_layers(model.embedding, model.layers, ids, places)
    assert not torch.allclose(real(before), real(after), atol=1e-3)
    torch.testing.assert_close(real(after), real(expected), rtol=1e-4, atol=1e-4)


def test_weights_that_are_no_numbers_are_seen():
    model = model_of(torch.float32)
    model.layers[2].ln_2.weight.data[3] = torch.nan
    read, _ = both(model, *packs_of())
    assert read.isnan().any()


def test_threads_give_the_same():
    model = model_of(torch.float32)
    ids, places = (part.repeat(5, 1) for part in packs_of())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = both(model, ids, places)
        torch.set_num_threads(3)
        several, _ = both(model, ids, places)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, several)


@pytest.mark.parametrize("kind", [PooledChemGPT, ScoredChemGPT])
def test_vectors_and_likelihoods_use_it_and_gradients_do_not(kind):
    model = kind(model_of(torch.float32))
    inputs = (*packs_of(), ends_of())
    expected = model(*inputs)
    assert use_reading_kernels(model) == 1
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), expected, rtol=1e-4, atol=1e-4)
    model(*inputs).sum().backward()
    assert model.layers[0].mlp.c_fc.weight.grad is not None


def test_a_backend_puts_it_in_where_nothing_is_trained():
    model = PooledChemGPT(model_of(torch.float32))
    inputs = (*packs_of(), ends_of())
    backend = TorchBackend("cpu")
    backend.compile(model, None, None, Batching(3), inputs)
    assert isinstance(model.kernel, Reader)
    backend.close()
