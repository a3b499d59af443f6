"""Who may import whom, how long a module may be, and that packing is useful with numpy alone."""

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ("packing", "ipu_chem")
MODULES = sorted(path for package in LIBRARY for path in (ROOT / package).rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
IMPORTED_LAZILY = (
    "ase jinja2 matplotlib ogb optuna pandas pyarrow rdkit scipy selfies sklearn tensorboard tokenizers "
    "torch_geometric transformers wandb poptorch popdist torch_sim openmm lammps ipi fcd submitit dask distributed"
).split()
# A module imports from its own package and from the lines above its own, nothing else of ours.
LAYERS = (
    "packing",
    "ipu_chem.signatures ipu_chem.ranges ipu_chem.outputs ipu_chem.yaml_file ipu_chem.failures",
    "ipu_chem.models",
    "ipu_chem.losses",
    "ipu_chem.units ipu_chem.locks ipu_chem.json_file",
    "ipu_chem.optim ipu_chem.checkpoint ipu_chem.options ipu_chem.cache ipu_chem.parallel ipu_chem.backends.options "
    "ipu_chem.backends.poptorch.options",
    "ipu_chem.heartbeats ipu_chem.executors",
    "ipu_chem.claims",
    "ipu_chem.metrics ipu_chem.reports.figures",  # parts of figures, of matplotlib alone
    "ipu_chem.uncertainty",
    "ipu_chem.data",
    "ipu_chem.config",
    "ipu_chem.batches",
    "ipu_chem.backends",
    "ipu_chem.huggingface",
    "ipu_chem.tasks",
    "ipu_chem.training",
    "ipu_chem.export",
    "ipu_chem.trained_run",
    "ipu_chem.doubts ipu_chem.run_intervals",
    "ipu_chem.generation ipu_chem.embedding ipu_chem.prediction ipu_chem.simulation",
    "ipu_chem.reports",
    "ipu_chem.train",
    "ipu_chem.scaling ipu_chem.doctor",
    "ipu_chem.commands",
    "ipu_chem.cli",
    "ipu_chem.__main__",
)
# Imports that are not as they should be, yet: importing module -> imported one.
NOT_YET: Set[Tuple[str, str]] = set()
# Modules that import each other, yet.
CIRCLES: List[Set[str]] = []
# What a device looks like when it leaks out of its backend.
DEVICE_NAMES = ("on_ipu", "is_ipu", "use_ipu", "using_ipu", "running_on_ipu", "isrunningonipu")


class Import(NamedTuple):
    module: str
    at_top: bool
    line: int


def imports(path: Path) -> List[Import]:
    """Every import of a file, by absolute name; inside a function it is not at the top."""
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), path, at_top=True))


def _imports(node: ast.AST, path: Path, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(name.name, at_top, child.lineno) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                package = path.relative_to(ROOT).with_suffix("").parts[: -child.level]
                base = ".".join([*package, base]).rstrip(".")
            yield Import(base, at_top, child.lineno)
            # `from ipu_chem import data` imports a module, too.
            yield from (Import(f"{base}.{name.name}", at_top, child.lineno) for name in child.names)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _imports(child, path, at_top and not inside)
        if (
            isinstance(child, ast.Call)
            and getattr(child.func, "attr", getattr(child.func, "id", "")) in ("import_module", "__import__")
            and child.args
            and isinstance(child.args[0], ast.Constant)
        ):
            yield Import(str(child.args[0].value), at_top, child.lineno)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def violations(wrong: Callable[[Path, Import], bool], paths: Sequence[Path] = MODULES) -> List[str]:
    """Where an import breaks a rule, as file:line module."""
    return [f"{name(p)}:{one.line} {one.module}" for p in paths for one in imports(p) if wrong(p, one)]


def under(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def standard_names() -> Set[str]:
    """Top names of the standard library; Python 3.8 and 3.9 cannot list them."""
    listed = getattr(sys, "stdlib_module_names", None)
    if listed is not None:
        return set(listed)
    folder = Path(sysconfig.get_paths()["stdlib"])
    entries = [*folder.iterdir(), *(folder / "lib-dynload").glob("*")]
    return set(sys.builtin_module_names) | {entry.name.split(".")[0] for entry in entries}


STANDARD = standard_names()


def standard(module: str) -> bool:
    return module.split(".")[0] in STANDARD


def test_there_is_something_to_check():
    assert {"packing/plan.py", "ipu_chem/losses.py"} <= {name(path) for path in MODULES} and len(MODULES) > 20
    top = imports(ROOT / "packing" / "plan.py")
    assert {("numpy", True), ("packing.files.atomic_file", True)} <= {(one.module, one.at_top) for one in top}
    lazy = imports(ROOT / "packing" / "column_generation.py")
    assert ("scipy.optimize", False) in {(one.module, one.at_top) for one in lazy}
    assert not standard("numpy") and standard("zipfile")


def test_packing_needs_numpy_alone():
    def allowed(path: Path, one: Import) -> bool:
        if standard(one.module) or under(one.module, "numpy", "packing"):
            return True
        lazily = ("scipy",) if path.name in ("column_generation.py", "rounding.py") else ()
        if "adapters" in path.parts:  # each joins packing to one library, which it loads when it is used
            lazily = ("torch", "torch_geometric", "transformers", "datasets", "pyarrow", "jraph", "jax", "grain")
        return not one.at_top and under(one.module, *lazily)

    assert not violations(lambda path, one: name(path).startswith("packing/") and not allowed(path, one))


def test_models_and_losses_need_torch_alone():
    def wrong(path: Path, one: Import) -> bool:
        if not name(path).startswith("ipu_chem/models/") and name(path) != "ipu_chem/losses.py":
            return False
        if standard(one.module) or under(one.module, "torch", "ipu_chem.models", "ipu_chem.losses", "ipu_chem.ranges"):
            return False
        # Options of a model are the parameters of its constructor: the registry reads them, no model does.
        return not (name(path) == "ipu_chem/models/registry.py" and under(one.module, "ipu_chem.signatures"))

    assert not violations(wrong)


def test_only_the_poptorch_backend_imports_poptorch():
    names = ("poptorch", "popdist", "popart", "poptorch_geometric", "poptorch_experimental_addons")
    backend = "ipu_chem/backends/poptorch/backend.py"
    assert not violations(lambda path, one: under(one.module, *names) and name(path) != backend, MODULES + BENCHMARKS)


def test_heavy_libraries_are_imported_where_they_are_used():
    # A calculator is a class of ASE's, a model one of torch-sim's, so these modules are imported where they are used.
    derived = {"ipu_chem.simulation.calculator": "ase", "ipu_chem.simulation.engines.torch_sim": "torch_sim"}
    assert not violations(
        lambda path, one: (
            one.at_top
            and under(one.module, *derived, *IMPORTED_LAZILY)
            and not under(one.module, derived.get(module_of(path), "no library"))
        )
    )


def test_the_library_imports_neither_benchmarks_nor_tests():
    assert not violations(lambda _, one: under(one.module, "benchmarks", "tests", "conftest", "pytest", "hypothesis"))


def test_packing_does_not_know_ipu_chem_and_data_does_not_know_models():
    assert not violations(lambda path, one: name(path).startswith("packing/") and under(one.module, "ipu_chem"))
    above = ("ipu_chem.models", "ipu_chem.backends", "ipu_chem.training", "ipu_chem.losses")
    assert not violations(lambda path, one: name(path).startswith("ipu_chem/data/") and under(one.module, *above))


def test_no_code_asks_which_device_it_runs_on():
    found = []
    for path in MODULES:
        if name(path) == "ipu_chem/backends/poptorch/backend.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
            found += [(name(path), w) for w in words if isinstance(w, str) and w.lower().strip("_") in DEVICE_NAMES]
    assert not found


def test_modules_are_short_and_say_what_they_are():
    texts = {name(path): path.read_text(encoding="utf-8") for path in MODULES + BENCHMARKS}
    assert not {module: text.count("\n") for module, text in texts.items() if text.count("\n") > 400}
    assert not [module for module, text in texts.items() if not ast.get_docstring(ast.parse(text))]


def module_of(path: Path) -> str:
    return name(path)[: -len(".py")].replace("/", ".").replace(".__init__", "")


def our_imports() -> Dict[str, Set[str]]:
    """Module -> modules of ours that it imports, at its top or in functions."""
    known = {module_of(path) for path in MODULES}
    found: Dict[str, Set[str]] = {}
    for path in MODULES:
        named = {one.module for one in imports(path)}
        # `from package import name` needs the package itself only where the name is no module.
        named -= {module.rpartition(".")[0] for module in named & known if module.rpartition(".")[0] in LIBRARY}
        found[module_of(path)] = (named & known) - {module_of(path)}
    return found


def layer_of(module: str) -> Tuple[int, str]:
    """Place in `LAYERS`, and the package there that holds the module; ipu_chem itself, a version, is below all."""
    fits = [(place, package) for place, line in enumerate(LAYERS) for package in line.split() if under(module, package)]
    return max(fits, key=lambda fit: len(fit[1]), default=(-1, ""))


def test_no_import_goes_up():
    found = set()
    for module, imported in our_imports().items():
        (place, package) = layer_of(module)
        assert place >= 0 or module == "ipu_chem", f"{module} is in no layer"
        for other in imported:
            above, its = layer_of(other)
            if above >= place and its != package:
                found.add((module, other))
    assert found == NOT_YET


def test_no_modules_import_each_other():
    graph = our_imports()

    def reachable(module: str) -> Set[str]:
        seen: Set[str] = set()
        left = [module]
        while left:
            for other in graph[left.pop()] - seen:
                seen.add(other)
                left.append(other)
        return seen

    reached = {module: reachable(module) for module in graph}
    circles = {frozenset({module, *(o for o in reached[module] if module in reached[o])}) for module in graph}
    found = [set(circle) for circle in circles if len(circle) > 1]
    assert sorted(map(sorted, found)) == sorted(map(sorted, CIRCLES))


def test_tasks_know_backends_by_their_contract_alone():
    backends = ("ipu_chem.backends.base", "ipu_chem.backends.options")
    assert not violations(
        lambda path, one: (
            name(path).startswith("ipu_chem/tasks/")
            and under(one.module, "ipu_chem.backends")
            and not under(one.module, *backends)
        )
    )


def run_blocked(code: str, *blocked: str) -> str:
    """Run code in a fresh interpreter in which some packages cannot be imported."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n"
    result = subprocess.run([sys.executable, "-c", block + code], cwd=str(ROOT), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_packing_works_with_numpy_alone():
    code = """
before = set(sys.modules)
import numpy as np
import packing, packing.collate, packing.store, packing.streaming, packing.testing, packing.tune
from packing.adapters import energon, grain, huggingface, jraph, poptorch, pyg, torch
plan = packing.make_plan(np.array([3, 4, 5, 4]), packing.Budget(nodes=8))
assert plan.algorithm == "best_fit" and plan.num_packs == 2, plan.summary()
new = [module for key, module in list(sys.modules.items()) if key not in before]
files = [str(getattr(module, "__file__", "")).replace("\\\\", "/") for module in new]
installed = {file.split("-packages/")[1].split("/")[0] for file in files if "-packages/" in file}
print(" ".join(sorted(installed)))
"""
    blocked = ("torch", "scipy", "ipu_chem", "torch_geometric", "rdkit", "datasets", "pyarrow", "jraph", "jax", "grain")
    assert set(run_blocked(code, *blocked).split()) <= {"numpy", "packing", "numpy.libs"}


def test_packing_does_not_load_scipy_before_it_needs_it():
    assert run_blocked("import packing, packing.streaming\nprint('scipy' in sys.modules)").strip() == "False"
