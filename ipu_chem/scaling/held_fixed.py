"""Held fixed: options that all runs of a study or a search share, and those that differ, in the words of a report.

A difference between two runs counts as an effect of size or data only if nothing else differs. So a report lists all
that was equal, from the options of the runs as they were trained and from what their folders say.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Set, Tuple

from ipu_chem.backends.options import Batching
from ipu_chem.json_file import read_json

_MODEL, _SEED = "model.", "training.seed"
_TO_TRANSFER = "model.mup_base_width"
_WIDTH = "model.hidden_features"
# Where and how runs are computed, and what they print: nothing that a loss could follow.
_ELSEWHERE = (
    *("out", "accelerator", "data.cache", "data.workers", "pack.time_limit", "torch.threads", "torch.timeout"),
    *("training.log_every", "training.prefetch", "training.loggers", "training.progress", "training.report"),
    *("training.samples", "training.checkpoint_every"),
)
Options = Mapping[str, Any]  # by dotted name


@dataclass(frozen=True)
class HeldFixed:
    """Comparison of the options of runs.

    Attributes:
        fixed: what all runs share, in words.
        varied: what differs, with its values.
        options: every option of one value, by its dotted name.
    """

    fixed: List[str]
    varied: List[str]
    options: Dict[str, Any]

    def lines(self) -> List[str]:
        """Lines to print."""
        return ["held fixed:", *(f"  {line}" for line in self.fixed), "varied:", *(f"  {line}" for line in self.varied)]


class _Line(NamedTuple):
    """A line of the list: its name, the options that it is about, and its text from them."""

    name: str
    options: Tuple[str, ...]
    text: Callable[[Options], str]


def held_fixed(
    configs: Sequence[Mapping[str, Any]], facts: Mapping[str, str] = {}, follows: Mapping[str, str] = {}
) -> HeldFixed:
    """Compare runs.

    Args:
        configs: nested values of each run, as it is trained.
        facts: lines that options alone do not say, by name, such as {"vocabulary": "27 tokens"}; one that is also a
            line of options is put instead of it, and an empty one differs between runs.
        follows: options that differ as a consequence of others, and what they follow, such as {"training.epochs":
            "data.train"}.

    Raises:
        ValueError: there are no runs.
    """
    if not configs:
        raise ValueError("there are no runs to compare: give a grid with one value at least.")
    flat = [_flat(config) for config in configs]
    names = [name for name in dict.fromkeys(name for one in flat for name in one) if name not in _ELSEWHERE]
    values = {name: _values(flat, name) for name in names}
    same = {name: found[0] for name, found in values.items() if len(found) == 1}
    fixed = {name: text for name, text in facts.items() if text}
    for line in _LINES:
        if line.name not in facts and all(name in same for name in line.options):
            text = line.text({**same, "varied": [name for name in names if name not in same]})
            if text:
                fixed[line.name] = text
    order = [line.name for line in _LINES]
    placed = sorted(fixed, key=lambda name: order.index(name) if name in order else len(order))
    varied = [f"{name}: not the same in all runs" for name, text in facts.items() if not text]
    for name in (name for name in names if name not in same):
        words = f"{name}: {', '.join(map(_text, values[name]))}"
        varied.append(words + (f" (follows {follows[name]})" if name in follows else ""))
    return HeldFixed([f"{name}: {fixed[name]}" for name in placed], varied or ["nothing"], same)


def facts_of(folders: Sequence[Path]) -> Dict[str, str]:
    """Held-out molecules and vocabulary, as the run.json of trained runs says; nothing where none has started.

    Returns:
        Facts for `held_fixed`; one that runs disagree in is empty.

    Raises:
        ValueError: a file is damaged.
    """
    found: Dict[str, Set[str]] = {}
    for path in (folder / "run.json" for folder in folders):
        if not path.is_file():
            continue
        run = read_json(path, f"delete the folder {path.parent}, and the same command trains it again")
        splits = run.get("splits", {})
        held = [f"{splits[name]:,} {name}" for name in ("validation", "test") if splits.get(name)]
        if held:
            found.setdefault("held-out molecules", set()).add(" and ".join(held))
        if run.get("tokenizer"):
            words = f"{run.get('vocabulary', 'tokens')}, fingerprint {run['tokenizer']}"
            found.setdefault("vocabulary", set()).add(words)
    return {name: next(iter(texts)) if len(texts) == 1 else "" for name, texts in found.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _values(flat: Sequence[Options], name: str) -> List[Any]:
    """Different values of an option, in the order of the runs."""
    found: List[Any] = []
    for one in flat:
        if one.get(name) not in found:
            found.append(one.get(name))
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _data(one: Options) -> str:
    more = [f"{name} {one[f'data.{name}']}" for name in ("molecule", "path", "target") if one.get(f"data.{name}")]
    if one.get("data.limit"):
        more.append(f"the first {one['data.limit']:,}")
    return ", ".join([str(one["data.name"]), *more])


def _held_out(one: Options) -> str:
    counts = [f"{_text(one[f'data.{name}'])} {name}" for name in ("validation", "test") if one[f"data.{name}"]]
    return " and ".join(counts)


def _pack(one: Options) -> str:
    sizes = [
        f"{one[f'pack.{name}']:,} {name}" for name in ("tokens", "nodes", "edges", "graphs") if one[f"pack.{name}"]
    ]
    return ", ".join(sizes) or "chosen for each run by its molecules, so that it may differ"


def _model(one: Options) -> str:
    sizes = [
        f"{name[len(_MODEL) :]} {_text(value)}"
        for name, value in one.items()
        if name.startswith(_MODEL) and name not in ("model.name", _TO_TRANSFER) and value not in (None, "", 0, "auto")
    ]
    return ", ".join([str(one["model.name"]), *sizes])


def _learning_rate(one: Options) -> str:
    sizes = [name for name in one["varied"] if name.startswith(_MODEL)]
    rate = f"{one['optimizer.learning_rate']:g}"
    if not sizes:
        return rate
    if not one.get(_TO_TRANSFER):
        return f"{rate} for all sizes, not transferred: the best of one size need not be that of another"
    rate += f" at width {one[_TO_TRANSFER]}, transferred to other widths by maximal update parametrization (µP)"
    others = [name for name in sizes if name != _WIDTH]
    return f"{rate}; not over {', '.join(others)}" if others else rate


def _optimizer(one: Options) -> str:
    name = one["optimizer.name"]
    words = [
        name,
        f"momentum {one['optimizer.momentum']:g}" if name == "sgd" else f"betas {_text(one['optimizer.betas'])}",
    ]
    words.append(f"weight decay {one['optimizer.weight_decay']:g}")
    clipped = one["optimizer.max_grad_norm"]
    return ", ".join([*words, f"gradients clipped at {clipped:g}" if clipped else "gradients not clipped"])


def _schedule(one: Options) -> str:
    end = f", to {one['schedule.min_factor']:g} of the peak" if one["schedule.name"] != "constant" else ""
    return f"{one['schedule.name']} after {one['schedule.warmup_steps']:,} steps of warm-up{end}"


def _batch(one: Options) -> str:
    sizes = [one[f"batching.{name}"] for name in ("micro_batch_size", "gradient_accumulation", "replication_factor")]
    packs = Batching(*sizes).packs_per_step
    return f"{packs:,} pack{'s' if packs > 1 else ''} an optimizer step"


def _steps(one: Options) -> str:
    patience = one["training.early_stopping"]
    early = f", or {patience:,} evaluations without improvement" if patience else ""
    return f"{one['training.epochs']:,} epochs{early}"


def _evaluations(one: Options) -> str:
    calls, epochs = one["training.evaluate_calls"], one["training.evaluate_every"]
    return f"every {calls:,} calls" if calls else "every epoch" if epochs == 1 else f"every {epochs:,} epochs"


def _weights(one: Options) -> str:
    decay = one["training.ema_decay"]
    return "of the best evaluation" + (f", averaged with a decay of {decay:g} a step" if decay else "")


def _loss(one: Options) -> str:
    weight = one["force_share"]
    return f"{one['loss']}" + (f", weight of the forces {weight:g}" if weight else "")


def _format(one: Options) -> str:
    autocast = one["torch.autocast"]
    return f"{one['precision.weights']} weights" + (f", matrix products in {autocast}" if autocast != "none" else "")


def _options(section: str, words: str) -> Tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in words.split())


_LINES = (
    _Line("data", ("data.name",), _data),
    _Line("held-out molecules", _options("data", "validation test"), _held_out),
    _Line(
        "split", _options("data", "split split_seed"), lambda one: f"{one['data.split']}, seed {one['data.split_seed']}"
    ),
    _Line("vocabulary", ("data.tokenizer",), lambda one: str(one["data.tokenizer"])),
    _Line("pack capacity", _options("pack", "tokens nodes edges graphs"), _pack),
    _Line("model", ("model.name",), _model),
    _Line("learning rate", ("optimizer.learning_rate",), _learning_rate),
    _Line("optimizer", _options("optimizer", "name betas momentum weight_decay max_grad_norm"), _optimizer),
    _Line("schedule", _options("schedule", "name warmup_steps min_factor"), _schedule),
    _Line("batch", _options("batching", "micro_batch_size gradient_accumulation replication_factor"), _batch),
    _Line("training ends after", _options("training", "epochs early_stopping"), _steps),
    _Line("evaluations", _options("training", "evaluate_calls evaluate_every"), _evaluations),
    _Line("weights that are kept", ("training.ema_decay",), _weights),
    _Line("training loss", ("loss", "force_share"), _loss),
    _Line("number format", ("precision.weights", "torch.autocast"), _format),
    _Line("seed", (_SEED,), lambda one: _text(one[_SEED])),
)
