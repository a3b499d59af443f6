"""Words of the command line: commands, doctor, pack, search and scale."""

from bad_inputs.harness import Table

FILES = {
    "sizes.json": '{"3": 10, "5": 4}',
    "sets.json": '{"a": {"3": 10}, "b": {"4": 1}}',
    "list.json": "[1, 2]",
    "cut.json": '{"3": 1',
    "words.json": '{"three": 10}',
    "negative.json": '{"3": -10}',
    "zero.json": '{"0": 10}',
    "none.json": '{"3": 0}',
    "huge.json": '{"3": 1000000000000000}',
    "float.json": '{"3": 1.5}',
    "empty.json": "",
    "nofolder": "a file\n",
    "ok.csv": "smiles,y\nCCO,1\nCCN,2\n",
    "grid.yaml": "optimizer.learning_rate: [1e-3, 3e-3]\n",
    "data_grid.yaml": "data.train: [0.1, 100]\n",
    "one_grid.yaml": "optimizer.learning_rate: [1e-3]\n",
    "set_grid.yaml": "training.log_every: [1, 2]\n",
    "out_grid.yaml": "out: [a, b]\n",
    "names_grid.yaml": "model.name: [schnet, painn]\n",
    "heads_grid.yaml": "model.num_heads: [1, 2]\n",
    "no_points/points.json": '{"points": null}',
    "edited/points.json": '{"points": [{"parameters": 10, "tokens": Infinity, "molecules": 2, "flops": 9.0, '
    '"steps": 5, "seed": 0, "loss": 1.0, "loss_name": "mae", "rule": "steps held"}]}',
}

BAD = """
trian
Train
--trian
-v
pack
pack --nodes 10
pack --nodes --sizes sizes.json
pack --nodes 0 --sizes sizes.json
pack --nodes -3 --sizes sizes.json
pack --nodes x --sizes sizes.json
pack --nodes 2 --sizes sizes.json
pack --nodes 10.5 --sizes sizes.json
pack --nodes 10 --sizes absent.json
pack --nodes 10 --sizes list.json
pack --nodes 10 --sizes cut.json
pack --nodes 10 --sizes words.json
pack --nodes 10 --sizes negative.json
pack --nodes 10 --sizes zero.json
pack --nodes 10 --sizes none.json
pack --nodes 10 --sizes huge.json
pack --nodes 10 --sizes float.json
pack --nodes 10 --sizes empty.json
pack --nodes 10 --sizes sets.json
pack --nodes 10 --sizes sets.json --dataset c
pack --nodes 10 --sizes sizes.json --data nci3d
pack --nodes 10 --sizes sizes.json --algorithms magic
pack --nodes 10 --sizes sizes.json --graphs 0
pack --nodes 10 --sizes sizes.json --edges 0
pack --nodes 10 --sizes sizes.json --edges 2
pack --nodes 10 --sizes sizes.json --time_limit -1
pack --nodes 10 --sizes sizes.json --time_limit .nan
pack --nodes 10 --sizes sizes.json --plot nofolder/x.png
pack --nodes 10 --sizes sizes.json --plot picture.doc
pack --nodes 10 --data nothing
pack --nodes 10 --data file
pack --nodes 10 --data file --path absent.csv
pack --nodes 10 --data nci3d --cutoff 0
pack --nodes 10 --data nci3d --cutoff .nan
doctor --ipus 4
doctor --atoms 18
doctor --model.name schnat
doctor --model.name schnet --ipus 0
doctor --model.name schnet --ipus -4
doctor --model.name schnet --ipus 3
doctor --model.name schnet --loader_seconds -1
doctor --model.name schnet --loader_seconds .nan
doctor --model.name schnet --atoms 0
doctor --model.name schnet --atoms -5
doctor --model.name schnet --link 0
doctor --model.name schnet --link .nan
doctor --model.hidden_features 0
doctor --loss msee
prepare --name nothing
prepare --name file
prepare --name file --path absent.csv
prepare --name file --path ok.csv --target nothing
prepare --cutoff 0
prepare --cutoff -1
prepare --cutoff .nan
prepare --limit -1
prepare --workers -1
prepare --check_forces maybe
search
search --grid absent
search --grid grid.yaml --budget 0
search --grid grid.yaml --budget 1
search --grid grid.yaml --budget .nan
search --grid grid.yaml --keep 1
search --grid grid.yaml --halving 1
search --grid grid.yaml --fraction 0
search --grid grid.yaml --estimator best
search --grid grid.yaml --calibration curve
search --grid grid.yaml --jobs 0
search --grid grid.yaml --out nofolder
search --grid grid.yaml --out nofolder/x
search --grid grid.yaml --model.hidden_features 0
search --grid grid.yaml --data.name file --data.path absent.csv
search --grid one_grid.yaml
search --grid set_grid.yaml
search --grid out_grid.yaml
search --grid grid.yaml --data.validation 0
search --grid grid.yaml --estimator validation --training.evaluate_every 100
scale
scale --grid absent
scale --grid grid.yaml
scale --grid data_grid.yaml
scale --grid data_grid.yaml --rule both
scale --grid data_grid.yaml --steps -1
scale --grid data_grid.yaml --evaluations 0
scale --grid data_grid.yaml --jobs 0
scale --grid data_grid.yaml --steps 10 --rule epochs
scale --grid data_grid.yaml --out nofolder
scale --grid names_grid.yaml
scale --grid heads_grid.yaml --model.name chemgpt --data.name file --data.path ok.csv
scale --compare no_points edited
scale --compare edited no_points
scale --compare edited edited --steps 3 --plan true
recipes extra
recipes --all
search --grid grid.yaml --batching.device_iterations 10000000000
doctor --model.name schnet --ipus 1073741824
prepare --name nci3d --cache nofolder
"""

GOOD = """
--version
pack --nodes 10 --sizes sizes.json
pack --nodes 10 --sizes sets.json --dataset a
"""

TABLE = Table(BAD, GOOD, FILES)
