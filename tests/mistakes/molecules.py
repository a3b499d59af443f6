"""Mistakes in what a device makes of the counts that it gets: masks, owners, positions, edges."""

from mistakes.mechanism import mutation

COMPACT = "tests/models/test_compact.py"
MASKS = f"{COMPACT}::test_masks_are_those_of_the_host"


@mutation("the last molecule's atoms are padding", "ipu_chem.models.compact", tests=MASKS)
def _(compact, wrong):
    @wrong(compact, "masks_from_ends")
    def without_the_last(original, graph_ends, num_nodes):
        node_mask, graph_index, graph_mask = original(graph_ends, num_nodes)
        return node_mask & (graph_index < graph_ends.shape[1] - 1), graph_index, graph_mask


@mutation("an atom belongs to the molecule before", "ipu_chem.models.compact", tests=MASKS)
def _(compact, wrong):
    @wrong(compact, "masks_from_ends")
    def first_atom_of_each(original, graph_ends, num_nodes):
        node_mask, graph_index, graph_mask = original(graph_ends, num_nodes)
        return node_mask, graph_index.roll(1, 1).minimum(graph_index), graph_mask


@mutation("padding edges are real", "ipu_chem.models.compact", tests=f"{COMPACT}::test_equals_the_molecules_one_by_one")
def _(compact, wrong):
    @wrong(compact.CompactInputs, "expand")
    def one_more(original, model, *inputs):
        expanded = original(model, *inputs)
        if not model.takes_edges:
            return expanded
        edge_mask = expanded.edge_mask
        return expanded._replace(edge_mask=edge_mask | edge_mask.roll(1, 1))


@mutation(
    "16-bit positions stay steps",
    "ipu_chem.models.compact",
    tests=f"{COMPACT}::test_sixteen_bits_cost_next_to_nothing",
)
def _(compact, wrong):
    @wrong(compact.CompactInputs, "expand")
    def in_steps(original, model, *inputs):
        graph = original(model, *inputs)
        return graph._replace(pos=graph.pos / (model.position_step or 1.0))


@mutation(
    "atoms of other molecules are neighbors",
    "ipu_chem.models.device_edges",
    tests="tests/models/test_device_edges.py::test_edges_are_the_hosts_edges",
)
def _(device_edges, wrong):
    @wrong(device_edges, "neighbors_in_packs")
    def of_one_molecule(original, pos, graph_index, *rest):
        return original(pos, graph_index * 0, *rest)
