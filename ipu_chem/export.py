"""Trained runs written for other programs: one folder with weights or a program, export.json and README.md.

Units are undone in the program or the weights where the format has a place for that; elsewhere export.json has the
numbers that undo them. It says which.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Tuple

import numpy as np
import torch
from torch import Tensor, nn

import ipu_chem
from ipu_chem.config import to_dict
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.standardize import Standardizer
from ipu_chem.huggingface import model_card
from ipu_chem.json_file import read_json
from ipu_chem.metrics import is_binary
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.compact import masks_from_ends
from ipu_chem.models.pyg import schnet_to_pyg
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.wrapper import Wrapper
from ipu_chem.tasks.graphs import GraphTask
from packing import Budget
from packing.files import PathLike, atomic_folder

if TYPE_CHECKING:
    from ipu_chem.trained_run import TrainedRun

_ABOUT, _README, _WEIGHTS, _PROGRAM = "export.json", "README.md", "model.safetensors", "model.pt2"
_UNDO = (
    "value = scale * output + shift + the sum over atoms of shift_per_atom + element_values[z]; of classes the "
    "probability is 1 / (1 + exp(-value))"
)
_INPUTS = {
    "z": "atomic numbers",
    "pos": "positions, Å",
    "graph_ends": "atoms up to the end of each molecule; in padding those of the whole pack",
    "edge_index": "every pair of atoms of a molecule within the cutoff once, as places in the pack",
    "num_edges": "real edges, which come first",
    "charge": "e, of each molecule",
    "spin": "unpaired electrons of each molecule",
    "ids": "tokens; molecules follow each other",
    "position_ids": "place of each token in its molecule, from 0",
    "ends": "tokens up to the end of each molecule; in padding those of the whole pack",
    "heavy_atoms": "heavy atoms of each molecule",
}
_MOLECULES = ("name", "source", "licence", "citation", "molecules", "split")  # of run.json, in a model card
Written = Tuple[Dict[str, Any], str]  # entries of export.json, and the code of README.md


def export(run: "TrainedRun", output: PathLike, form: str, overwrite: bool = False, **shape: int) -> Path:
    """Write a run for other programs.

    Args:
        run: with its best weights.
        output: folder to write.
        form: one of `FORMATS`.
        overwrite: replace an earlier export there.
        **shape: nodes, edges, graphs, tokens or segments of a program's pack, instead of the run's.

    Returns:
        The folder.

    Raises:
        ValueError: the model has no such form, which says what would do, or there is something in the folder.
        OSError: the disk is full or not writable; what was there is kept.
    """
    folder = Path(output)
    if form not in FORMATS:
        raise ValueError(f"format={form!r}: choose one of {', '.join(FORMATS)}.")
    if form not in fitting(run):
        raise ValueError(
            f"--format {form} is for {_ONLY[form]}, not for {run.folder}, a run of {run.config.model.name} "
            f"({run.task.kind}); {' or '.join(fitting(run))} would do."
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / _ABOUT).is_file():
            raise ValueError(f"{folder} exists and is no export; give another --output.")
        if not overwrite:
            raise ValueError(f"{folder} holds an export already; --overwrite replaces it.")
    with atomic_folder(folder) as made:
        entries, code = FORMATS[form](run, made, shape)
        about = {"format": form, "ipu_chem": ipu_chem.__version__, "torch": torch.__version__, **entries}
        about["run"] = to_dict(run.config)
        (made / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        (made / _README).write_text(_readme(run, about, code), encoding="utf-8")
    return folder


def fitting(run: "TrainedRun") -> List[str]:
    """The formats that a run can be written in."""
    inner = unwrapped(run.model)
    forms = ["state_dict", "torch_export"]
    if run.task.writes_molecules and isinstance(inner, ChemGPT):
        values = inner.config()
        if values["positions"] == "learned" or not values["local_window"]:  # see `ipu_chem.models.gpt_neox`
            forms.append("huggingface")
    if type(inner) is SchNet and len(run.task.targets) == 1 and not run.task.targets[0].binary:
        units = run.standardizer
        # A sum over atoms has no place for a shift of the molecule, nor a mean for references that add up.
        left = units.shift if inner.readout == "sum" else units.element_values + units.shift_per_atom
        forms += ["pyg"] if inner.readout in ("sum", "mean") and not left.any() else []
    return forms


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside its wrappers for devices."""
    while isinstance(model, Wrapper):
        model = model.model
    return model


class Physical(nn.Module):
    """A model of a run whose outputs are in real units; forces, which come second, are only scaled.

    Molecules with an element that no training molecule had are NaN where elements have references.
    """

    def __init__(self, model: nn.Module, standardizer: Standardizer, reads_text: bool) -> None:
        """Bind a model to its units.

        Args:
            model: in evaluation mode.
            standardizer: of the run.
            reads_text: the last input counts heavy atoms; else atoms are those of graphs.
        """
        super().__init__()
        self.model, self.reads_text = model, reads_text
        self.register_buffer("scale", torch.from_numpy(standardizer.scale))
        self.register_buffer("shift", torch.from_numpy(standardizer.shift))
        self.register_buffer("per_atom", torch.from_numpy(standardizer.element_values + standardizer.shift_per_atom))
        new = torch.ones(len(standardizer.element_values), dtype=torch.float64)
        new[standardizer.elements] = 0.0
        self.register_buffer("new", new * float(any(kind != "none" for kind in standardizer.references)))
        self.register_buffer("classes", torch.tensor([is_binary(target) for target in standardizer.targets]))

    def forward(self, *inputs: Tensor) -> Any:
        """Inputs of a batch, behind them heavy_atoms [B, G] if it reads text -> [B, G, T] float64, 0 in padding."""
        found = self.model(*(inputs[:-1] if self.reads_text else inputs))
        values = (found[0] if isinstance(found, tuple) else found).double()
        if self.reads_text:
            ends, atoms = inputs[2], inputs[-1].double().unsqueeze(2) * self.per_atom[0]
            before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
            real, lost = (ends > before).unsqueeze(2), torch.zeros_like(values, dtype=torch.bool)
        else:
            node_mask, graph_index, graph_mask = masks_from_ends(inputs[2], inputs[0].shape[1])
            places = torch.arange(graph_mask.shape[1], device=graph_index.device)
            mine = (graph_index.unsqueeze(1) == places.unsqueeze(1)) & node_mask.unsqueeze(1)  # [B, G, N]
            z = inputs[0].to(torch.int64) * node_mask
            atoms, real = mine.double() @ self.per_atom[z], graph_mask.unsqueeze(2)
            lost = (mine.double() @ self.new[z].unsqueeze(2)) > 0
        values = values * self.scale + self.shift + atoms
        values = torch.where(self.classes, torch.sigmoid(values), values)
        values = torch.where(lost, torch.full_like(values, torch.nan), values)
        values = torch.where(real, values, torch.zeros_like(values))
        return (values, found[1].double() * self.scale) if isinstance(found, tuple) else values


def _state_dict(run: "TrainedRun", folder: Path, shape: Mapping[str, int]) -> Written:
    """Weights by the names of this program's models, and the state from which the model is built again."""
    _save(folder, run.weights)
    code = f"""
import json

from safetensors.torch import load_file

from ipu_chem.config import from_dict
from ipu_chem.tasks.registry import task_of

about = json.load(open("{_ABOUT}"))
config = from_dict(about["run"])
model = task_of(config).restored(config, about["state"]).model().eval()
model.load_state_dict(load_file("{_WEIGHTS}"))
"""
    state = {**run.task.state(), "budget": run.task.budget.as_dict(), "version": ipu_chem.__version__}
    return {"state": state, **_units(run, undone=False)}, code


def _torch_export(run: "TrainedRun", folder: Path, shape: Mapping[str, int]) -> Written:
    """A program of torch.export for packs of one shape."""
    if not hasattr(getattr(torch, "export", None), "save"):
        raise ValueError(
            f"--format torch_export needs torch 2.1 or later, this is torch {torch.__version__}: take state_dict, or "
            "export where a newer torch is."
        )
    if run.config.force_share and isinstance(run.task, GraphTask):
        run = replace(run, task=GraphTask.restored(run.config, run.state, forces=True))
    names, inputs = _example(run, shape)
    program: nn.Module = run.new_model().requires_grad_(False)
    if not run.task.writes_molecules:
        program = Physical(program, run.standardizer, run.task.reads_text).eval()
    with torch.no_grad():
        wanted = program(*inputs)
        if isinstance(wanted, tuple):  # a derivative is laid out as operators first
            from torch.fx.experimental.proxy_tensor import make_fx

            program = make_fx(program)(*inputs)
        exported = torch.export.export(program, inputs)
        found = exported.module()(*inputs)
    for one, other in zip(*(out if isinstance(out, tuple) else (out,) for out in (wanted, found))):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5, equal_nan=True), "the program says something else"
    torch.export.save(exported, str(folder / _PROGRAM))
    said = [
        {"name": name, "dtype": str(value.dtype)[6:], "shape": list(value.shape), "what": _INPUTS[name]}
        for name, value in zip(names, inputs)
    ]
    code = f"""
import torch

program = torch.export.load("{_PROGRAM}").module()
# program(*inputs), in the order of export.json
"""
    cutoff = {} if run.task.reads_text else {"cutoff": run.config.model.cutoff}
    tokenizer = getattr(run.task, "tokenizer", None)
    vocabulary = {"tokenizer": tokenizer.to_dict()} if isinstance(tokenizer, Tokenizer) else {}
    return {"inputs": said, **cutoff, **_units(run), **vocabulary}, code


def _example(run: "TrainedRun", shape: Mapping[str, int]) -> Tuple[List[str], Tuple[Tensor, ...]]:
    """Names and values of a program's inputs: one random pack, integers as int64."""
    task: Any = run.task
    sizes = {**task.budget.as_dict(), **shape}
    if not task.reads_text and "edges" not in sizes:
        raise ValueError(f"{run.folder} found edges on its device, so its packs have no size for them: give --edges.")
    unknown = set(sizes) - {*task.budget.as_dict(), *(() if task.reads_text else ("edges",))}
    if unknown:
        raise ValueError(f"packs of {run.folder} have no {min(unknown)}; they have {task.budget}.")
    batch = replace(task, budget=Budget(**sizes)).random_packs(1)
    names = list(batch._fields[: len(batch.inputs)])
    inputs = [value if value.is_floating_point() else value.to(torch.int64) for value in batch.inputs]
    if task.reads_text and not task.writes_molecules:
        names.append("heavy_atoms")
        inputs.append(torch.ones_like(inputs[2]))
    return names, tuple(inputs)


def _huggingface(run: "TrainedRun", folder: Path, shape: Mapping[str, int]) -> Written:
    """GPT-Neo or GPT-NeoX and vocabulary, as AutoModelForCausalLM and AutoTokenizer load them, and how it draws."""
    from ipu_chem.huggingface import save_chemgpt

    task: Any = run.task
    inner: Any = unwrapped(run.model)
    save_chemgpt(inner, task.tokenizer, folder)
    code = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
ids = model.generate(num_return_sequences=4)  # drawn as generation_config.json says
texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
"""
    representation = task.tokenizer.representation
    card = {"representation": representation.name, "vocabulary": task.tokenizer.fingerprint()}
    record = run.folder / "run.json"
    if record.is_file():  # of what a run of this program has written beside its checkpoints
        known = read_json(record, "move it away, and the model card says less of its molecules")
        card["molecules"] = {name: known["data"][name] for name in _MOLECULES if name in known["data"]}
        card["splits"], card["results"] = known.get("splits", {}), known.get("results", {})
    return {**_units(run), "card": card}, code


def _pyg(run: "TrainedRun", folder: Path, shape: Mapping[str, int]) -> Written:
    """The state dict of a torch_geometric.nn.SchNet that predicts in real units, in float64.

    Scale and shift go into its last layer, references into its table of elements.
    """
    inner: Any = unwrapped(run.model)
    units = run.standardizer
    state = {name: value.double() for name, value in schnet_to_pyg(inner).items()}
    scale, shift = float(units.scale[0]), float(units.shift[0] + units.shift_per_atom[0])
    state["lin2.weight"], state["lin2.bias"] = state["lin2.weight"] * scale, state["lin2.bias"] * scale + shift
    references = units.element_values.copy()
    if units.references != ["none"]:  # energies of elements that are new are no numbers, rather than wrong ones
        references[[z for z in range(len(references)) if z not in units.elements]] = np.nan
    state["atomref.weight"] = torch.from_numpy(references)
    state["initial_atomref"] = state["atomref.weight"].clone()
    _save(folder, state)
    first = inner.interactions[0]
    arguments = {
        "hidden_channels": inner.embedding.embedding_dim,
        "num_filters": first.lin_in.out_features,
        "num_interactions": len(inner.interactions),
        "num_gaussians": len(inner.basis.centres),
        "cutoff": inner.cutoff,
        "readout": {"sum": "add"}.get(inner.readout, inner.readout),
        "max_num_neighbors": 1000,  # PyG leaves neighbors out above this number
    }
    code = f"""
import json

import torch
from safetensors.torch import load_file
from torch_geometric.nn import SchNet

# In float32, total energies of 10,000 eV would be off by some meV.
model = SchNet(**json.load(open("{_ABOUT}"))["arguments"], atomref=torch.zeros(100, 1)).double()
model.load_state_dict(load_file("{_WEIGHTS}"))
# model(z, pos, batch) -> [molecules, 1], pos in float64
"""
    return {"arguments": arguments, **_units(run)}, code


def _save(folder: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    copies = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(copies, str(folder / _WEIGHTS), metadata={"format": "pt"})


def _units(run: "TrainedRun", undone: bool = True) -> Dict[str, Any]:
    """Outputs, their units, and the standardizer."""
    if run.task.writes_molecules:
        return {"outputs": [{"name": "logits or log-likelihoods of tokens", "unit": "nat"}], "units_undone": True}
    outputs = [
        {"name": target.name, "unit": target.unit, "class": target.binary, "extensive": target.extensive}
        for target in run.task.targets
    ]
    how = {} if undone else {"undo": _UNDO}
    return {"outputs": outputs, "units_undone": undone, **how, "standardizer": run.standardizer.to_dict()}


def _readme(run: "TrainedRun", about: Mapping[str, Any], code: str) -> str:
    """Directions to read the folder, in Markdown; of a language model also its model card."""
    outputs = ", ".join(f"{one['name']} ({one['unit'] or 'no unit'})" for one in about["outputs"])
    undone = f"standardized: {_UNDO}, with the numbers of `standardizer`" if "undo" in about else "in these units"
    front, behind = model_card(about["card"]) if "card" in about else ("", "")
    return (
        f"{front}# {run.config.model.name} as {about['format']}\n\n"
        f"Written by ipu-chem {about['ipu_chem']} (torch {about['torch']}) from {run.folder.name}. Outputs: {outputs}; "
        f"they are {undone}. {_ABOUT} has the run's options, and names, shapes and meaning of what goes in and comes "
        f"out.\n\n```python\n{code.strip()}\n```\n{behind}"
    )


_ONLY = {
    "state_dict": "every run",
    "torch_export": "every run",
    "huggingface": "language models, with rotary positions those without local layers",
    "pyg": "SchNet with one target, a number whose sum or mean over atoms is all there is to it",
}
FORMATS: Dict[str, Callable[["TrainedRun", Path, Mapping[str, int]], Written]] = {
    "state_dict": _state_dict,
    "torch_export": _torch_export,
    "huggingface": _huggingface,
    "pyg": _pyg,
}
