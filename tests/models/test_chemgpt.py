"""ChemGPT: packed equals one by one, molecules do not see each other, a plain reference agrees; in every variant."""

import json
import math
from typing import List, Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poptorch_helpers import installed_double
from support import gradients
from torch import Tensor

from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.backends.pytorch.kernels.fused import use_fused_attention
from ipu_chem.batches.types import TokenPack
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.attention import attention_mask
from ipu_chem.models.chemgpt import SIZES, ChemGPT, width_of

VOCAB = 11
VARIANTS = {
    "published": dict(scale_attention=False),
    "scaled": dict(),
    "local": dict(scale_attention=False, local_window=4),
    "rope": dict(positions="rope"),
    "rope-local-mup": dict(positions="rope", local_window=4, mup_base_width=6),
}
variants = st.sampled_from(list(VARIANTS))
Molecule = Tuple[np.ndarray, np.ndarray]  # symbols and weights


def small_chemgpt(dtype=torch.float64, **options):
    torch.manual_seed(0)
    sizes = dict(vocab_size=VOCAB, max_positions=16, hidden_features=12, num_layers=3, num_heads=3)
    model = ChemGPT(**{**sizes, **options}).to(dtype)  # type: ignore[arg-type]
    for parameter in model.parameters():  # fresh weights attend to everything alike and have no biases
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def random_molecules(rng: np.random.Generator, lengths: List[int]) -> List[Molecule]:
    return [(rng.integers(0, VOCAB, size), rng.uniform(0.1, 1, size)) for size in lengths]


def pack_rows(rows: List[List[Molecule]], slots: int, dtype=torch.float64) -> TokenPack:
    """Molecules of each row one after the other, then padding of zeros."""
    ids, positions, labels = (np.zeros((len(rows), slots), np.int32) for _ in range(3))
    weight = np.zeros((len(rows), slots))
    for row, molecules in enumerate(rows):
        first = 0
        for symbols, weights in molecules:
            last = first + len(symbols)
            ids[row, first:last] = symbols
            positions[row, first:last] = np.arange(len(symbols))
            labels[row, first : last - 1] = symbols[1:]
            weight[row, first : last - 1] = weights[:-1]
            first = last
    tensors = [torch.from_numpy(array) for array in (ids, positions, labels)]
    return TokenPack(*tensors, torch.from_numpy(weight).to(dtype))


def fill_rows(molecules: List[Molecule], slots: int) -> List[List[Molecule]]:
    rows: List[List[Molecule]] = [[]]
    for molecule in molecules:
        if sum(len(symbols) for symbols, _ in rows[-1]) + len(molecule[0]) > slots:
            rows.append([])
        rows[-1].append(molecule)
    return rows


def run(model, pack: TokenPack) -> Tuple[Tensor, Tensor, Tensor]:
    """Logits, loss and gradients."""
    model.zero_grad()
    logits = model(*pack.inputs)
    loss = token_cross_entropy(logits, *pack.targets)
    loss.backward()
    return logits.detach(), loss.detach(), gradients(model)


def with_garbage(pack: TokenPack, rows: List[List[Molecule]], rng: np.random.Generator) -> TokenPack:
    """Nonsense behind the last molecule of each pack, and in the labels of symbols that nothing follows."""
    used = torch.zeros(pack.ids.shape, dtype=torch.bool)
    for row, molecules in enumerate(rows):
        used[row, : sum(len(symbols) for symbols, _ in molecules)] = True

    def fill(field: Tensor, keep: Tensor) -> Tensor:
        limits = torch.iinfo(field.dtype)
        noise = torch.from_numpy(rng.integers(limits.min, limits.max, tuple(field.shape))).to(field.dtype)
        near = torch.from_numpy(rng.integers(0, VOCAB, tuple(field.shape))).to(field.dtype)
        noise = torch.where(torch.from_numpy(rng.random(tuple(field.shape)) < 0.5), noise, near)
        return torch.where(keep, field, noise)

    return TokenPack(
        fill(pack.ids, used), fill(pack.position_ids, used), fill(pack.labels, pack.weight > 0), pack.weight
    )


lengths_of_molecules = st.lists(st.integers(1, 12), min_size=1, max_size=9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=lengths_of_molecules,
    slots=st.integers(12, 30),
    variant=variants,
    fused=st.booleans(),
)
def test_pack_equals_its_molecules_one_by_one(seed, lengths, slots, variant, fused):
    molecules = random_molecules(np.random.default_rng(seed), lengths)
    rows = fill_rows(molecules, slots)
    pack = pack_rows(rows, slots)
    model = small_chemgpt(**VARIANTS[variant])
    alone = [run(model, pack_rows([[molecule]], len(molecule[0]))) for molecule in molecules]
    if fused:  # torch's own attention in its place
        assert use_fused_attention(model) == 3
    logits, loss, derivative = run(model, pack)
    together = [
        logits[row, first : first + len(symbols)]
        for row, chosen in enumerate(rows)
        for first, (symbols, _) in zip(np.cumsum([0] + [len(symbols) for symbols, _ in chosen]), chosen)
    ]
    close = dict(rtol=1e-10, atol=1e-10)
    for ours, (theirs, _, _) in zip(together, alone):
        torch.testing.assert_close(ours, theirs[0], **close)
    torch.testing.assert_close(loss, torch.stack([part for _, part, _ in alone]).sum(), **close)
    torch.testing.assert_close(derivative, torch.stack([part for _, _, part in alone]).sum(0), **close)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    changed=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    variant=variants,
)
def test_a_molecule_changes_no_bit_of_its_neighbors(seed, lengths, changed, dtype, variant):
    rng = np.random.default_rng(seed)
    changed %= len(lengths)
    molecules = random_molecules(rng, lengths)
    model = small_chemgpt(dtype, **VARIANTS[variant])
    before = model(*pack_rows([molecules], 40, dtype).inputs)[0]
    other = list(molecules)
    other[changed] = ((molecules[changed][0] + rng.integers(1, VOCAB)) % VOCAB, molecules[changed][1])
    after = model(*pack_rows([other], 40, dtype).inputs)[0]

    first = sum(lengths[:changed])
    itself = slice(first, first + lengths[changed])
    others = np.ones(sum(lengths), bool)
    others[itself] = False
    assert torch.equal(before[: sum(lengths)][others], after[: sum(lengths)][others])
    assert not torch.equal(before[itself], after[itself])


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=lengths_of_molecules,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    variant=variants,
)
def test_garbage_in_padding_changes_no_bit(seed, lengths, dtype, variant):
    rng = np.random.default_rng(seed)
    rows = fill_rows(random_molecules(rng, lengths), 17)
    pack = pack_rows(rows, 24, dtype)  # never full
    dirty = with_garbage(pack, rows, rng)
    assert not torch.equal(pack.ids, dirty.ids)
    model = small_chemgpt(dtype, **VARIANTS[variant])
    (clean_logits, *clean), (dirty_logits, *others) = run(model, pack), run(model, dirty)
    for left, right in zip(clean, others):
        assert torch.equal(left, right)
    for row, molecules in enumerate(rows):
        used = sum(len(symbols) for symbols, _ in molecules)
        assert torch.equal(clean_logits[row, :used], dirty_logits[row, :used])
    assert torch.isfinite(dirty_logits).all()


def test_an_empty_pack_gives_zero_loss_and_zero_gradients():
    _, loss, derivative = run(small_chemgpt(torch.float32), pack_rows([[], []], 8, torch.float32))
    assert float(loss) == 0 and torch.all(derivative == 0)


@pytest.mark.parametrize("window, layers", [(0, 3), (3, 2)])
def test_symbols_see_only_earlier_ones(window, layers):
    molecule = random_molecules(np.random.default_rng(3), [10])[0]
    model = small_chemgpt(local_window=window, num_layers=layers)
    if window:  # only the second layer of the two looks at others
        model.layers[0].attention.out_proj.weight.data.zero_()
    derivatives = []
    for symbol in range(10):
        changed = molecule[0].copy()
        changed[symbol] = (changed[symbol] + 1) % VOCAB
        pair = [model(*pack_rows([[(ids, molecule[1])]], 10).inputs)[0] for ids in (molecule[0], changed)]
        derivatives.append((pair[0] != pair[1]).any(1))
    expected = torch.ones(10, 10, dtype=torch.bool).triu()
    if window:
        expected = expected & ~torch.ones(10, 10, dtype=torch.bool).triu(window)
    assert torch.equal(torch.stack(derivatives), expected)


def turned(x: np.ndarray, place: int) -> np.ndarray:
    """Rotary positions by complex numbers: feature d and d + D / 2 are one, turned by place / 10000^(2 d / D)."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * place * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def reference(model: ChemGPT, symbols: np.ndarray) -> np.ndarray:
    """The model's formulas for one molecule in numpy, head by head and symbol by symbol."""
    config = model.config()
    rope, window, base = config["positions"] == "rope", config["local_window"], config["mup_base_width"]
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def normalized(x, name):
        centered = x - x.mean()
        return centered / np.sqrt((centered**2).mean() + 1e-5) * weights[name + ".weight"] + weights[name + ".bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    rows = [weights["embedding.wte.weight"][symbol] for symbol in symbols]
    if not rope:
        rows = [row + weights["embedding.wpe.weight"][place] for place, row in enumerate(rows)]
    for layer in range(len(model.layers)):
        name = f"layers.{layer}."
        heads = model.layers[layer].attention.num_heads  # type: ignore[union-attr]
        inputs = [normalized(x, name + "ln_1") for x in rows]
        width = len(rows[0]) // heads
        scale = width**-0.5 if config["scale_attention"] else 1.0
        if base:
            scale = math.sqrt(32) / width
        new = []
        for query, x in enumerate(rows):
            joined = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                q, k, v = (weights[f"{name}attention.{which}_proj.weight"][part] for which in "qkv")
                turn = turned if rope else lambda x, place: x
                first = max(query + 1 - window, 0) if window and layer % 2 else 0
                asked = turn(q @ inputs[query], query)
                scores = scale * np.array([asked @ turn(k @ inputs[key], key) for key in range(first, query + 1)])
                shares = np.exp(scores - scores.max())
                shares = shares / shares.sum()
                joined.append(sum(share * (v @ inputs[first + place]) for place, share in enumerate(shares)))
            out = weights[name + "attention.out_proj.weight"] @ np.concatenate(joined)
            new.append(x + out + weights[name + "attention.out_proj.bias"])
        rows = []
        for x in new:
            wide = weights[name + "mlp.c_fc.weight"] @ normalized(x, name + "ln_2") + weights[name + "mlp.c_fc.bias"]
            rows.append(x + weights[name + "mlp.c_proj.weight"] @ gelu(wide) + weights[name + "mlp.c_proj.bias"])
    share = base / len(rows[0]) if base else 1.0
    return np.stack([share * weights["embedding.wte.weight"] @ normalized(x, "head.ln_f") for x in rows])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plain_reference_agrees(variant):
    molecules = random_molecules(np.random.default_rng(4), [7, 1, 12])
    model = small_chemgpt(**VARIANTS[variant])
    pack = pack_rows([molecules], 22)
    logits = model(*pack.inputs)[0].detach().numpy()
    expected = np.concatenate([reference(model, symbols) for symbols, _ in molecules])
    # Tables of sines are in float32.
    tolerance = 1e-5 if "rope" in variant else 1e-10
    np.testing.assert_allclose(logits[:20], expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(model.head.project(model.features(*pack.inputs)), model(*pack.inputs))


def test_rotary_positions_know_distances_only():
    """The same symbols further on in a molecule get the same logits, if they see nothing before."""
    model = small_chemgpt(positions="rope")
    symbols = torch.from_numpy(random_molecules(np.random.default_rng(9), [6])[0][0])[None]
    x, mask, *rotation = model.embedding(symbols, torch.arange(6)[None])
    later = model.embedding.rotary(torch.arange(5, 11)[None])  # type: ignore[operator]
    attention = model.layers[0].attention
    near, far = attention(x, mask, *rotation), attention(x, mask, *later)  # type: ignore[operator]
    torch.testing.assert_close(near, far, rtol=0, atol=1e-6)
    assert (near - attention(x, mask)).abs().max() > 1e-3  # type: ignore[operator]


@pytest.mark.parametrize(
    "name, inside", [("chemgpt-4.7m", 4_749_312), ("chemgpt-19m", 18_935_808), ("chemgpt-1.2b", 1_208_451_072)]
)
def test_sizes_have_the_published_number_of_parameters(name, inside):
    with torch.device("meta"):
        model = ChemGPT(name, max_positions=2048)
    width = SIZES[name]
    assert sum(parameter.numel() for parameter in model.layers.parameters()) == inside == 24 * (12 * width + 10) * width
    # Each weight once: the head is tied. 2,048 positions, 684 symbols and the last normalization are the rest.
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert everything == inside + (684 + 2048) * width + 2 * width
    assert not list(model.buffers())


def test_weights_start_as_gpt_neo_draws_them():
    torch.manual_seed(0)
    model = ChemGPT(hidden_features=64, num_layers=2, tie_embeddings=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(parameter == 0), name
        elif ".ln_" in name:
            assert torch.all(parameter == 1), name
        else:
            assert abs(float(parameter.detach().std()) - 0.02) < 0.002, name


def test_the_head_stays_tied_to_the_embedding():
    model = small_chemgpt(torch.float32)
    assert model.head.weight is model.embedding.wte.weight
    weights_to_half(model)
    assert model.head.weight is model.embedding.wte.weight and model.head.weight.dtype == torch.float16
    other = small_chemgpt(torch.float32)
    other.load_state_dict({name: value * 2 for name, value in other.state_dict().items()})
    assert other.head.weight is other.embedding.wte.weight


def test_a_head_of_its_own_shares_nothing():
    tied, own = small_chemgpt(), small_chemgpt(tie_embeddings=False)
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (tied, own)]
    assert count[1] - count[0] == own.head.weight.numel() == VOCAB * 12
    assert not torch.equal(own.head.weight, own.embedding.wte.weight)
    own.load_state_dict(tied.state_dict())  # what is tied may be untied: the same logits
    pack = pack_rows([random_molecules(np.random.default_rng(8), [7, 5])], 14)
    assert torch.equal(own(*pack.inputs), tied(*pack.inputs))


def test_blocks_are_submodules_in_order():
    model = small_chemgpt()
    assert model.blocks() == ["embedding", "layers.0", "layers.1", "layers.2", "head"]
    assert all(name in dict(model.named_modules()) for name in model.blocks())


def test_every_weight_and_operator_is_inside_a_block():
    model = small_chemgpt(torch.float32)
    modules = dict(model.named_modules())
    inside = [parameter for name in model.blocks() for parameter in modules[name].parameters()]
    assert {id(parameter) for parameter in inside} == {id(parameter) for parameter in model.parameters()}
    x = torch.zeros(1)
    for name in model.blocks():
        modules[name].forward = (lambda *_: (x, x)) if name == "embedding" else (lambda *_: x)  # type: ignore
    ids = torch.zeros((1, 8), dtype=torch.int32)
    with installed_double():
        from poptorch.tracing import operators  # noqa: TID251 (the double)

        assert operators(model, ids, ids) == set()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("symbols", [torch.int32, torch.uint8])
def test_every_operator_has_a_poptorch_handler(variant, symbols):
    pack = pack_rows([random_molecules(np.random.default_rng(7), [5, 9])], 20, torch.float32)
    pack = TokenPack(*(field.to(symbols) for field in pack[:-1]), pack.weight)
    model = small_chemgpt(torch.float32, **VARIANTS[variant])
    with installed_double():
        from poptorch.tracing import handled, operators  # noqa: TID251 (the double)

        names = operators(lambda: token_cross_entropy(model(*pack.inputs), *pack.targets))
        assert {"embedding", "bmm", "_softmax", "gelu", "native_layer_norm", "logsumexp"} <= names
        assert [name for name in names if not handled(name)] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_weights_give_nearly_the_same_and_no_nan(variant):
    rng = np.random.default_rng(6)
    rows = fill_rows(random_molecules(rng, [9, 3, 12, 1, 7, 5]), 20)
    pack = with_garbage(pack_rows(rows, 20, torch.float32), rows, rng)
    model = small_chemgpt(torch.float32, **VARIANTS[variant])
    logits, loss, derivative = run(model, pack)
    weights_to_half(model)
    with HalfOnCpu():
        half_logits, half_loss, half_derivative = run(model, pack)
    assert half_logits.dtype == half_loss.dtype == torch.float32
    assert float(half_loss) == pytest.approx(float(loss), rel=1e-2)
    assert (half_logits - logits).abs().max() < 0.05 * logits.abs().max()
    assert (half_derivative.float() - derivative).norm() < 0.05 * derivative.norm()


def test_the_mask_hides_completely_in_every_format():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    )
    for dtype in (torch.float16, torch.float32, torch.float64):
        mask = attention_mask(positions, dtype)
        assert mask.dtype == dtype and torch.isfinite(mask).all()
        assert torch.equal((mask == 0).long()[0, 0], expected)
        assert torch.equal(torch.exp(mask.float()) > 0, mask == 0)


def test_a_window_cuts_the_mask_short():
    positions = torch.tensor([[0, 1, 2, 3, 0, 1]])
    seen = (attention_mask(positions, torch.float32, 2) == 0).long()[0, 0]
    assert seen.sum(1).tolist() == [1, 2, 2, 2, 1, 2] and torch.equal(seen.diagonal(), torch.ones(6, dtype=torch.long))


def test_a_window_that_no_row_exceeds_costs_nothing():
    ids = torch.zeros(1, 8, dtype=torch.int64)
    embedding = small_chemgpt(local_window=8).embedding
    assert len(embedding(ids, ids)) == 2 and len(embedding(ids.repeat(1, 2), ids.repeat(1, 2))) == 3


def test_numbers_of_heads_that_are_usual():
    heads = {width: ChemGPT(hidden_features=width, num_layers=1).config()["num_heads"] for width in (8, 64, 96, 100)}
    assert heads == {8: 1, 64: 2, 96: 3, 100: 2}
    named = ChemGPT("chemgpt-4.7m", num_layers=1).config()
    assert (named["num_heads"], named["hidden_features"], named["scale_attention"]) == (16, 128, False)
    assert ChemGPT(num_layers=1).config()["scale_attention"] is True


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_config_builds_the_model_again(variant):
    model = small_chemgpt(torch.float32, tie_embeddings=False, **VARIANTS[variant])
    other = ChemGPT(**model.config())
    other.load_state_dict(model.state_dict())
    pack = pack_rows([random_molecules(np.random.default_rng(8), [7, 5])], 14)
    assert torch.equal(other(*pack.inputs), model(*pack.inputs)) and other.config() == model.config()
    assert json.loads(json.dumps(model.config())) == model.config()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": "chemgpt-7b"}, "size='chemgpt-7b': choose one of chemgpt-4.7m, chemgpt-19m, chemgpt-1.2b"),
        ({"hidden_features": 10}, "hidden_features=10 cannot be shared by num_heads=3"),
        ({"hidden_features": 9, "positions": "rope"}, "a head has 3: give hidden_features a multiple of 6"),
        ({"vocab_size": 0}, "vocab_size=0: give an integer of 1 or more"),
        ({"num_layers": 2.5}, "num_layers=2.5: give an integer"),
        ({"max_positions": True}, "max_positions=True: give an integer"),
        ({"local_window": -1}, "local_window=-1: give an integer of 0 or more"),
        ({"positions": "sinus"}, "positions='sinus': choose one of learned, rope"),
        ({"mup_base_width": 4, "scale_attention": False}, "leave scale_attention out"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_chemgpt(**options)


def test_width_of_a_size():
    assert width_of("chemgpt-19m", 64) == 256 and width_of("", 64) == 64
    with pytest.raises(ValueError, match="or leave it empty and give hidden_features"):
        width_of("small", 64)
