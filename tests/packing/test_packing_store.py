"""Stores: flat arrays on disk that come back unchanged or not at all."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import packing.verify
from packing import Budget, Ragged, make_plan
from packing.collate import collate_graphs
from packing.store import Store
from packing.verify import DamagedStore


def make_store(lengths=(3, 1, 2), edges=(2, 0, 1), seed=0) -> Store:
    random = np.random.default_rng(seed)
    n, e = sum(lengths), sum(edges)
    return Store(
        axes={"nodes": np.cumsum([0, *lengths]), "edges": np.cumsum([0, *edges])},
        fields={
            "z": random.integers(1, 10, n).astype(np.uint8),
            "pos": random.normal(size=(n, 3)).astype(np.float32),
            "edge_index": np.zeros((e, 2), np.int32),
            "y": random.normal(size=(len(lengths), 2)),
        },
        axis_of={"z": "nodes", "pos": "nodes", "edge_index": "edges"},
        info={"origin": "test", "units": {"y": "eV"}},
    )


def assert_equal(first: Store, second: Store) -> None:
    assert first.fields.keys() == second.fields.keys() and first.axes.keys() == second.axes.keys()
    for name in first.fields:
        assert first.fields[name].dtype == second.fields[name].dtype
        assert first.fields[name].shape == second.fields[name].shape
        assert np.array_equal(first.fields[name], second.fields[name]), name
    assert all(np.array_equal(first.axes[name], second.axes[name]) for name in first.axes)
    assert first.axis_of == second.axis_of and first.info == second.info
    assert first.fingerprint() == second.fingerprint()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=6), st.booleans())
@settings(max_examples=30)
def test_a_saved_store_comes_back_equal(tmp_path_factory, rows, verify):
    folder = tmp_path_factory.mktemp("store") / "deeper" / "data"
    store = make_store([n for n, _ in rows], [e for _, e in rows])
    store.save(folder)
    opened = Store.open(folder, verify)
    assert_equal(store, opened)
    assert len(opened) == len(rows)
    assert {entry.name for entry in folder.parent.iterdir()} == {"data"}


def test_an_opened_store_is_mapped_not_read(tmp_path):
    make_store().save(tmp_path / "data")
    opened = Store.open(tmp_path / "data")
    for name in ("z", "pos", "y"):
        base = opened.fields[name]
        assert not base.flags.writeable and isinstance(base.base, np.memmap), name


def test_axes_without_a_single_value(tmp_path):
    store = make_store(edges=(0, 0, 0))
    store.save(tmp_path / "data")
    opened = Store.open(tmp_path / "data", verify=True)
    assert_equal(store, opened)
    assert opened.sizes()["edges"].tolist() == [0, 0, 0] and opened["edge_index"][1].shape == (0, 2)


def test_a_mapped_store_goes_through_plan_and_collation(tmp_path):
    store = make_store()
    store.save(tmp_path / "data")
    opened, budget = Store.open(tmp_path / "data"), Budget(nodes=4, edges=3, graphs=2)
    plan = make_plan(opened.sizes(), budget)
    packs = plan.in_order().slice(0, plan.num_packs)
    fields = {"z": opened.ragged("z"), "pos": opened.ragged("pos")}
    found = collate_graphs(packs, budget, fields, opened.ragged("edge_index"), {"y": opened["y"]})
    expected = collate_graphs(
        packs, budget, {"z": store["z"], "pos": store["pos"]}, store["edge_index"], {"y": store["y"]}
    )
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_fields_and_sizes():
    store = make_store()
    assert len(store) == 3 and "z" in store and "x" not in store
    assert isinstance(store["z"], Ragged) and store["z"].lengths.tolist() == [3, 1, 2]
    assert store["y"].shape == (3, 2)
    assert {name: sizes.tolist() for name, sizes in store.sizes().items()} == {"nodes": [3, 1, 2], "edges": [2, 0, 1]}
    with pytest.raises(KeyError, match="no field 'x'; it has edge_index, pos, y, z"):
        store["x"]


@pytest.mark.parametrize("items", [[2, 0], [1, 1, 1], []])
def test_take_copies_items_with_all_their_fields(items):
    store = make_store()
    taken = store.take(np.array(items, np.int64))
    assert len(taken) == len(items) and taken.info == store.info
    for position, item in enumerate(items):
        for name in ("z", "pos", "edge_index"):
            assert np.array_equal(taken[name][position], store[name][item])
        assert np.array_equal(taken["y"][position], store["y"][item])
    assert taken.sizes()["nodes"].tolist() == store.sizes()["nodes"][items].tolist()


def test_stores_of_the_same_items_are_joined_without_copies():
    one = Store({"nodes": np.array([0, 2, 3])}, {"z": np.arange(3)}, {"z": "nodes"}, {"a": 1})
    other = Store({"edges": np.array([0, 0, 4])}, {"e": np.arange(4)}, {"e": "edges"}, {"b": 2})
    both = one.join(other)
    assert both.axis_of == {"z": "nodes", "e": "edges"} and both.info == {"a": 1, "b": 2}
    assert both.fields["z"] is one.fields["z"] and both.sizes()["edges"].tolist() == [0, 4]
    with pytest.raises(ValueError, match="axis edges has 1 items, another one 2"):
        one.join(Store({"edges": np.array([0, 4])}, {"e": np.arange(4)}, {"e": "edges"}))


def test_fingerprint_changes_with_any_value_name_or_dtype():
    store = make_store()
    found = {store.fingerprint()}
    for name, values in store.fields.items():
        for index in np.ndindex(values.shape):
            changed = values.copy()
            changed[index] += 1
            found.add(Store(store.axes, {**store.fields, name: changed}, store.axis_of).fingerprint())
    found.add(Store(store.axes, {**store.fields, "z": store.fields["z"].astype(np.int16)}, store.axis_of).fingerprint())
    renamed = {("w" if name == "y" else name): values for name, values in store.fields.items()}
    found.add(Store(store.axes, renamed, store.axis_of).fingerprint())
    found.add(Store({**store.axes, "nodes": np.array([0, 2, 4, 6])}, store.fields, store.axis_of).fingerprint())
    assert len(found) == 4 + sum(values.size for values in store.fields.values())
    assert store.take(np.arange(3)).fingerprint() == store.fingerprint()


def test_a_flipped_byte_in_any_file_is_found(tmp_path):
    make_store().save(tmp_path / "data")
    files = [file for file in (tmp_path / "data").iterdir() if file.suffix == ".npy"]
    assert len(files) == 6
    for file in files:
        content = file.read_bytes()
        for position in (0, len(content) // 2, len(content) - 1):
            broken = bytearray(content)
            broken[position] ^= 1
            file.write_bytes(broken)
            with pytest.raises(ValueError, match=f"{file.name} is damaged: the checksum of its array"):
                Store.open(tmp_path / "data", verify=True)
        file.write_bytes(content)
    Store.open(tmp_path / "data", verify=True)


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_any_byte_of_what_is_said_of_the_arrays_is_checked(tmp_path):
    folder = tmp_path / "data"
    make_store().save(folder)
    for file in (folder / "meta.json", folder / "meta.blake2b"):
        for position in range(0, file.stat().st_size, 13):
            flip(file, position)
            with pytest.raises(ValueError, match="meta.json is damaged|store format .* prepare it again"):
                Store.open(folder)
            flip(file, position)
    Store.open(folder)


def test_damage_is_named_with_a_remedy_when_a_store_is_opened(tmp_path):
    folder = tmp_path / "data"
    make_store().save(folder)
    flip(folder / "pos.npy", -1)
    with pytest.raises(
        DamagedStore, match="its array pos does not match; delete the folder .*data and prepare"
    ) as error:
        Store.open(folder)
    assert "delete" not in error.value.what and str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert len(Store.open(folder, verify=False)) == 3


def test_a_large_store_is_read_once_for_every_content(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing.verify, "_SMALL", 0)
    monkeypatch.setattr(packing.verify, "_LONG", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, read = tmp_path / "data", []
    digest = packing.verify.file_digest
    monkeypatch.setattr(packing.verify, "file_digest", lambda path: (read.append(path.name), digest(path))[1])
    make_store().save(folder)
    del read[:]
    for _ in range(2):
        Store.open(folder)
    assert len(read) == 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "not read again on this machine until it changes" in said[0]
    flip(folder / "z.npy", -1)
    with pytest.raises(DamagedStore, match="z.npy is damaged"):
        Store.open(folder)
    make_store(seed=4).save(folder)
    assert_equal(Store.open(folder), make_store(seed=4))


def test_a_store_of_an_earlier_version_is_read_and_sealed(tmp_path, capsys):
    folder = tmp_path / "data"
    make_store().save(folder)
    (folder / "meta.blake2b").unlink()
    assert_equal(Store.open(folder), make_store())
    assert "is of an earlier version" in capsys.readouterr().err
    assert_equal(Store.open(folder), make_store())
    assert capsys.readouterr().err == ""
    (folder / "meta.blake2b").unlink()
    flip(folder / "y.npy", -1)
    with pytest.raises(DamagedStore, match="y.npy is damaged"):
        Store.open(folder)


def test_a_file_cut_short_or_missing_is_found_without_reading_it(tmp_path):
    make_store().save(tmp_path / "data")
    for file in [file for file in (tmp_path / "data").iterdir() if file.suffix == ".npy"]:
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        with pytest.raises(ValueError, match=f"{file.name} is missing or cut short"):
            Store.open(tmp_path / "data")
        file.unlink()
        with pytest.raises(ValueError, match=f"{file.name} is missing or cut short"):
            Store.open(tmp_path / "data")
        file.write_bytes(content)


def test_no_store_and_another_format_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no store.*prepare the data first"):
        Store.open(tmp_path / "absent")
    make_store().save(tmp_path / "data")
    meta = tmp_path / "data" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        Store.open(tmp_path / "data")


def test_saving_replaces_the_whole_folder(tmp_path):
    old, new = make_store(seed=1), make_store((2, 2), (0, 1), seed=2)
    del new.fields["pos"], new.axis_of["pos"]
    old.save(tmp_path / "data")
    opened = Store.open(tmp_path / "data")
    new.save(tmp_path / "data")
    assert_equal(Store.open(tmp_path / "data", verify=True), new)
    assert not (tmp_path / "data" / "pos.npy").exists()
    assert np.array_equal(opened.fields["pos"], old.fields["pos"]), "readers of the old store keep what they mapped"
    opened.save(tmp_path / "data")
    assert_equal(Store.open(tmp_path / "data", verify=True), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_in_the_middle_leaves_the_old_store(tmp_path, monkeypatch, exists, after):
    old, new, calls = make_store(seed=1), make_store(seed=2), []
    if exists:
        old.save(tmp_path / "data")
    save = np.save

    def full_disk(file, *arguments, **options):
        calls.append(file)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        save(file, *arguments, **options)

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        new.save(tmp_path / "data")
    monkeypatch.undo()
    assert len(calls) == after + 1
    assert [entry.name for entry in tmp_path.iterdir()] == (["data"] if exists else [])
    if exists:
        assert_equal(Store.open(tmp_path / "data", verify=True), old)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(fields={"z": np.zeros(5)}), "offsets end at 6 but there are 5 values"),
        (dict(fields={"z": np.zeros(6), "y": np.zeros(2)}), "field y has 2 rows for 3 items"),
        (dict(axes={"nodes": np.array([0, 3, 4, 6]), "edges": np.array([0, 2])}), "axis edges has 1 items"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change, message):
    arguments = dict(axes={"nodes": np.array([0, 3, 4, 6])}, fields={"z": np.zeros(6)}, axis_of={"z": "nodes"})
    Store(**arguments)
    with pytest.raises(ValueError, match=message):
        Store(**{**arguments, **change})
