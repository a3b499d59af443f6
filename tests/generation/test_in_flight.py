"""In-flight batching: rows are used again at once, and nothing about a molecule depends on who is written beside it."""

import numpy as np
import pytest
import torch

from ipu_chem.backends.pytorch.kernels import native
from ipu_chem.backends.pytorch.kernels.decoding import PackedWeights
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.generation import beginnings
from ipu_chem.generation.beginnings import Beginnings
from ipu_chem.generation.chance import Chance
from ipu_chem.generation.in_flight import Wanted, write_all
from ipu_chem.generation.sampling import generate, never_drawn
from ipu_chem.generation.writers import NativeWriter, Writer
from ipu_chem.models.chemgpt import ChemGPT

needs_compiler = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler here")
LETTERS = ["[C]", "[=C]", "[O]", "[N]", "[Branch1]", "[Ring1]", "[=Branch1]", "[F]"]


def tokenizer() -> Tokenizer:
    return Tokenizer.build(LETTERS, robust_alphabet=False)


def model_of(dtype=torch.float32, **options) -> ChemGPT:
    torch.manual_seed(0)
    model = ChemGPT("", 12, 24, 32, 2, 2, **options)
    for parameter in model.parameters():
        parameter.data += 0.25 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def chance_of(model, **changed) -> Chance:
    return Chance(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "never": never_drawn(model, tokenizer()), **changed})


def wanted(count) -> Wanted:
    text = tokenizer()
    return Wanted(count, 24, [np.array([text.bos_id])], 3, text.eos_id)


def in_order(parts):
    return sorted((one for part in parts for one in part), key=lambda one: one.molecule)


def counting(writer):
    """The same writer, which counts its steps and the rows in them."""
    writer.steps, writer.rows_done, step = 0, 0, writer.step

    def counted(rows, *rest):
        writer.steps += 1
        writer.rows_done += len(rows)
        return step(rows, *rest)

    writer.step = counted
    return writer


@needs_compiler
@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"top_k": 4, "top_p": 0.9}, {"banned": ["[F]"]}])
@pytest.mark.parametrize("kind", [{}, {"positions": "rope", "local_window": 5, "mup_base_width": 16}])
def test_native_kernels_draw_the_same_molecules_as_torch(options, kind):
    model, text = model_of(torch.float64, **kind), tokenizer()
    ours, torchs = (generate(model, text, 60, batch=9, progress=False, native=one, **options) for one in (True, False))
    assert ours.texts == torchs.texts and len(set(ours.texts)) > 20
    assert (ours.finished == torchs.finished).all() and 0 < ours.finished.sum() < 60
    np.testing.assert_allclose(ours.log_likelihoods, torchs.log_likelihoods, rtol=1e-11)


@needs_compiler
@pytest.mark.parametrize("options", [{}, {"top_k": 5}])
def test_neither_batch_nor_jobs_nor_memory_change_a_bit(options, monkeypatch):
    model, text = model_of(), tokenizer()
    starts = [np.array([text.bos_id, *[4, 5, 6][: index % 4]]) for index in range(90)]
    made = [
        generate(model, text, 90, batch=batch, jobs=jobs, starts=starts, seed=1, progress=False, **options)
        for batch, jobs in ((256, 1), (5, 1), (7, 2), (64, 3))
    ]
    monkeypatch.setattr(beginnings, "MEMORY", 20 * (8 * 2 * 32 + 16 * 12))  # 20 nodes
    made.append(generate(model, text, 90, batch=16, starts=starts, seed=1, progress=False, **options))
    for other in made[1:]:
        assert other.texts == made[0].texts and (other.finished == made[0].finished).all()
        assert (other.log_likelihoods == made[0].log_likelihoods).all()
    assert all(s.startswith("[C][=C][O][N]"[: [0, 3, 7, 10][i % 4]]) for i, s in enumerate(made[0].texts))


@needs_compiler
def test_beginnings_that_molecules_share_are_computed_once():
    model = model_of()
    weights, chance = PackedWeights(model), chance_of(model)
    tree = Beginnings(weights.per_place, weights.vocabulary, weights.dtype, 400)
    plain, sharing = counting(NativeWriter(weights, 10, chance)), counting(NativeWriter(weights, 10, chance, tree))
    expected, found = (in_order(write_all(wanted(400), lambda w=w: w, 10, 1)) for w in (plain, sharing))
    for one, other in zip(expected, found):
        assert one.ids.tolist() == other.ids.tolist() and one[2:] == other[2:]
    assert plain.rows_done == sum(len(one.ids) - 1 for one in expected)
    assert sharing.rows_done < 0.9 * plain.rows_done


def test_rows_do_not_wait_for_the_longest_molecule():
    model = model_of()
    writer = counting(Writer(model, 8, chance_of(model)))
    found = in_order(write_all(wanted(120), lambda: writer, 8, 1))
    assert [one.molecule for one in found] == list(range(120))
    tokens = sum(len(one.ids) - 1 for one in found)
    # All rows are busy until no molecule waits; then the longest may need its length.
    assert writer.rows_done == tokens and tokens / 8 <= writer.steps <= tokens / 8 + 23


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_error_of_a_writer_ends_all(jobs):
    class Failing(Writer):
        def step(self, *arguments):
            raise MemoryError("enough")

    model = model_of()
    with pytest.raises(MemoryError, match="enough"):
        list(write_all(wanted(50), lambda: Failing(model, 4, chance_of(model)), 4, jobs))


def test_jobs_in_torch_give_the_same_and_its_threads_back():
    model, text, threads = model_of(torch.float64), tokenizer(), torch.get_num_threads()
    one, two = (generate(model, text, 30, batch=8, jobs=jobs, progress=False, native=False) for jobs in (1, 2))
    assert one.texts == two.texts and torch.get_num_threads() == threads
    np.testing.assert_allclose(one.log_likelihoods, two.log_likelihoods, rtol=1e-11)
