"""Made-up molecules and sequences have the published sizes, fill the packs of a call and are the same everywhere."""

import numpy as np
import pytest
from support import expanded

from benchmarks import generated, throughput
from benchmarks.histograms import all_pairs, sizes_of
from ipu_chem.backends.options import ALONE


def feed(*words):
    settings = throughput.read(list(words))
    if settings.is_graph_model:
        return generated.graph_feed(settings, ALONE), settings
    return generated.token_feed(settings, 684, ALONE), settings


@pytest.mark.parametrize("dataset, mean", [("qm9", 18.033), ("hydronet_2_7m", 62.940), ("hydronet", 70.688)])
def test_molecules_are_as_large_as_the_data_sets(dataset, mean):
    made, _ = feed("--dataset", dataset, "--batching.micro_batch_size", "2000")
    assert made.sizes.mean() == pytest.approx(mean, rel=0.01)
    assert set(made.sizes) <= set(generated.HISTOGRAMS[dataset])
    assert sizes_of(generated.HISTOGRAMS[dataset]).mean() == pytest.approx(mean, abs=1e-3)


WORK = {
    "qm9": ("--dataset", "qm9"),
    "padded": ("--dataset", "qm9", "--layout", "padded"),
    "clusters": ("--dataset", "hydronet_500k"),
    "tokens": ("--model", "chemgpt-4.7m"),
    "padded tokens": ("--model", "chemgpt-4.7m", "--layout", "padded"),
}


@pytest.mark.parametrize("packs", [1, 7, 64])
@pytest.mark.parametrize("words", WORK.values(), ids=WORK)
def test_one_call_takes_everything(words, packs):
    made, settings = feed(*words, "--batching.micro_batch_size", str(packs))
    (batch,) = made.loader.epoch(0, 0)
    assert made.plan.num_packs in (packs, packs - 1) and batch[1] == len(made.sizes) == len(made.plan.sizes)
    assert made.plan.max_items_per_pack == 1 if settings.layout == "padded" else len(made.sizes) > 1.4 * packs
    assert made.plan.num_packs == made.plan.lower_bound  # proven, so the clock has not stopped it


def test_the_same_is_made_every_time():
    for words in WORK.values():
        (one, _), (two, _) = (
            feed(*words, "--batching.micro_batch_size", "9"),
            feed(*words, "--batching.micro_batch_size", "9"),
        )
        assert np.array_equal(one.plan.items, two.plan.items) and np.array_equal(one.sizes, two.sizes)
        for left, right in zip(next(one.loader.epoch(0, 1))[0], next(two.loader.epoch(0, 1))[0]):
            assert left.equal(right)


@pytest.mark.parametrize("neighbors", [28, 5])
def test_every_atom_has_its_neighbors(neighbors):
    made, settings = feed("--batching.micro_batch_size", "9", "--neighbors", str(neighbors))
    batch = expanded(next(made.loader.epoch(0, 0))[0], made.position_step)
    assert batch.edge_index.shape == (9, 2, 36 * neighbors) and made.plan.num_packs == 9
    for pack in range(9):
        source, target = batch.edge_index[pack][:, batch.edge_mask[pack]].long().numpy()
        molecule = batch.graph_index[pack].long().numpy()
        real = batch.node_mask[pack].numpy()
        assert real[source].all() and real[target].all() and (molecule[source] == molecule[target]).all()
        assert (source != target).all() and len(set(zip(source, target))) == len(source)
        sizes = np.bincount(molecule[real])
        assert np.array_equal(np.bincount(target, minlength=36)[real], np.minimum(sizes - 1, neighbors)[molecule[real]])
        if neighbors == 28:  # QM9's largest molecules have 29 atoms
            assert len(source) == all_pairs(sizes).sum()
        distance = (batch.pos[pack, source] - batch.pos[pack, target]).norm(dim=1)
        assert float(distance.max()) < settings.cutoff and batch.z[pack].numpy()[real].all()


def test_more_neighbors_than_slots_are_refused_by_name():
    with pytest.raises(ValueError, match="hydronet has molecules of 90 atoms, a pack 36 slots; set nodes higher"):
        feed("--dataset", "hydronet", "--nodes", "36")
