"""Structure files that are not what they seem."""

from bad_inputs.harness import Table

WATER = "3\nenergy=-1.0\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
FILES = {
    "ok.xyz": WATER * 3,
    "empty.xyz": "",
    "count.xyz": "5\nenergy=-1.0\nO 0 0 0\nH 0.96 0 0\n",
    "word.xyz": "three\nenergy=-1.0\nO 0 0 0\n",
    "huge.xyz": "999999999999\nenergy=1\nO 0 0 0\n",
    "negative.xyz": "-3\nenergy=1\nO 0 0 0\n",
    "element.xyz": WATER.replace("O 0", "Xx 0"),
    "number.xyz": WATER.replace("0.96", "zero"),
    "short.xyz": WATER.replace("0.96 0 0", "0.96 0"),
    "nan.xyz": WATER.replace("0.96", "nan"),
    "inf.extxyz": WATER.replace("-1.0", "inf"),
    "same.xyz": WATER.replace("0.96 0 0", "0 0 0"),
    "label.xyz": WATER.replace("-1.0", "low"),
    "nolabel.xyz": WATER.replace("energy=-1.0", "water"),
    "cell.extxyz": WATER.replace("energy", 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T" energy'),
    "binary.xyz": bytes(range(256)),
    "cut.xyz.gz": b"\x1f\x8b\x08\x00",
    "empty.sdf": "",
    "words.sdf": "hello\nworld\n",
    "cut.sdf": "a\n  RDKit          3D\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000\n",
    "empty.db": b"",
    "words.db": b"hello",
    "empty.npz": b"",
    "words.npz": b"hello",
    "zip.npz": b"PK\x05\x06" + b"\x00" * 18,
    "model.pt": b"\x80\x02",
    "unknown.mol7": "x",
}

BAD = "\n".join(
    [
        *(f"prepare --name file --path {name} --target energy --workers 1" for name in FILES if name != "ok.xyz"),
        "prepare --name file --path ok.xyz --target nothing",
        "prepare --name file --path ok.xyz --target energy --unit parsec",
        "prepare --name file --path ok.xyz --target energy --force_key F",
        "prepare --name file --path ok.xyz --target energy --cutoff 0",
        "prepare --name file --path ok.xyz --target energy --max_atoms 0",
    ]
)
GOOD = """
prepare --name file --path ok.xyz --target energy --workers 1
"""

TABLE = Table(BAD, GOOD, FILES)
