"""Processes that share a folder, some of them killed: every candidate is finished, and by one process at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Training is a wait here, so that what is left is who trains what; all that decides that is real.
SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path

from ipu_chem import heartbeats
from ipu_chem.executors import Engine
from ipu_chem.scaling import campaign, worker
from ipu_chem.scaling.candidates import Candidate, Progress, read_progress, write_progress
from ipu_chem.config import from_dict, to_dict

out, workers, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
base = to_dict(from_dict({"accelerator": "cpu"}))
candidates = [Candidate(f"c{n}", 0, {**base, "out": str(out / f"c{n}")}) for n in range(12)]

def note(candidate, word):
    with open(out / "journal", "a") as file:
        file.write(json.dumps([candidate.name, word, os.getpid()]) + "\\n")

def trained(candidate, budget, threads, claim):
    note(candidate, "begins")
    until = time.monotonic() + random.uniform(0.02, 0.2)
    while time.monotonic() < until:
        time.sleep(0.005)
        claim.check()
    step = 10 if budget == 1 else 4
    reached = Progress("finished" if budget == 1 else "stopped", step, 10, 1.0, {"mae": 0.5})
    note(candidate, "ends")
    write_progress(candidate, reached)
    return reached

class Now:
    def __init__(self, function, arguments):
        self.error = None
        try:
            self.found = function(*arguments)
        except Exception as error:
            self.error = error
    def done(self):
        return True
    def result(self):
        if self.error is not None:
            raise self.error
        return self.found

class Pool:
    def submit(self, function, *arguments):
        return Now(function, arguments)

worker._train = trained
campaign._READ_EVERY = 0.05
out.mkdir()
processes = []
for _ in range(workers):
    process = os.fork()
    if process == 0:
        random.seed(os.getpid())
        engine = Engine(Pool(), True, 1, 1, lambda: None)
        for budget in (0.4, 1.0):
            found = campaign.train_all(candidates, budget, progress=False, engine=engine)
            assert all(one.reaches(budget) for one in found)
        os._exit(0)
    processes.append(process)
random.seed(int(sys.argv[4]))
victims = random.sample(processes, kills)
for victim in victims:
    time.sleep(random.uniform(0.05, 0.3))
    os.kill(victim, signal.SIGKILL)
ends = {process: os.waitpid(process, 0)[1] for process in processes}
steps = [read_progress(one).step for one in candidates]
print(json.dumps({"ends": [end for process, end in ends.items() if process not in victims], "steps": steps}))
"""


@pytest.mark.parametrize(("workers", "kills"), [(6, 0), (6, 3), (20, 10)])
def test_many_processes_of_which_some_are_killed(tmp_path, workers, kills):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "out"), str(workers), str(kills), "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ends"] == [0] * (workers - kills), done.stderr
    assert found["steps"] == [10] * 12
    rows = list(enumerate(map(json.loads, (tmp_path / "out" / "journal").read_text().splitlines())))
    begun = {(name, process): [] for _, (name, _, process) in rows}
    times = {name: [] for name, _ in begun}  # from beginnings to ends; of the killed there is none
    for place, (name, word, process) in rows:
        if word == "begins":
            begun[name, process].append(place)
        else:
            times[name].append((begun[name, process].pop(), place))
    for name, spans in times.items():
        assert 2 <= len(spans), name
        assert all(end < start for (_, end), (start, _) in zip(spans, spans[1:])), (
            f"{name} was trained by two at a time"
        )
    assert sum(map(len, begun.values())) <= kills and sum(map(len, times.values())) <= 24 + kills
    claims = [path.name for path in (tmp_path / "out").glob("c*/.claim.*")]
    assert len(claims) == 12 and all(name.endswith(".free") for name in claims)
