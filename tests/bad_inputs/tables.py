"""Tables and files of SMILES that are not what they seem, and splits that cannot be."""

from bad_inputs.harness import Table

ROWS = "".join(f"{'C' * length}{end},{length}.5\n" for length in range(1, 9) for end in "ON")
FILES = {
    "ok.csv": "smiles,y\n" + ROWS,
    "semicolon.csv": "smiles;y\n" + ROWS.replace(",", ";"),
    "space.csv": "smiles , y \n" + ROWS,
    "empty.csv": "",
    "header.csv": "smiles,y\n",
    "comma.csv": "smiles,y\nCCO,1,5\nCCN,2,5\n",
    "short.csv": "smiles,y\nCCO,1\nCCN\n",
    "twice.csv": "smiles,y,y\nCCO,1,2\nCCN,2,3\n",
    "inf.csv": "smiles,y\nCCO,1\nCCN,inf\n",
    "word.csv": "smiles,y\nCCO,one\nCCN,two\n",
    "nosmiles.csv": "name,y\nethanol,1\n",
    "allbad.csv": "smiles,y\nxyz,1\nC1CC,2\n",
    "missing.csv": "smiles,y\nCCO,\nCCN,\n",
    "quote.csv": 'smiles,y\n"CCO,1\nCCN,2\n',
    "nul.csv": b"smiles,y\nCC\x00O,1\n",
    "binary.csv": bytes(range(256)),
    "cut.csv.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    "nogz.csv.gz": b"smiles,y\nCCO,1\n",
    "nozip.zip": b"PK\x03\x04",
    "bad.smi": "C1CC\n",
    "ok.smi": "CCO ethanol\nCCN amine\n",
    "class.csv": "smiles,y\nCCO,0\nCCN,2\n",
    "ok.xlsx": b"PK\x03\x04",
    "empty.json": "",
    "list.json": "[1, 2]",
    "parts.json": '{"train": [0, 1], "val": [2]}',
    "overlap.json": '{"train": [0, 1], "val": [1], "test": [2]}',
    "outside.json": '{"train": [0, 1], "val": [2], "test": [99]}',
    "words.json": '{"train": ["a"], "val": ["b"], "test": ["c"]}',
    "floats.json": '{"train": [0.5], "val": [1.5], "test": [2.5]}',
    "none.json": '{"train": [], "val": [1], "test": [2]}',
    "no.npz": b"PK\x03\x04",
    "split.txt": "0 1 2\n",
}
TRAIN = "train --data.name file --data.path ok.csv --data.target y --data.workers 1 --accelerator cpu"

NOT_BAD = ("ok.csv", "semicolon.csv", "space.csv", "class.csv", "no.npz", "split.txt")

BAD = "\n".join(
    [
        *(
            f"prepare --name file --path {name} --target y --workers 1"
            for name in FILES
            if not name.endswith(".json") and name not in NOT_BAD
        ),
        *(f"{TRAIN} --data.split {name}" for name in FILES if name.endswith((".json", ".npz")) or name == "split.txt"),
        f"{TRAIN} --data.validation 20",
        f"{TRAIN} --data.train 16 --data.validation 1 --data.test 1",
        f"{TRAIN} --data.split official",
        f"{TRAIN} --data.target z",
        f"{TRAIN} --data.kind binary",
        f"{TRAIN} --data.kind ternary",
        f"{TRAIN} --data.unit parsec --force_share 0.5",
        f"{TRAIN} --pack.nodes 3",
        f"{TRAIN} --pack.graphs 1 --pack.nodes 2",
        f"{TRAIN} --data.limit 2",
        f"{TRAIN} --data.path .",
        "prepare --name file --path ok.csv --target y --seed -1",
        "prepare --name file --path class.csv --target y --kind binary --workers 1",
        "prepare --name file --path . --target y",
        "pack --nodes 64 --data file --path bad.smi",
    ]
)
GOOD = """
prepare --name file --path ok.csv --target y --workers 1
prepare --name file --path space.csv --target y --workers 1
"""

TABLE = Table(BAD, GOOD, FILES)
