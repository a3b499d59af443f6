"""Generation and embeddings that cannot be; ``text`` is the folder of a trained language model, ``run`` of another."""

from bad_inputs.harness import Table

FILES = {
    "ok.smi": "CCO\nCCN\n",
    "ok.csv": "smiles,y\nCCO,1\nCCN,2\n",
    "nosmiles.csv": "name,y\nethanol,1\n",
    "empty.smi": "",
    "blank.smi": "\n\n",
    "bad.smi": "C1CC\nnot a molecule\n",
    "picture.png": b"\x89PNG\r\n\x1a\n\x00\x00",
    "nofolder": "a file\n",
    "norun/readme.txt": "nothing\n",
    "hf/config.json": "{}",
    "hf2/config.json": "{not json",
}

BAD = """
generate
generate absent
generate norun
generate nofolder
generate run
generate hf
generate hf2
generate text --count 0
generate text --count -5
generate text --count many
generate text --temperature 0
generate text --temperature -1
generate text --temperature .nan
generate text --temperature .inf
generate text --top_k -1
generate text --top_p 0
generate text --top_p 1.5
generate text --top_p .nan
generate text --prefix "[Nope]"
generate text --prefix "C1CC"
generate text --prefix "hello world"
generate text --prefix "[Fe]"
generate text --max_length 0
generate text --max_length 100000
generate text --batch 0
generate text --seed -1
generate text --output out.txt
generate text --output norun
generate text --output nofolder/out.csv
generate text --output ""
generate text --accelerator tpu
generate text --accelerator ipu
generate text --workers -1
generate text --metrics --reference absent.smi
generate text --metrics --train absent.smi
generate text --metrics --reference empty.smi
generate text --metrics --reference bad.smi
generate text stray
generate text --unknown 3
embed
embed text
embed absent ok.smi
embed norun ok.smi
embed run ok.smi
embed text absent.smi
embed text norun
embed text picture.png
embed text nosmiles.csv
embed text empty.smi
embed text blank.smi
embed text bad.smi
embed text ok.csv --smiles_column structure
embed text ok.smi --smiles_column smiles
embed text ok.smi --pooling median
embed text ok.smi --long cut
embed text ok.smi --notation inchi
embed text ok.smi --tokens 0
embed text ok.smi --tokens -5
embed text ok.smi --tokens 1000000
embed text ok.smi --tokens 2
embed text ok.smi --micro_batch_size 0
embed text ok.smi --workers -1
embed text ok.smi --workers 0
embed text ok.smi --accelerator tpu
embed text ok.smi --output out.xlsx
embed text ok.smi --output norun
embed text ok.smi --output nofolder/out.npy
embed text ok.smi --output ""
embed text ok.smi --stereo perhaps
metrics
metrics ok.smi
metrics absent.smi --reference ok.smi
metrics ok.smi --reference absent.smi
metrics ok.smi --reference norun
metrics ok.smi --reference picture.png
metrics empty.smi --reference ok.smi
metrics blank.smi --reference ok.smi
metrics bad.smi --reference ok.smi
metrics ok.smi --reference bad.smi
metrics ok.smi --reference ok.smi --train bad.smi
metrics ok.smi --reference ok.smi --scaffolds bad.smi
metrics nosmiles.csv --reference ok.smi
metrics ok.csv --reference ok.csv --smiles_column structure
metrics ok.smi --reference ok.smi --output out.txt
metrics ok.smi --reference ok.smi --output ok.smi
metrics ok.smi --reference ok.smi --plot out.gif
metrics ok.smi --reference ok.smi --jobs 0
metrics ok.smi --reference ok.smi --published maybe
generate text --count 99999999999
generate text --batch 99999999999
generate text --output ../chains.csv
embed text ok.smi --micro_batch_size 99999999999
embed text ok.smi --workers 99999999999
"""

GOOD = """
generate text --count 3 --workers 1
embed text ok.smi --workers 1
metrics ok.smi --reference ok.csv --jobs 1
"""

TABLE = Table(BAD, GOOD, FILES, runs=("run", "text"))
