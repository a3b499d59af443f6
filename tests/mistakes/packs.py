"""Mistakes between a store and the arrays that are handed to a device."""

from mistakes.mechanism import mutation

COLLATE = "tests/packing/test_packing_collate.py"


@mutation(
    "offsets in a dtype that is too small",
    "packing.collate",
    tests=f"{COLLATE}::test_edge_index_is_wide_enough_for_the_last_node",
)
def _(collate, wrong):
    @wrong(collate, "collate_graphs")
    def wrapped(original, *args, **kwargs):
        arrays = original(*args, **kwargs)
        return {**arrays, "edge_index": arrays["edge_index"].astype("uint8")}


@mutation(
    "ends of molecules in a dtype that is too small",
    "packing.collate",
    tests=f"{COLLATE}::test_counts_are_wide_enough_for_a_full_pack",
)
def _(collate, wrong):
    @wrong(collate, "collate_graphs")
    def wrapped(original, *args, **kwargs):
        arrays = original(*args, **kwargs)
        return {**arrays, "graph_ends": arrays["graph_ends"].astype("uint8")}


@mutation(
    "padding weighs as much as a label",
    "ipu_chem.batches.loader",
    tests="tests/batches/test_loader.py::test_missing_labels_weigh_nothing_and_the_others_share_the_step",
)
def _(loader, wrong):
    @wrong(loader, "weights_of")
    def of_all(original, counts, labels_of_steps):
        return original(counts | True, labels_of_steps)


@mutation(
    "64-bit integers travel as they are",
    "ipu_chem.backends.poptorch.backend",
    tests="tests/backends/poptorch/test_backend.py::test_wide_dtypes_travel_narrow",
)
def _(backend, wrong):
    @wrong(backend, "to_ipu_types")
    def but_integers(original, batch):
        pairs = zip(batch, original(batch))
        return type(batch)(*(new if field.is_floating_point() else field for field, new in pairs))
