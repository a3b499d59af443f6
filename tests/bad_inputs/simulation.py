"""Dynamics and relaxations that cannot be; ``run`` is the folder of a trained run."""

from bad_inputs.harness import Table

WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
FILES = {
    "water.xyz": WATER,
    "salt.xyz": "2\nsalt\nNa 0 0 0\nCl 2.4 0 0\n",
    "atom.xyz": "1\natom\nO 0 0 0\n",
    "two.xyz": "2\ntwo\nO 0 0 0\nO 0 0 0\n",
    "notes.txt": "hello\n",
    "empty.xyz": "",
    "nofolder": "a file\n",
    "norun/readme.txt": "nothing\n",
}

BAD = """
md
md run
md --structure water.xyz
md absent --structure water.xyz
md norun --structure water.xyz
md notes.txt --structure water.xyz
md run --structure absent.xyz
md run --structure norun
md run --structure notes.txt
md run --structure empty.xyz
md run --structure salt.xyz
md run --structure atom.xyz
md run --structure two.xyz
md run --structure water.xyz --frame 5
md run --structure water.xyz --frame -2
md run --structure water.xyz --frame 0.5
md run --structure water.xyz --thermostat nose
md run --structure water.xyz --temperature -5
md run --structure water.xyz --temperature nan
md run --structure water.xyz --temperature .nan
md run --structure water.xyz --temperature .inf
md run --structure water.xyz --timestep 0
md run --structure water.xyz --timestep -1
md run --structure water.xyz --timestep .nan
md run --structure water.xyz --time 0
md run --structure water.xyz --time -1
md run --structure water.xyz --time .inf
md run --structure water.xyz --time 1e30
md run --structure water.xyz --friction -1
md run --structure water.xyz --thermostat langevin --friction .nan
md run --structure water.xyz --stride 0
md run --structure water.xyz --interval 0
md run --structure water.xyz --interval 10
md run --structure water.xyz --interval 0.9
md run --structure water.xyz --trajectory dcd
md run --structure water.xyz --accelerator tpu
md run --structure water.xyz --accelerator ipu
md run --structure water.xyz --dtype float16
md run --structure water.xyz --skin -1
md run --structure water.xyz --skin .nan
md run --structure water.xyz --threads -1
md run --structure water.xyz --seed -1
md run --structure water.xyz --seed 99999999999
md run --structure water.xyz --out nofolder
md run --structure water.xyz --out nofolder/md
md run --structure water.xyz --out ""
md run --structure water.xyz --outs md
md run --resume absent
md --resume norun
md --resume
relax
relax run
relax run --structures absent.xyz
relax run --structures notes.txt
relax run --structures empty.xyz
relax run --structures salt.xyz
relax absent --structures water.xyz
relax run --structures water.xyz --fmax 0
relax run --structures water.xyz --fmax -0.1
relax run --structures water.xyz --fmax .nan
relax run --structures water.xyz --interval 2
relax run --structures water.xyz --interval 0.9
relax run --structures water.xyz --steps 0
relax run --structures water.xyz --steps 1.5
relax run --structures water.xyz --optimizer newton
relax run --structures water.xyz --dtype half
relax run --structures water.xyz --accelerator gpu
relax run --structures water.xyz --threads -2
relax run --structures water.xyz --output norun
relax run --structures water.xyz --output nofolder/out.extxyz
relax run --structures water.xyz --output out.pdb
relax run --structures water.xyz --output water.xyz
md run --structure water.xyz --threads 99999999
relax run --structures water.xyz --threads 99999999
"""

GOOD = """
md run --structure water.xyz --time 0.001 --progress false --out md1
relax run --structures water.xyz --steps 200 --fmax 1.0 --output relaxed.extxyz
"""

TABLE = Table(BAD, GOOD, FILES, runs=("run",))
