"""i-PI: a real one, in its own process, gets ASE's energies and forces through a socket, and moves atoms as there."""

import os
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from engine_cases import STEP_FS, STEPS, assert_conserved, assert_same, by_ase, example, moved_by_ase

from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.engines.ipi import serve_ipi

# i-PI with one structure at rest, and everything about each step with all digits; units are those of ASE.
SERVER = """
import sys
import numpy as np
from ase.io import read
from ipi.scripting import InteractiveSimulation, simulation_xml

folder, connection, steps, step, beads = sys.argv[1:]
forces = f"<ffsocket name='run' mode={connection}<latency> 1e-4 </latency> <timeout> 300 </timeout> </ffsocket>"
motion = f"<motion mode='dynamics'> <dynamics mode='nve'> <timestep units='femtosecond'> {step} </timestep>"
atoms = read(f"{folder}/start.traj")
atoms.set_cell([99.0, 99.0, 99.0])  # i-PI has a cell always
atoms.arrays["mass"] = atoms.get_masses()
frames = [atoms] + [atoms.copy() for _ in range(int(beads) - 1)]
for number, frame in enumerate(frames[1:]):
    frame.positions += np.random.default_rng(number).normal(0, 0.02, frame.positions.shape)
simulation = InteractiveSimulation(simulation_xml(
    frames if len(frames) > 1 else atoms, forces, motion + "</dynamics> </motion>", output="<output> </output>",
    **({"temperature": 300} if len(frames) > 1 else {}),
))
rows, found = [], []
for turn in range(int(steps)):
    if "stretch" in folder and turn == 3:
        simulation.syslist[0].cell.h = simulation.syslist[0].cell.h * 1.01
    simulation.run(1, write_outputs=False)
    rows.append([float(simulation.properties(name)) for name in ("potential", "kinetic_md")])
structures = simulation.get_structures()
for one in structures if len(frames) > 1 else [structures]:
    found.append((one.positions, one.get_potential_energy(), one.get_forces()))
positions, energies, forces = map(np.array, zip(*found))
np.savez(f"{folder}/end.npz", rows=np.array(rows), positions=positions, energies=energies, forces=forces)
simulation.stop()
"""


@contextmanager
def started(command, folder, client):
    """Start i-PI, let a client serve it as soon as it listens, and see both end well."""
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, cwd=str(folder), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                client()
                break
            except ValueError as error:
                waits = "no i-PI listens" in str(error) and time.monotonic() < deadline and server.poll() is None
                assert waits, f"{error}\n{(folder / 'log').read_text()}"
                time.sleep(0.1)
        assert server.wait(300) == 0, (folder / "log").read_text()
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def simulate(tmp_path):
    """Run i-PI on a molecule with a calculator as its client; returns what it wrote."""
    pytest.importorskip("ipi.scripting", reason="i-PI was NOT tested: it is not installed")

    def make(atoms, calculator, connection, address, steps=STEPS, beads=1, folder=tmp_path):
        atoms.write(folder / "start.traj")
        (folder / "server.py").write_text(SERVER)
        command = [sys.executable, "server.py", str(folder), connection, str(steps), str(STEP_FS), str(beads)]
        with started(command, folder, lambda: serve_ipi(atoms, calculator, timeout=300, **address)):
            with np.load(folder / "end.npz") as arrays:
                return dict(arrays)

    return make


@pytest.fixture
def by_unix_socket():
    """A socket that no other run of these tests has; an i-PI that is killed leaves its file behind."""
    name = f"ipu_chem_{uuid.uuid4().hex}"
    yield f"'unix'> <address> {name} </address>", {"unixsocket": name}
    if os.path.exists(f"/tmp/ipi_{name}"):
        os.unlink(f"/tmp/ipi_{name}")


def by_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return f"'inet'> <address> localhost </address> <port> {port} </port>", {"port": port}


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_it_moves_atoms_as_ase_does(make_run, molecules, simulate, by_unix_socket, kind):
    run, atoms = make_run(), molecules[kind == "inet"]
    atoms.positions -= atoms.positions.mean(0)
    before = atoms.copy()
    place = by_unix_socket if kind == "unix" else by_port()
    end = simulate(atoms, Calculator.from_run(run, dtype="float64"), *place)
    assert np.array_equal(atoms.positions, before.positions) and atoms.calc is None
    moved = before.copy()
    moved.positions = end["positions"][0]
    assert_same((end["energies"][0], end["forces"][0]), by_ase(run, moved))
    expected, _ = moved_by_ase(run, before)
    np.testing.assert_allclose(moved.positions, expected, atol=1e-5)
    assert_conserved(end["rows"].sum(1), end["rows"][:, 0])


def test_beads_of_a_path_integral(make_run, molecules, simulate, by_unix_socket):
    run, atoms = make_run(), molecules[0]
    end = simulate(atoms, Calculator.from_run(run, dtype="float64"), *by_unix_socket, steps=5, beads=4)
    assert end["positions"].shape == (4, 9, 3)
    for positions, energy, forces in zip(end["positions"], end["energies"], end["forces"]):
        moved = atoms.copy()
        moved.positions = positions
        assert_same((energy, forces), by_ase(run, moved))


def test_a_cell_that_changes_ends_the_client(make_run, molecules, simulate, by_unix_socket, tmp_path):
    inner = tmp_path / "stretch"
    inner.mkdir()
    with pytest.raises(AssertionError, match="i-PI changes its cell.*mode nve or nvt"):  # of `started`
        simulate(molecules[1], Calculator.from_run(make_run()), *by_unix_socket, folder=inner)


def test_what_no_run_knows_is_refused_in_one_sentence(make_run, charged_run, molecules):
    calculator = Calculator.from_run(make_run(model={"name": "painn"}))
    periodic, strange, ion = (molecules[0].copy() for _ in range(3))
    periodic.pbc = True
    strange.numbers[0] = 7
    ion.info.update(charge=-1, spin=0)
    for atoms, sentence in (
        (periodic, "C2H6O has a periodic cell"),
        (strange, "holds N, but .* molecules of H, C, O alone"),
        (ion, "charge=-1, but painn takes no charges"),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            serve_ipi(atoms, calculator, unixsocket="nobody_listens_here")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="atoms.info.*'charge'"):
        serve_ipi(molecules[0], Calculator.from_run(charged_run), unixsocket="nobody_listens_here")


def test_nobody_listens(make_run, molecules):
    calculator = Calculator.from_run(make_run())
    with pytest.raises(ValueError, match="no i-PI listens at the socket /tmp/ipi_nobody_listens_here .*ffsocket"):
        serve_ipi(molecules[0], calculator, unixsocket="nobody_listens_here")
    with pytest.raises(ValueError, match="no i-PI listens at localhost:1 "):
        serve_ipi(molecules[0], calculator, port=1)
    assert not Path("/tmp/ipi_nobody_listens_here").exists()


def test_what_the_readme_shows_runs(make_run, ethanol, by_unix_socket, tmp_path, monkeypatch):
    pytest.importorskip("ipi", reason="i-PI was NOT tested: it is not installed")
    make_run("runs/ethanol")
    monkeypatch.chdir(tmp_path)
    ethanol.write("ethanol.xyz", plain=True)
    name = by_unix_socket[1]["unixsocket"]
    (tmp_path / "input.xml").write_text(example("ffsocket", "text").replace("> ethanol <", f"> {name} <"))
    client = compile(example("serve_ipi").replace('"ethanol")', f'"{name}")'), "README.md", "exec")
    with started([str(Path(sys.executable).parent / "i-pi"), "input.xml"], tmp_path, lambda: exec(client, {})):
        table = np.loadtxt(tmp_path / "i-pi.md")  # its usual table: time, step, conserved energy, ...
        assert np.isfinite(table).all() and table[-1, 1] >= 10
        assert len(list(tmp_path.glob("i-pi.pos_*.xyz"))) == 4
