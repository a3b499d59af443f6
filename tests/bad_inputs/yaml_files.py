"""Files of options as people write them."""

from bad_inputs.harness import Table

GOOD_RUN = """data: {name: file, path: ok.csv, target: y, validation: 4, test: 4, cache: cache, workers: 1}
model: {hidden_features: 8, num_filters: 8, num_interactions: 1, num_gaussians: 8}
training: {epochs: 1, progress: no, report: false}
pack: {nodes: 64, algorithm: best_fit}
batching: {micro_batch_size: 1}
accelerator: cpu
"""

FILES = {
    "ok.csv": "smiles,y\n" + "".join(f"{'C' * length}{end},{length}\n" for length in range(1, 7) for end in "ONF"),
    "empty.yaml": "",
    "list.yaml": "- 1\n- 2\n",
    "word.yaml": "schnet\n",
    "number.yaml": "3\n",
    "null.yaml": "null\n",
    "two.yaml": "training:\n  epochs: 3\n---\ntraining:\n  epochs: 4\n",
    "tab.yaml": "training:\n\tepochs: 3\n",
    "indent.yaml": "training:\n  epochs: 3\n seed: 1\n",
    "colon.yaml": "training:\n  epochs 3\n",
    "unclosed.yaml": "data: {name: file, path: ok.csv\nloss: mse\n",
    "quote.yaml": 'out: "runs\nloss: mse\n',
    "twice.yaml": "training:\n  epochs: 3\n  seed: 1\n  epochs: 5\n",
    "sections.yaml": "training:\n  epochs: 3\nloss: mse\ntraining:\n  seed: 5\n",
    "binary.yaml": b"\x00\x01\x02\xff\xfe",
    "latin.yaml": "out: M\u00fcller\n".encode("latin-1"),
    "deep.yaml": "[" * 3000 + "]" * 3000,
    "object.yaml": "out: !!python/object/apply:os.getcwd []\n",
    "alias.yaml": "training: *nothing\n",
    "unknown.yaml": "trainig:\n  epochs: 3\n",
    "key.yaml": "# a comment\ntraining:\n  seed: 1\n  epoch: 3\n",
    "flat.yaml": "learning_rate: 0.001\n",
    "other.yaml": "model:\n  name: schnet\n  num_heads: 4\n",
    "section_word.yaml": "model: schnet\n",
    "section_list.yaml": "optimizer: [adam, 1e-3]\n",
    "section_number.yaml": "training: 5\n",
    "value_section.yaml": "loss: {name: mse}\n",
    "value_list.yaml": "training:\n  epochs: [1, 2]\n",
    "null_value.yaml": "training:\n  epochs:\n",
    "zero.yaml": "loss: mse\ntraining:\n  seed: 3\n  epochs: 0\n",
    "text.yaml": "training:\n  epochs: many\n",
    "float.yaml": "training:\n  epochs: 2.5\n",
    "truth.yaml": "training:\n  progress: maybe\n",
    "no_name.yaml": "data:\n  name: no\n",
    "nan.yaml": "optimizer:\n  learning_rate: .nan\n",
    "inf.yaml": "model:\n  cutoff: .inf\n",
    "range.yaml": "schedule:\n  min_factor: 7\n",
    "betas.yaml": "optimizer:\n  betas: 0.9\n",
    "model_name.yaml": "model:\n  name: schnett\n",
    "model_list.yaml": "model:\n  name: [schnet, painn]\n",
    "set.yaml": "data:\n  name: qm10\n",
    "number_key.yaml": "1: 2\n",
    "time.yaml": "training:\n  epochs: 1:30\n",
    "grid_scalar.yaml": "optimizer.learning_rate: 1e-3\n",
    "grid_empty.yaml": "optimizer.learning_rate: []\n",
    "grid_unknown.yaml": "optimizer.learning_rat: [1e-3, 3e-3]\n",
    "grid_bad.yaml": "optimizer.learning_rate: [1e-3, -1]\n",
    "grid_word.yaml": "optimizer.learning_rate: [1e-3, fast]\n",
    "grid_model.yaml": "model.hidden_features: [8, 0]\n",
    "grid_twice.yaml": "optimizer.learning_rate: [1e-3, 0.001]\n",
    "grid_section.yaml": "optimizer: [1, 2]\n",
    "grid_nested.yaml": "optimizer: {learning_rate: [1e-3]}\n",
    "grid_null.yaml": "optimizer.learning_rate:\n",
    "grid_mapping.yaml": "optimizer.learning_rate: [{a: 1}]\n",
    "good.yaml": GOOD_RUN,
    "numbers.yaml": "optimizer:\n  learning_rate: 1e-3\ntraining:\n  seed: 010\n  epochs: 1\n",
    "bom.yaml": "\ufefftraining:\n  epochs: 1\n",
    "section_empty.yaml": "training:\n  # epochs: 3\nloss: mae\n",
}

BAD = "\n".join(
    [
        *(
            f"train --config {name}"
            for name in FILES
            if name.endswith(".yaml")
            and not name.startswith("grid")
            and name not in ("good.yaml", "numbers.yaml", "bom.yaml", "section_empty.yaml")
        ),
        *(f"search --grid {name}" for name in FILES if name.startswith("grid")),
        "train --config .",
        "doctor --config .",
        "doctor --config absent.yaml",
        "search --grid empty.yaml",
        "search --grid list.yaml",
        "search --grid tab.yaml",
        "search --grid latin.yaml",
        "scale --grid grid_scalar.yaml",
    ]
)
GOOD = """
train --config good.yaml --out run1
train --config good.yaml --config numbers.yaml --out run2
train --config good.yaml --config bom.yaml --out run3
train --config good.yaml --config section_empty.yaml --out run4
"""

TABLE = Table(BAD, GOOD, FILES)
