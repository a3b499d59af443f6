"""Packed sequences for Hugging Face: nothing lost, nothing seen of a neighbor, trained as single sequences are."""

import numpy as np
import pytest

from packing import Budget, make_plan
from packing.adapters.huggingface import DataCollatorForPacks, pack_dataset
from packing.adapters.torch import PackBatchSampler

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: its adapter was NOT tested")
VOCABULARY, LENGTH = 30, 24
HAS_SDPA = int(torch.__version__.split(".")[1]) >= 2  # as transformers needs it


def rows_of(count, most=LENGTH, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCABULARY, random.integers(2, most + 1)).tolist() for _ in range(count)]


def data_set(columns):
    # By a module of its own: a folder of tests is called datasets, too.
    module = pytest.importorskip(
        "datasets.arrow_dataset", reason="datasets is not installed: pack_dataset was NOT tested"
    )
    return module.Dataset.from_dict(columns)


def pieces(packed):
    """Sequences of packed rows."""
    return [
        tuple(part.tolist())
        for row in packed
        for part in np.split(np.asarray(row["input_ids"]), np.cumsum(row["seq_lengths"])[:-1])
    ]


def model_of(name):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "use_cache": False}
    if name == "llama":
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **sizes
        )
    elif name == "gpt_neo":
        config = transformers.GPTNeoConfig(
            hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=5,
            max_position_embeddings=64, attention_dropout=0.0, embed_dropout=0.0, resid_dropout=0.0, **sizes
        )  # fmt: skip
    else:
        config = transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **sizes
        )
    config._attn_implementation = "sdpa" if name != "gpt_neo" and HAS_SDPA else "eager"
    return transformers.AutoModelForCausalLM.from_config(config)


def of_trl(packed):
    """Packed by hand, as the collator takes it."""
    return {"input_ids": sum(packed, []), "seq_lengths": [len(one) for one in packed]}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neo"])
def test_no_sequence_sees_another(name):
    if name == "gpt2" and not HAS_SDPA:
        pytest.skip("eager GPT-2 of this transformers refuses masks of four dimensions")
    model = model_of(name).eval()
    rows = rows_of(12, 9, seed=3)
    packs = [rows[:4], rows[4:7], rows[7:]]
    batch = DataCollatorForPacks(48)([of_trl(pack) for pack in packs])
    assert batch["input_ids"].shape == (3, 48) and batch["attention_mask"].shape == (3, 1, 48, 48)
    assert batch["attention_mask"].dtype == torch.float32 and batch["attention_mask"].max() == 0
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits
        assert torch.isfinite(logits).all()
        for row, pack in enumerate(packs):
            start = 0
            for one in pack:
                alone = model(input_ids=torch.tensor([one])).logits[0]
                torch.testing.assert_close(logits[row, start : start + len(one)], alone, rtol=1e-4, atol=1e-5)
                assert labels[row, start] == -100 and labels[row, start + 1 : start + len(one)].tolist() == one[1:]
                start += len(one)
            assert (labels[row, start:] == -100).all()


def test_losses_and_gradients_are_those_of_single_sequences():
    model = model_of("gpt_neo").train()
    rows = rows_of(6, 9)
    model(**DataCollatorForPacks(64)([of_trl(rows)])).loss.backward()
    packed = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    tokens = sum(len(one) - 1 for one in rows)
    for one in rows:
        (model(input_ids=torch.tensor([one]), labels=torch.tensor([one])).loss * (len(one) - 1) / tokens).backward()
    for weight, gradient in zip(model.parameters(), packed):
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6)


def test_sequences_of_flash_attention_have_a_fixed_length():
    rows = [[1, 2, 3], [4, 5], [6]]
    collate = DataCollatorForPacks(8, attention="cu_seq_lens", segments=4)
    batch = collate([of_trl(rows), of_trl([[7] * 8])])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape == (1, 16)
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 6, 8, 16, 16, 16, 16, 16, 16]
    assert batch["cu_seq_lens_q"].dtype == torch.int32 and batch["max_length_q"] == 8
    assert batch["position_ids"][0, :8].tolist() == [0, 1, 2, 0, 1, 0, 0, 1]
    assert batch["labels"][0, :9].tolist() == [-100, 2, 3, -100, 5, -100, -100, -100, -100]
    free = DataCollatorForPacks(8, attention="cu_seq_lens")([of_trl(rows)])
    assert free["cu_seq_lens_q"].tolist() == [0, 3, 5, 6, 8] and "attention_mask" not in free
    assert set(DataCollatorForPacks(8, attention="position_ids")([of_trl(rows)])) == {
        "input_ids",
        "labels",
        "position_ids",
    }


def test_masks_of_models_that_read_both_ways():
    batch = DataCollatorForPacks(6, causal=False, dtype="bfloat16")([of_trl([[1, 2], [3, 4, 5]])])
    seen = (batch["attention_mask"][0, 0] == 0).int().tolist()
    assert seen == [[1, 1, 0, 0, 0, 0]] * 2 + [[0, 0, 1, 1, 1, 0]] * 3 + [[0, 0, 0, 0, 0, 1]]
    assert (
        batch["attention_mask"].dtype == torch.bfloat16
        and batch["attention_mask"].min() == torch.finfo(torch.bfloat16).min
    )


def test_sequences_of_a_batch_sampler():
    rows = rows_of(40)
    sampler = PackBatchSampler([len(row) for row in rows], Budget(tokens=LENGTH))
    collate = DataCollatorForPacks(LENGTH, from_batch_sampler=True)
    examples = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    loader = torch.utils.data.DataLoader(examples, batch_sampler=sampler, collate_fn=collate)
    found = []
    for batch in loader:
        ids, places = batch["input_ids"][0], batch["position_ids"][0]
        starts = [start for start in np.flatnonzero(places == 0) if ids[start] > 0]  # padding is 0
        found += [tuple(part[part > 0].tolist()) for part in np.split(ids.numpy(), starts[1:])]
    assert sorted(found) == sorted(map(tuple, rows))


@pytest.mark.parametrize(
    ("strategy", "budget"), [("optimal", 24), ("bfd", 24), ("optimal", Budget(tokens=64, segments=3))]
)
def test_nothing_is_lost_or_cut(strategy, budget):
    rows = rows_of(2_300)
    dataset = data_set({"input_ids": rows, "labels": [[-one for one in row] for row in rows]})
    packed = pack_dataset(dataset, budget, strategy, {"batch_size": 70})
    assert sorted(pieces(packed)) == sorted(map(tuple, rows))
    limits = budget if isinstance(budget, Budget) else Budget(tokens=budget)
    assert all(len(row["input_ids"]) <= limits["tokens"] for row in packed)
    assert all(np.array_equal(row["labels"], -np.array(row["input_ids"])) for row in packed)
    assert all(row["position_ids"][sum(row["seq_lengths"][:-1])] == 0 for row in packed)
    algorithm = {"optimal": "auto", "bfd": "best_fit"}[strategy]
    assert len(packed) == make_plan(np.array([len(row) for row in rows]), limits, algorithm).num_packs
    if limits["tokens"] == 64:
        assert max(len(row["seq_lengths"]) for row in packed) == 3


def test_packed_rows_have_the_form_of_trl_and_are_no_more():
    trl = pytest.importorskip("trl", reason="trl is not installed: its pack_dataset was NOT compared")
    rows = rows_of(2_300)
    dataset = data_set({"input_ids": rows})
    ours, theirs = pack_dataset(dataset, LENGTH), trl.pack_dataset(dataset, LENGTH)
    assert set(ours.column_names) == {*theirs.column_names, "position_ids"} and len(ours) <= len(theirs)
    for name in theirs.column_names:
        assert type(ours.features[name]) is type(theirs.features[name])
    again = pack_dataset(dataset, LENGTH, map_kwargs={"num_proc": 2})
    assert again["input_ids"][:] == ours["input_ids"][:]


def test_all_splits_and_formats():
    part = data_set({"input_ids": rows_of(30)}).with_format("numpy")
    datasets = pytest.importorskip("datasets")
    packed = pack_dataset(datasets.DatasetDict(train=part, test=part.select(range(5))), LENGTH)
    assert set(packed) == {"train", "test"} and len(packed["train"]) > len(packed["test"])
    assert packed["train"].format["type"] == "numpy" and sum(map(len, packed["test"]["seq_lengths"])) == 5


def test_trainer_trains_as_it_stands(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed: Trainer was NOT tested")
    rows = rows_of(200)
    packed = pack_dataset(data_set({"input_ids": rows}), LENGTH)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, logging_steps=1000, seed=1, learning_rate=1e-2,
    )  # fmt: skip
    seen = []

    class Collator(DataCollatorForPacks):
        def __call__(self, features):
            batch = super().__call__(features)
            seen.append(int((batch["labels"] != -100).sum()))
            return batch

    collator = Collator(LENGTH)
    trainer = transformers.Trainer(model_of("gpt_neo"), arguments, train_dataset=packed, data_collator=collator)
    result = trainer.train()
    assert sum(seen) == 2 * sum(len(row) - 1 for row in rows)
    assert result.training_loss < np.log(VOCABULARY) + 0.5


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"input_ids": [[1], [1, 2, 3]]}, {"budget": 2}, "row 1 has 3 tokens, where 1 to 2 can be packed"),
        ({"input_ids": [[1], []]}, {}, "row 1 has 0 tokens"),
        ({"input_ids": [[1]], "text": ["C"]}, {}, "column 'text' holds string, no tokens; take dataset.select_columns"),
        ({"input_ids": [[1], [2]], "labels": [[1], [2, 3]]}, {}, "row 1 has 2 values of 'labels' and 1 of 'input_ids'"),
        ({"input_ids": [[1], None]}, {}, "row 1 has no value in 'input_ids'"),
        ({"input_ids": [[1]]}, {"strategy": "wrapped"}, "none of optimal, bfd; both keep sequences whole"),
        ({"input_ids": [[1]]}, {"oversize": "cut"}, "choose 'error' or 'skip'"),
    ],
)
def test_rows_that_cannot_be_packed(columns, options, words):
    with pytest.raises(ValueError) as caught:
        pack_dataset(data_set(columns), **{"budget": 8, **options})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_rows_left_out_are_counted_and_streams_refused(capsys):
    dataset = data_set({"input_ids": [[1], [], [1, 2, 3], [5, 6]]})
    assert sorted(pieces(pack_dataset(dataset, 2, oversize="skip"))) == [(1,), (5, 6)]
    assert "1 of 4 rows are longer than 2 tokens and 1 are empty; they are left out." in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"IterableDataset cannot be packed as a whole.*StreamPacker"):
        pack_dataset(dataset.to_iterable_dataset(), 8)


@pytest.mark.parametrize(
    ("options", "feature", "words"),
    [
        ({}, {"input_ids": [1, 2]}, "TrainingArguments(remove_unused_columns=False) keeps them"),
        ({}, {"input_ids": [1] * 9, "seq_lengths": [9]}, "row 0 has 9 tokens in sequences of 9, and the collator's"),
        ({}, {"input_ids": [1] * 4, "seq_lengths": [3]}, "row 0 has 4 tokens in sequences of 3"),
        ({"segments": 1}, {"input_ids": [1, 2], "seq_lengths": [1, 1]}, "pack to Budget(tokens=8, segments=1)"),
    ],
)
def test_rows_that_cannot_be_collated(options, feature, words):
    with pytest.raises(ValueError) as caught:
        DataCollatorForPacks(8, **options)([feature])
    assert words in str(caught.value)
    with pytest.raises(ValueError, match="choose one of mask, cu_seq_lens, position_ids"):
        DataCollatorForPacks(8, attention="flash")
