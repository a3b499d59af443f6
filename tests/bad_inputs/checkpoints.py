"""Runs and checkpoints that are none: evaluate, predict, export, report and those that go on with a run."""

from bad_inputs.harness import Table

FILES = {
    "ok.smi": "CCO\nCC(=O)C\n",
    "water.xyz": "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n",
    "empty.smi": "",
    "notes.txt": "hello\n",
    "nofolder": "a file\n",
    "norun/readme.txt": "nothing\n",
    "begun/config.yaml": "model: {name: schnet}\n",
    "begun/run.json": "{}",
    "torn/checkpoints/best.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    "short/checkpoints/best.safetensors": b"abc",
    "zero/checkpoints/best.safetensors": b"",
    "badjson/run.json": "{",
    "badjson/config.yaml": "a: [",
}

BAD = """
evaluate
evaluate absent
evaluate norun
evaluate nofolder
evaluate begun
evaluate torn
evaluate short
evaluate zero
evaluate run --split tests
evaluate run --accelerator tpu
evaluate run --split
evaluate run stray
evaluate run --interval 2
evaluate run --interval 0.9 --split train
evaluate run --interval 0.9
predict
predict run
predict absent ok.smi
predict norun ok.smi
predict begun ok.smi
predict torn ok.smi
predict run absent.smi
predict run norun
predict run notes.txt --smiles_column x
predict run empty.smi
predict run water.xyz --output norun
predict run water.xyz --output nofolder/out.csv
predict run water.xyz --accelerator tpu
predict run water.xyz --outputs x.csv
predict run water.xyz --interval 1
predict run water.xyz --interval often
predict run water.xyz --interval 0.9 --output new.csv
export
export run
export run --format onnx
export absent --format pyg
export norun --format state_dict
export run --format huggingface
export run --format pyg
export run --format torch_export --nodes -5
export run --format torch_export --nodes 0.5
export run --format state_dict --nodes 8
export run --format state_dict --tokens 8
export run --format state_dict --output nofolder
export run --format state_dict --output nofolder/out
report
report absent
report norun
report nofolder
report badjson
train --resume begun
train --resume norun
train --resume badjson
train --resume run --model.name schnet
train --training.start_from nofolder
train --training.start_from norun
train --training.start_from begun
predict run water.xyz --multiplicity 0
export run --format torch_export --nodes 99999999999
"""

GOOD = """
predict run water.xyz --output out.csv
export run --format state_dict --output exported
"""

TABLE = Table(BAD, GOOD, FILES, runs=("run",))
