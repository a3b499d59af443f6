"""Drop-ins of packing.adapters in other libraries' own examples: lines changed, steps, real share, speed.

    python benchmarks/adapter_examples.py [--only pyg huggingface jraph grain poptorch] [--quick] [--shared PATH]

The loops before and after are in adapter_loops.py and take turns on the same items, one thread; seconds are CPU
seconds. What is not installed is skipped, and said so. PopTorch's section takes PopTorch or its double
(PYTHONPATH=tests/poptorch_double). Exits with 1 when a goal is missed.
"""

import contextlib
import io
import itertools
import os
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from benchmarks import adapter_loops as loops
from benchmarks import molecules
from benchmarks.adapter_items import graph_network, molhiv, moses
from benchmarks.common import Goals, arguments, interleaved, machine_line, median_ratio, print_table, throughput_line
from benchmarks.histograms import QM9, sizes_of
from packing import Budget, Ragged
from packing.collate import collate_graphs

NEEDS = {
    "pyg": ("torch", "torch_geometric"),
    "huggingface": ("torch", "transformers", "accelerate", "datasets"),
    "jraph": ("jax", "jraph"),
    "grain": ("grain",),
    "poptorch": ("torch", "poptorch"),
}


def main() -> int:
    """Run every section, then judge."""
    argv = sys.argv[1:]
    chosen = list(NEEDS)
    if "--only" in argv:
        place = argv.index("--only") + 1
        end = next((i for i in range(place, len(argv)) if argv[i].startswith("-")), len(argv))
        chosen = [name for name in NEEDS if name in argv[place:end]]
        argv = argv[: place - 1] + argv[end:]
    options = arguments(__doc__, argv)
    libraries = sorted({library for name in chosen for library in NEEDS[name] if find_spec(library)})
    print(machine_line("float32, 1 thread", "numpy", "scipy", *libraries))
    goals, rates = Goals(), []
    for name in chosen:
        missing = [library for library in NEEDS[name] if find_spec(library) is None]
        if missing:
            print(f"\n{name}: NOT run, {', '.join(missing)} is not installed.", flush=True)
            continue
        rates.append(SECTIONS[name](options, goals))
    status = goals.finish(not options.no_goals and not options.quick)
    print(throughput_line(statistics.median(rates) if rates else 0.0, 1.0))
    return status


def show(goals: Goals, name: str, before: Callable[..., Any], after: Callable[..., Any], tag: str = "") -> None:
    """Print the changed lines of an example."""
    count, lines = loops.changed_lines(before, after)
    print(f"\n```diff\n{chr(10).join(lines)}\n```", flush=True)
    goals.at_most(f"{name}: lines changed{tag}", count, 3)


def percent(part: float) -> str:
    """A fraction for a table."""
    return f"{100 * part:.1f} %"


def pyg(options: Any, goals: Goals) -> float:
    """SchNet on QM9 in PyTorch Geometric's loop."""
    import torch
    from torch_geometric.data import Data
    from torch_geometric.nn import SchNet
    from torch_geometric.transforms import Pad

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    store, origin = molecules.qm9(options.shared, 768 if options.quick else 4096)
    z, pos = store.ragged("z"), store.ragged("pos")
    graphs = []
    for item in range(len(store)):
        pairs = np.argwhere(~np.eye(len(z[item]), dtype=bool)).T
        graphs.append(
            Data(
                z=torch.from_numpy(z[item].astype(np.int64)),
                pos=torch.from_numpy(pos[item].copy()),
                edge_index=torch.from_numpy(pairs.copy()),
                y=torch.tensor([store.fields["y"][item, 0]], dtype=torch.float32),
            )
        )
    nodes = max(graph.num_nodes for graph in graphs)
    pad = Pad(nodes, nodes * (nodes - 1), add_pad_mask=True)
    padded = [pad(graph.clone()) for graph in graphs]

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            # Edges come with the batch; all that SchNet does with positions is to hand them to this function.
            self.schnet = SchNet(64, 64, 3, 25, interaction_graph=lambda edges, _: edges)

        def forward(self, data: Any) -> Any:
            source, target = data.edge_index
            length = (data.pos[source] - data.pos[target]).norm(dim=-1)
            return self.schnet(data.z, (data.edge_index, length), data.batch).view(-1)

    def epoch(loop: Callable[..., Iterator[Any]], dataset: Sequence[Any]) -> Callable[[], Any]:
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)

        def run() -> Tuple[int, float]:
            steps, real, total = 0, 0, 0
            for data in loop(dataset, model, optimizer):
                mask = getattr(data, "nodes_mask", getattr(data, "pad_node_mask", None))
                steps, total = steps + 1, total + data.num_nodes
                real += data.num_nodes if mask is None else int(mask.sum())
            return steps, real / total

        return run

    names = ("DataLoader, dynamic shapes", "DataLoader and transforms.Pad, one shape", "fixed_size_loader, one shape")
    kinds = ((loops.pyg_before, graphs), (loops.pyg_before, padded), (loops.pyg_after, graphs))
    timings = interleaved({name: epoch(*kind) for name, kind in zip(names, kinds)}, 2 if options.quick else 5)
    frames = []
    for loop, dataset in kinds:
        torch._dynamo.reset()
        made: List[int] = []

        def count(graph: Any, inputs: Any, made: List[int] = made) -> Any:
            made.append(1)
            return graph.forward

        model = torch.compile(Net(), dynamic=False, backend=count)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        per_batch = []
        for _ in itertools.islice(loop(dataset, model, optimizer), 6):
            per_batch.append(len(made))
        frames.append((per_batch[0], per_batch[-1]))
    rows = [
        [name, timings[name].result[0], percent(timings[name].result[1]), f"{len(graphs) / timings[name].median:,.0f}"]
        + [f"{median_ratio(timings[name], timings[names[2]]):.2f}", *frame]
        for name, frame in zip(names, frames)
    ]
    header = [
        "PyTorch Geometric, SchNet",
        "steps",
        "real nodes",
        "graphs/CPU s",
        "ours is x",
        "programs compiled for 1 batch",
        "for 6",
    ]
    print_table(f"{origin}, all pairs, float32", header, rows)
    show(goals, "PyTorch Geometric", loops.pyg_before, loops.pyg_after)
    goals.at_least("PyTorch Geometric: real nodes of ours", timings[names[2]].result[1], 0.97)
    goals.at_least(
        "PyTorch Geometric: speed, times transforms.Pad", median_ratio(timings[names[1]], timings[names[2]]), 1.4
    )
    goals.at_most("PyTorch Geometric: compiled again after the first batch", frames[2][1] - frames[2][0], 0)
    return len(graphs) / timings[names[2]].median


def huggingface(options: Any, goals: Goals) -> float:
    """GPT-Neo on strings of MOSES in Trainer."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast, TrainingArguments

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    disable_progress_bars()
    smiles, origin = moses(options.shared, 128 if options.quick else 512)
    words = {word: number for number, word in enumerate(["[PAD]", "[BOS]", "[EOS]", *sorted(set("".join(smiles)))])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "[PAD]")), pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
    )
    rows = [[1, *(words[letter] for letter in text), 2] for text in smiles]
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    tokens = sum(len(row) - 1 for row in rows)
    # Eight packed sequences hold as many molecules as this.
    alike = round(8 * len(rows) / -(-sum(map(len, rows)) // 128))
    kinds: Dict[str, Tuple[Callable[..., Any], int]] = {
        "8 molecules a step, padded to the longest": (loops.huggingface_before, 8),
        f"{alike} molecules a step, padded to the longest": (loops.huggingface_before, alike),
        f"{alike} molecules a step, padded to 64, one shape": (loops.huggingface_fixed, alike),
        "8 packed sequences of 128 a step, one shape": (loops.huggingface_after, 8),
    }
    names = list(kinds)

    def training(loop: Callable[..., Any], size: int, shape: Tuple[int, int, int]) -> Callable[[], Any]:
        def run() -> int:
            torch.manual_seed(0)
            hidden, layers, heads = shape
            model = GPTNeoForCausalLM(
                GPTNeoConfig(
                    vocab_size=len(words), max_position_embeddings=512, hidden_size=hidden, num_layers=layers,
                    num_heads=heads, attention_types=[[["global", "local"], layers // 2]],
                    bos_token_id=1, eos_token_id=2, pad_token_id=0,
                )
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                arguments = TrainingArguments(
                    folder, num_train_epochs=1, per_device_train_batch_size=size, report_to=[], save_strategy="no",
                    use_cpu=True, disable_tqdm=True, logging_strategy="no",
                )  # fmt: skip
                return loop(dataset, tokenizer, model, arguments).global_step

        return run

    for title, shape in (
        ("256 features, 4 layers, 4 heads", (256, 4, 4)),
        ("ChemGPT-4.7M's 128, 24, 16", (128, 24, 16)),
    ):
        contestants = {name: training(*kind, shape) for name, kind in kinds.items()}
        timings = interleaved(contestants, 1 if options.quick else 3)
        ratios = [median_ratio(timings[name], timings[names[-1]]) for name in names]
        table = [
            [name, timings[name].result, f"{tokens / timings[name].median:,.0f}", f"{ratio:.2f}"]
            for name, ratio in zip(names, ratios)
        ]
        header = [f"Trainer, GPT-Neo, {title}", "steps", "real tokens/CPU s", "ours is x"]
        print_table(f"{origin}, {tokens:,} real tokens", header, table)
        # Most of a row of 128 is other molecules: with many heads, attention to them costs more than padding did.
        if shape[2] <= 4:
            goals.at_least(f"Hugging Face, {title}: real tokens/s, times dynamic padding", ratios[0], 1.0)
            goals.at_least(f"Hugging Face, {title}: real tokens/s, times one shape", ratios[2], 1.5)
    show(goals, "Hugging Face", loops.huggingface_before, loops.huggingface_after)
    return len(rows) / timings[names[-1]].median


def jraph(options: Any, goals: Goals) -> float:
    """A graph network on ogbg-molhiv in jraph's loop."""
    graphs, origin = molhiv(options.shared, 500 if options.quick else 2000)

    start, step = graph_network()
    nodes, edges = (
        np.array([int(count[0]) for count in column]) for column in zip(*((g.n_node, g.n_edge) for g in graphs))
    )
    of_example = (32 * int(nodes.max()) + 1, 32 * int(edges.max()), 33)
    tight = (int(32 * nodes.mean()) + 1, int(32 * edges.mean()), 49)

    epochs = 1 if options.quick else 3

    def epoch(loop: Callable[..., Iterator[Any]], shape: Tuple[int, int, int]) -> Callable[[], Any]:
        def run() -> Tuple[int, float]:
            slots = [len(graph.nodes) for graph in loop(graphs, shape, start, step, epochs)]
            return len(slots) // epochs, epochs * nodes.sum() / sum(slots)

        return run

    names = (
        "dynamically_batch, the example's shape, 32 of the largest",
        "dynamically_batch, 32 of the mean",
        "ours, 32 of the mean",
    )
    contestants = {
        names[0]: epoch(loops.jraph_before, of_example),
        names[1]: epoch(loops.jraph_before, tight),
        names[2]: epoch(loops.jraph_after, tight),
    }
    timings = interleaved(contestants, 1 if options.quick else 3)
    table = [
        [name, timings[name].result[0], percent(timings[name].result[1]), f"{timings[name].median / epochs:.2f}"]
        + [f"{median_ratio(timings[name], timings[names[2]]):.2f}"]
        for name in names
    ]
    print_table(
        f"{origin}, {epochs} epochs",
        ["jraph, GraphNetwork of 128", "batches an epoch", "real nodes", "CPU s an epoch", "ours is x"],
        table,
    )
    show(goals, "jraph", loops.jraph_before, loops.jraph_after)
    packs = [timings[name].result[0] for name in names]
    goals.at_most("jraph: batches of ours / of dynamically_batch at one shape", packs[2] / packs[1], 0.98)
    goals.at_least("jraph: speed, times the example", median_ratio(timings[names[0]], timings[names[2]]), 3.0)
    return epochs * len(graphs) / timings[names[2]].median


def grain(options: Any, goals: Goals) -> float:
    """Packed batches of strings of MOSES in grain's form."""
    smiles, origin = moses(options.shared, 500 if options.quick else 4000)
    examples = [{"tokens": np.frombuffer(text.encode(), np.uint8).astype(np.int32)} for text in smiles]
    length, total = 128, sum(map(len, smiles))

    def epoch(loop: Callable[..., Iterator[Any]]) -> Callable[[], Any]:
        def run() -> Tuple[int, int]:
            batches = list(loop(examples, length))
            return sum(len(batch["tokens"]) for batch in batches), sum(
                int((b["tokens_segment_ids"] > 0).sum()) for b in batches
            )

        return run

    names = ("FirstFitPackIterDataset, 64 bins", "pack_iter_dataset, 64 bins", "planned_packs, the whole set")
    kinds = (loops.grain_before, loops.grain_stream, loops.grain_after)
    timings = interleaved({name: epoch(kind) for name, kind in zip(names, kinds)}, 1 if options.quick else 3)
    # Batches of 8: what does not fill the last one is left out, as grain's batch does.
    table = [
        [
            name,
            *timings[name].result,
            f"{100 * timings[name].result[1] / timings[name].result[0] / length:.1f} %",
            f"{timings[name].median:.2f}",
        ]
        for name in names
    ]
    print_table(
        f"{origin}, {total:,} tokens, packs of {length}",
        ["grain", "packs", "tokens in them", "real tokens", "CPU s"],
        table,
    )
    show(goals, "grain", loops.grain_before, loops.grain_after)
    show(goals, "grain", loops.grain_before, loops.grain_stream, ", of a stream")
    packs = [timings[name].result[0] for name in names]
    goals.at_most("grain: packs of ours / of first fit", packs[2] / packs[0], 0.99)
    goals.at_most("grain: packs of ours from a stream / of first fit", packs[1] / packs[0], 1.0)
    return len(smiles) / timings[names[2]].median


def poptorch(options: Any, goals: Goals) -> float:
    """Molecules of QM9's sizes in PopTorch's loader."""
    from ipu_chem.backends.poptorch.backend import _poptorch

    library = _poptorch()  # the one import of PopTorch, or of its double
    sizes = np.random.default_rng(0).permutation(sizes_of(QM9))[: 2000 if options.quick else 20_000]
    offsets = np.append(0, np.cumsum(sizes))
    z = Ragged(np.ones(offsets[-1], np.uint8), offsets)
    budget = Budget(nodes=128, graphs=16)
    most = int(sizes.max())
    padded = [{"z": np.pad(np.ones(size, np.uint8), (0, most - size))} for size in sizes]

    def collate(packs: Any) -> Dict[str, np.ndarray]:
        return collate_graphs(packs, budget, {"z": z})

    def epoch(loop: Callable[..., Iterator[Any]]) -> Callable[[], Any]:
        def run() -> Tuple[int, int, int]:
            schedule = library.Options()
            schedule.deviceIterations(4).replicationFactor(2)
            schedule.Training.gradientAccumulation(2)
            batches = [batch["z"] for batch in loop(library, padded, sizes, collate, budget, schedule)]
            return len(batches), sum(int((z > 0).sum()) for z in batches), sum(z.numel() for z in batches)

        return run

    names = ("poptorch.DataLoader, padded molecules", "poptorch.DataLoader, packs")
    kinds = (loops.poptorch_before, loops.poptorch_after)
    timings = interleaved({name: epoch(kind) for name, kind in zip(names, kinds)}, 1 if options.quick else 3)
    total = int(sizes.sum())
    table = [
        [name, steps, f"{real / slots * 100:.1f} %", f"{total - real:,} of {total:,}", f"{timings[name].median:.2f}"]
        for name in names
        for steps, real, slots in [timings[name].result]
    ]
    print_table(
        f"{len(sizes):,} molecules of QM9's sizes, PopTorch {library.__version__}",
        ["loader", "calls", "real nodes", "nodes dropped", "CPU s"],
        table,
    )
    show(goals, "PopTorch", loops.poptorch_before, loops.poptorch_after)
    goals.at_most("PopTorch: nodes dropped by ours", total - timings[names[1]].result[1], 0)
    return len(sizes) / timings[names[1]].median


SECTIONS = {"pyg": pyg, "huggingface": huggingface, "jraph": jraph, "grain": grain, "poptorch": poptorch}


if __name__ == "__main__":
    sys.exit(main())
