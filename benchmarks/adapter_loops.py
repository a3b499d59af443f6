"""Loops in the form of other libraries' own examples, and the same loops with a drop-in of `packing.adapters`.

Every pair differs in the lines that a user changes, imports included; `changed_lines` counts and shows them. The loops
yield each batch after its training step, for who measures them.
"""

import difflib
import inspect
from typing import Any, Callable, Iterator, List, Mapping, Sequence, Tuple


def changed_lines(before: Callable[..., Any], after: Callable[..., Any]) -> Tuple[int, List[str]]:
    """Lines of a loop that are new or other in the second one, and the difference, - before and + after."""
    bodies = [_body(inspect.getsource(function)) for function in (before, after)]
    lines = [line for line in difflib.ndiff(*bodies) if line[0] in "+-"]
    return max(sum(line[0] == sign for line in lines) for sign in "+-"), lines


def _body(source: str) -> List[str]:
    """The lines below the docstring."""
    lines = inspect.cleandoc(source.split('"""', 2)[2]).splitlines()
    return [line.strip() for line in lines if line.strip()]


def pyg_before(dataset: Sequence[Any], model: Any, optimizer: Any) -> Iterator[Any]:
    """PyTorch Geometric's QM9 training loop (examples/qm9_nn_conv.py), with its SchNet."""
    import torch.nn.functional as F
    from torch_geometric.loader import DataLoader

    loader = DataLoader(dataset, batch_size=128, shuffle=True)
    for data in loader:
        optimizer.zero_grad()
        loss = F.mse_loss(model(data), data.y)
        loss.backward()
        optimizer.step()
        yield data


def pyg_after(dataset: Sequence[Any], model: Any, optimizer: Any) -> Iterator[Any]:
    """The same in batches of one shape, of about as many molecules; each molecule has the same weight in all."""
    import torch.nn.functional as F

    from packing.adapters.pyg import Budget, fixed_size_loader

    loader = fixed_size_loader(dataset, Budget(nodes=2302, edges=41000))
    for data in loader:
        optimizer.zero_grad()
        loss = (F.mse_loss(model(data), data.y, reduction="none") * data.graphs_mask).mean()
        loss.backward()
        optimizer.step()
        yield data


def huggingface_before(dataset: Any, tokenizer: Any, model: Any, arguments: Any) -> Any:
    """Trainer as Hugging Face's language modeling examples use it: rows are padded to the longest of their batch."""
    import transformers

    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = transformers.Trainer(model, arguments, train_dataset=dataset, data_collator=collator)
    return trainer.train()


def huggingface_fixed(dataset: Any, tokenizer: Any, model: Any, arguments: Any) -> Any:
    """The same with rows of one length, as devices with fixed shapes need them."""
    import transformers

    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False, pad_to_multiple_of=64)
    trainer = transformers.Trainer(model, arguments, train_dataset=dataset, data_collator=collator)
    return trainer.train()


def huggingface_after(dataset: Any, tokenizer: Any, model: Any, arguments: Any) -> Any:
    """The same with packed rows."""
    import transformers

    from packing.adapters.huggingface import DataCollatorForPacks, pack_dataset

    collator = DataCollatorForPacks(128)
    trainer = transformers.Trainer(model, arguments, train_dataset=pack_dataset(dataset, 128), data_collator=collator)
    return trainer.train()


def jraph_before(
    graphs: Sequence[Any], shape: Tuple[int, int, int], params: Any, step: Any, epochs: int
) -> Iterator[Any]:
    """Epochs of jraph's ogbg-molhiv example (jraph/ogb_examples), with dynamic batches."""
    import jraph

    n_node, n_edge, n_graph = shape
    for _ in range(epochs):
        batches = jraph.dynamically_batch(iter(graphs), n_node, n_edge, n_graph)
        for graph in batches:
            params, loss = step(params, graph)
            yield graph


def jraph_after(
    graphs: Sequence[Any], shape: Tuple[int, int, int], params: Any, step: Any, epochs: int
) -> Iterator[Any]:
    """The same with planned batches, of other graphs in every epoch."""
    from packing.adapters.jraph import dynamically_batch

    n_node, n_edge, n_graph = shape
    batches = dynamically_batch(graphs, n_node, n_edge, n_graph)
    for _ in range(epochs):
        for graph in batches:
            params, loss = step(params, graph)
            yield graph


def grain_before(examples: Sequence[Mapping[str, Any]], length: int) -> Iterator[Any]:
    """Packed batches as grain's guide on packing makes them."""
    import grain

    dataset = grain.MapDataset.source(examples).seed(0).shuffle().to_iter_dataset()
    dataset = grain.experimental.FirstFitPackIterDataset(dataset, length_struct={"tokens": length}, num_packing_bins=64)
    yield from dataset.batch(8)


def grain_after(examples: Sequence[Mapping[str, Any]], length: int) -> Iterator[Any]:
    """The same from a plan of all elements."""
    import grain

    from packing.adapters.grain import planned_packs

    dataset = grain.MapDataset.source(examples)
    dataset = planned_packs(dataset, length_struct={"tokens": length}).to_iter_dataset()
    yield from dataset.batch(8)


def grain_stream(examples: Sequence[Mapping[str, Any]], length: int) -> Iterator[Any]:
    """The same from a stream, with bins that are planned anew when the next element does not fit."""
    import grain

    from packing.adapters.grain_bins import pack_iter_dataset

    dataset = grain.MapDataset.source(examples).seed(0).shuffle().to_iter_dataset()
    dataset = pack_iter_dataset(dataset, length_struct={"tokens": length}, num_packing_bins=64)
    yield from dataset.batch(8)


def poptorch_before(poptorch: Any, dataset: Any, sizes: Any, collate: Any, budget: Any, options: Any) -> Iterator[Any]:
    """PopTorch's loader over molecules that are each padded to the largest."""
    loader = poptorch.DataLoader(options, dataset, batch_size=8, shuffle=True)
    yield from loader


def poptorch_after(poptorch: Any, dataset: Any, sizes: Any, collate: Any, budget: Any, options: Any) -> Iterator[Any]:
    """The same over packs."""
    from packing.adapters.poptorch import PackedDataset, make_plan, packs_per_step

    dataset = PackedDataset(make_plan(sizes, budget), collate, multiple=packs_per_step(options, 8))
    loader = poptorch.DataLoader(options, dataset, batch_size=8)
    yield from loader
