import numpy as np
import pytest
import torch
from support import random_store

from ipu_chem.backends.options import Batching
from ipu_chem.loader import PackLoader
from packing import Budget, make_plan

BUDGET = Budget(nodes=24, edges=160, graphs=6)


def make_loader(labels=None, batching=None, items=None, budget=BUDGET, seed=0):
    store = random_store(np.random.default_rng(seed), 40, targets=2)
    items = np.arange(40) if items is None else items
    sizes = {axis: store.sizes()[axis][items] for axis in ("nodes", "edges")}
    labels = store.fields["y"] if labels is None else labels
    return PackLoader(store, items, make_plan(sizes, BUDGET), labels, budget, batching or Batching(2, 2))


def test_missing_labels_weigh_nothing_and_the_others_share_the_step():
    labels = np.random.default_rng(1).normal(size=(40, 2))
    labels[::3, 1] = np.nan
    for batch, molecules in make_loader(labels).epoch(0, 0):
        assert torch.isfinite(batch.y).all()
        known = batch.weight[batch.weight > 0]
        # One weight for every label there is: two a molecule, less the missing ones.
        assert molecules <= len(known) < 2 * molecules
        torch.testing.assert_close(known, torch.full_like(known, 1 / len(known)))
        assert not batch.weight[~batch.graph_mask].any()


def test_an_epoch_entered_in_the_middle_is_the_rest_of_it():
    loader = make_loader(batching=Batching(1, 2))
    whole = list(loader.epoch(7, 2))
    assert len(whole) == loader.calls_per_epoch > 3
    for (batch, count), (expected, molecules) in zip(loader.epoch(7, 2, first_call=2), whole[2:]):
        assert count == molecules
        assert all(torch.equal(a, b) for a, b in zip(batch, expected))


def test_epochs_see_every_molecule_once_in_ever_new_company():
    loader = make_loader(items=np.arange(5, 35))
    label = loader._y[:, 0]
    seen = []
    for epoch in (0, 1):
        packs = [pack for batch, _ in loader.epoch(0, epoch) for pack in zip(batch.y[:, :, 0], batch.graph_mask)]
        seen.append([tuple(y[mask].tolist()) for y, mask in packs])
        assert sorted(value for pack in seen[-1] for value in pack) == sorted(label[5:35].tolist())
    assert {frozenset(pack) for pack in seen[0]} != {frozenset(pack) for pack in seen[1]}


def test_every_batch_has_the_shape_of_the_example():
    loader = make_loader(batching=Batching(3, 2, 2))
    for training in (True, False):
        example = loader.example(training)
        batches = [batch for batch, _ in (loader.epoch(0, 0) if training else loader.evaluation())]
        for batch in batches:
            assert [(field.shape, field.dtype) for field in batch] == [(f.shape, f.dtype) for f in example]


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="a store of 40 and targets for 39: these do not belong together"):
        make_loader(labels=np.zeros((39, 2)))
    with pytest.raises(ValueError, match="nodes of a pack, its shape has 10"):
        make_loader(budget=Budget(nodes=10, edges=160, graphs=6))
