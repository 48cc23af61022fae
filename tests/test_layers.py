"""The rules of the house, read from the source: who may import whom, and what nobody may do."""

import ast
from pathlib import Path

import pytest

from sdxl.config.load import quality_modules
from tests.conftest import ROOT

PACKAGE = ROOT / "sdxl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ENTRIES = sorted(ROOT.glob("*.py"))
GROUND = ("choices", "errors", "config", "schema", "schema_train", "rules", "rules_quant", "types",
          "store")  # fmt: skip
LIGHT = {"hydra", "sdxl.cli", "sdxl.config.load", "sdxl.core.errors"}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(node: ast.AST, path: Path) -> set[str]:
    """Modules that the code under `node` imports (`from a import b` -> a, a.b)."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            found |= {alias.name for alias in each.names}
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, f"{path}: relative import"
            found |= {str(each.module), *(f"{each.module}.{alias.name}" for alias in each.names)}
    return found


def top_level(tree: ast.Module) -> ast.Module:
    """What runs at import: no function bodies, no `if TYPE_CHECKING`."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(kept, [])


TREES = {path: ast.parse(path.read_text()) for path in [*SOURCES, *ENTRIES]}


def importers(*names: str) -> set[str]:
    """Our modules that import any of `names` or something below them, at whatever depth."""
    return {
        module(path)
        for path, tree in TREES.items()
        for found in imports(tree, path)
        if any(found == name or found.startswith(f"{name}.") for name in names)
    }


def within(modules: set[str], *allowed: str) -> set[str]:
    return {m for m in modules if not any(m == a or m.startswith(f"{a}.") for a in allowed)}


@pytest.mark.parametrize("name", ["quant", "export", "backends"])
def test_quant_export_and_backends_never_import_one_another(name):
    others = [f"sdxl.{other}" for other in ("quant", "export", "backends") if other != name]
    offenders = {m for m in importers(*others) if m.startswith(f"sdxl.{name}.")}
    assert not offenders


def test_bench_never_imports_a_backend():
    assert not {m for m in importers("sdxl.backends") if m.startswith("sdxl.bench")}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("mlflow", ["sdxl.report.mlflow.client"]),
        ("mlperf_loadgen", ["sdxl.bench"]),
        ("tensorrt", ["sdxl.backends.trt.stages", "sdxl.export.engine"]),
        ("tensorrt_rtx", ["sdxl.backends.trt.stages", "sdxl.export.engine"]),
        ("modelopt", ["sdxl.quant", "sdxl.backends.torch.stages"]),
    ],
)
def test_a_library_is_imported_in_its_home_only(library, homes):
    assert not within(importers(library), *homes)


def test_the_libraries_are_looked_for_by_their_right_names():
    """Guards the test above: the homes that exist today do import their library."""
    assert "sdxl.report.mlflow.client" in importers("mlflow")
    assert "sdxl.bench.loadgen" in importers("mlperf_loadgen")
    assert "sdxl.export.engine.library" in importers("tensorrt_rtx") & importers("tensorrt")


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_floor_imports_nothing_from_above(name):
    path = PACKAGE / f"{name}.py"
    ours = {m for m in imports(TREES[path], path) if m.startswith("sdxl.")}
    # `from sdxl.config.schema import Config` is listed as sdxl.config.schema and sdxl.config.schema.Config.
    allowed = [f"sdxl.{ground}" for ground in GROUND]
    if name == "config":
        allowed.append("sdxl.backends")  # by name, through importlib
    assert not within(ours, *allowed)


def test_the_ground_floor_is_free_of_frameworks():
    heavy = ("torch", "diffusers", "transformers", "mlflow", "numpy", "PIL", "mlperf_loadgen")
    offenders = importers(*heavy) & {f"sdxl.{name}" for name in GROUND}
    assert not offenders


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.name)
def test_entry_points_import_only_light_modules(path):
    found = imports(top_level(TREES[path]), path)
    assert not within(found, *LIGHT, "__future__")


@pytest.mark.parametrize(
    "path",
    [
        *sorted((PACKAGE / "backends").glob("[!_]*.py")),
        *(Path(module.__file__) for module in quality_modules().values()),
    ],
    ids=lambda path: path.stem,
)
def test_an_options_top_part_is_light(path):
    """Composition imports every option for its schema, also where its library is missing."""
    found = imports(top_level(TREES[path]), path)
    standard = {"__future__", "abc", "collections", "contextlib", "dataclasses", "enum",
                "functools", "json", "logging", "math", "os", "pathlib", "re", "signal", "sys",
                "threading", "time", "typing"}  # fmt: skip
    assert not within(
        found, *standard, "sdxl.config.schema", "sdxl.core.errors", "sdxl.core.types", "sdxl"
    )


@pytest.mark.parametrize("path", [*SOURCES, *ENTRIES], ids=module)
def test_nothing_runs_code_from_a_file(path):
    for node in ast.walk(TREES[path]):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"), name
        assert not name.endswith("utils.instantiate"), name
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name == "torch.load":
            assert words.get("weights_only") == "True", f"line {node.lineno}"
        if name == "np.load":
            assert words.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        assert words.get("shell", "False") == "False", f"line {node.lineno}"


def test_nobody_pickles():
    assert not importers("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve")


def test_files_stay_short():
    lengths = {module(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > 320}
