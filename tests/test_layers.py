"""What the house forbids beside its layers: those are import-linter's, which `make lint` runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sdxl.config.plugins import backends, quality_options
from tests import sources
from tests.conftest import ROOT

PACKAGE = ROOT / "sdxl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ENTRIES = sorted(ROOT.glob("*.py"))
LIGHT = {"hydra", "sdxl.cli", "sdxl.config.registry", "sdxl.core", "sdxl.core.ends",
         "sdxl.core.kept_help", "sys"}  # fmt: skip


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


def within(modules: set[str], *allowed: str) -> set[str]:
    return {m for m in modules if not any(m == a or m.startswith(f"{a}.") for a in allowed)}


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.name)
def test_entry_points_import_only_light_modules(path):
    found = imports(top_level(sources.tree(path)), path)
    assert not within(found, *LIGHT, "__future__")


def test_an_options_top_part_is_light():
    """An option is imported for its schema, also where its library is missing."""
    heavy = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "tensorrt", "mlflow",
             "numpy", "PIL", "mlperf_loadgen", "modelopt", "scipy")  # fmt: skip
    code = (
        "import sys\n"
        "from sdxl.config import load, plugins, registry\n"
        "registry.register(); plugins.backends(); plugins.quality_options()\n"
        f"print(sorted({set(heavy)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_option_of_a_group_has_its_module_and_yaml():
    yamls = {path.stem for path in (ROOT / "conf/backend").glob("*.yaml")}
    assert set(backends()) == yamls
    scored = {path.stem for path in (ROOT / "conf/quality").glob("*.yaml")} - {"none"}
    assert set(quality_options()) == scored


def importers(*names: str) -> set[str]:
    """Our modules that import any of `names` or something below them, at whatever depth."""
    return {
        module(path)
        for path, tree in sources.trees([*SOURCES, *ENTRIES])
        for found in imports(tree, path)
        if any(found == name or found.startswith(f"{name}.") for name in names)
    }


@pytest.mark.parametrize("path", [*SOURCES, *ENTRIES], ids=module)
def test_nothing_runs_code_from_a_file(path):
    for node in ast.walk(sources.tree(path)):
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
