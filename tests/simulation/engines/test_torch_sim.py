"""torch-sim: several molecules at once have the energies and forces that ASE finds one by one, and move as there."""

import numpy as np
import pytest
import torch
from engine_cases import STEP_FS, STEPS, assert_conserved, assert_same, by_ase, example, moved_by_ase

ts = pytest.importorskip("torch_sim", reason="torch-sim was NOT tested: it is not installed")

from ipu_chem.data.checks import MAX_Z  # noqa: E402
from ipu_chem.simulation.engines.torch_sim import TorchSimModel  # noqa: E402

CPU = torch.device("cpu")


def state_of(atoms, dtype=torch.float64):
    return ts.io.atoms_to_state(atoms, CPU, dtype)


def split(values, molecules):
    return np.split(values.numpy(), np.cumsum([len(atoms) for atoms in molecules])[:-1])


@pytest.mark.parametrize("kind", ["painn", "schnet"])
def test_several_at_once_are_those_of_ase_one_by_one(make_run, molecules, kind):
    run = make_run(model={"name": kind})
    model = TorchSimModel.from_run(run)
    lone = molecules[1][:1]
    for group in (molecules, molecules[::-1], [*molecules, lone, *molecules], [lone], molecules[:1]):
        found = model(state_of(group))
        assert found["energy"].shape == (len(group),) and "energy_std" not in found
        for atoms, energy, forces in zip(group, found["energy"].tolist(), split(found["forces"], group)):
            expected = by_ase(run, atoms)
            if len(atoms) > 1:
                assert_same((energy, forces), expected)
            else:
                assert energy == pytest.approx(expected[0], rel=1e-12) and not forces.any()


def test_float32_and_dictionaries_of_values(make_run, molecules):
    run = make_run()
    state = state_of(molecules, torch.float32)
    found = TorchSimModel.from_run(run, dtype=torch.float32)(state)
    assert found["energy"].dtype == found["forces"].dtype == torch.float32
    for atoms, forces in zip(molecules, split(found["forces"], molecules)):
        expected = by_ase(run, atoms)[1]
        np.testing.assert_allclose(forces, expected, atol=1e-4 * np.abs(expected).max())
    values = {key: getattr(state, key) for key in ("positions", "atomic_numbers", "system_idx", "cell", "pbc")}
    again = TorchSimModel.from_run(run, dtype=torch.float32)(values)
    assert torch.equal(again["energy"], found["energy"])


def test_several_runs_give_their_mean_and_spread(make_run, molecules):
    runs = [make_run(f"run{seed}", seed) for seed in range(3)]
    found = TorchSimModel.from_run(runs)(state_of(molecules))
    alone = [TorchSimModel.from_run(run)(state_of(molecules)) for run in runs]
    for key in ("energy", "forces"):
        values = torch.stack([one[key] for one in alone])
        torch.testing.assert_close(found[key], values.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[f"{key}_std"], values.std(0, unbiased=False), rtol=1e-6, atol=1e-9)
    assert found["energy_std"].min() > 0.01


def test_atoms_that_move_get_new_pairs(make_run, molecules):
    run = make_run()
    model, rng = TorchSimModel.from_run(run), np.random.default_rng(1)
    for size in (0.02, 0.02, 0.3, 0.02):
        for atoms in molecules:
            atoms.positions += rng.normal(0, size, atoms.positions.shape)
        found = model(state_of(molecules))
        for atoms, energy, forces in zip(molecules, found["energy"].tolist(), split(found["forces"], molecules)):
            assert_same((energy, forces), by_ase(run, atoms))


def test_atoms_of_a_system_need_not_lie_side_by_side(make_run, molecules):
    model = TorchSimModel.from_run(make_run())
    state = state_of(molecules)
    sorted_values = {key: getattr(state, key) for key in ("positions", "atomic_numbers", "system_idx")}
    expected = model(sorted_values)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(state.positions)))
    mixed = {key: value[order] for key, value in sorted_values.items()}
    for _ in range(2):
        found = model(mixed)
        torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-12, atol=0)
        torch.testing.assert_close(found["forces"], expected["forces"][order], rtol=1e-9, atol=1e-9)
    values = {**mixed, "system_idx": 2 * mixed["system_idx"]}
    with pytest.raises(ValueError, match="system 1 has no atoms"):
        model(values)


def test_constant_energy_from_rest_moves_atoms_as_ase_does(make_run, molecules):
    run = make_run()
    model = TorchSimModel.from_run(run)
    units = ts.units.MetalUnits
    dt = torch.tensor(STEP_FS * 1e-3 * units.time, dtype=torch.float64)
    start, move = ts.integrators.nve(model, dt=dt, kT=torch.tensor(0.0, dtype=torch.float64))
    state = start(state_of(molecules), seed=0)
    state.momenta = torch.zeros_like(state.momenta)
    potentials, totals = [], []
    for _ in range(STEPS):
        state = move(state, dt=dt)
        kinetic = (state.momenta.square().sum(1) / (2 * state.masses)).numpy()
        potentials.append(state.energy.numpy().copy())
        totals.append(state.energy.numpy() + [kinetic[:9].sum(), kinetic[9:].sum()])
    for number, (atoms, positions) in enumerate(zip(molecules, split(state.positions, molecules))):
        expected, _ = moved_by_ase(run, atoms)
        np.testing.assert_allclose(positions, expected, atol=1e-5)
        assert np.abs(expected - atoms.positions).max() > 0.05
        assert_conserved(np.array(totals)[:, number], np.array(potentials)[:, number])


def test_what_no_run_knows_is_refused_in_one_sentence(make_run, charged_run, molecules):
    model = TorchSimModel.from_run(make_run(model={"name": "painn"}))
    periodic = [atoms.copy() for atoms in molecules]
    for atoms in periodic:
        atoms.set_cell([9, 9, 9])
        atoms.pbc = True
    strange, close = molecules[1].copy(), molecules[1].copy()
    strange.numbers[0] = 7
    close.positions[1] = close.positions[0]
    ion = state_of(molecules)
    ion.charge = torch.tensor([0, 1])
    for state, sentence in (
        (state_of(periodic), "states have a pbc .*pbc=False"),
        (state_of([molecules[0], strange]), "system 1 holds N, but .* molecules of H, C, O alone"),
        (state_of([molecules[0], close]), "system 1: atoms 0 .O. and 1 .H. are 0.000 Å apart"),
        (ion, "states have a charge .*charge=0"),
    ):
        model(state_of(molecules))
        with pytest.raises(ValueError, match=sentence) as error:
            model(state)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="takes charges of molecules, which states of torch-sim do not have"):
        TorchSimModel.from_run(charged_run)
    with pytest.raises(ValueError, match="skin=-1"):
        TorchSimModel.from_run(make_run(model={"name": "painn"}), skin=-1)
    assert MAX_Z < 256  # atomic numbers are kept in 8 bits


def test_what_the_readme_shows_runs(make_run, tmp_path, monkeypatch, capsys):
    make_run("runs/ethanol")
    monkeypatch.chdir(tmp_path)
    exec(compile(example("torch_sim"), "README.md", "exec"), {})
    assert "[48, 3]" in capsys.readouterr().out
