"""The house: rooms and their tests, arrows that go one way, and counts that only ever fall."""

import ast
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import sources
from tests.conftest import ROOT

PACKAGE = ROOT / "sdxl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {"accelerate", "diffusers", "hydra", "mlflow", "mlperf_loadgen", "modelopt", "numpy",
              "omegaconf", "onnx", "onnxruntime", "optuna", "PIL", "scipy", "tensorrt",
              "tensorrt_rtx", "torch", "transformers", "triton"}  # fmt: skip

ROOM_OF = {
    "backend": "backends",
    "candidate": "run",
    "dataset": "model",
    "experiment": "run",
    "hydra": "config",
    "latency": "report",
    "model": "model",
    "precision": "model",
    "preset": "model",
    "quality": "quality",
    "quant": "quant",
    "rung": "report",
    "scenario": "bench",
    "scheduler": "model",
    "shortcut": "model",
    "sweep": "run",
    "tracking": "report",
    "train": "training",
}
"""By group of conf/: the room that reads it."""

AT_MOST = {"dict[str, Any]": 10.8, "late imports": 2.2, "# fmt: skip": 6.9, "whole Config": 5.6}
"""Ratchets, a thousand lines of the package: lower them when they fall, never raise them."""


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module(path): path for path in SOURCES}


def imported(node: ast.AST) -> set[str]:
    """What one statement imports: for `from a import b` the module a.b, if it is one, else a."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        named = {f"{node.module}.{alias.name}" for alias in node.names}
        return {name if name in MODULES else str(node.module) for name in named}
    return set()


def imports(tree: ast.AST) -> set[str]:
    """Everything imported under `tree`, late imports included."""
    return set().union(*map(imported, ast.walk(tree)))


def test_every_folder_of_tests_is_a_room():
    folders = {path.parent.relative_to(ROOT / "tests") for path in ROOT.glob("tests/**/test_*.py")}
    assert not {str(folder) for folder in folders if not (PACKAGE / folder).is_dir()}


def test_few_names_stand_at_the_top():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(names - {"__init__.py", "__main__.py"}) <= 13, sorted(names)


def test_files_stay_short():
    lengths = {module(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > 300}


def test_every_group_of_settings_has_its_room():
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert set(ROOM_OF) == groups
    assert not {room for room in ROOM_OF.values() if not (PACKAGE / room).is_dir()}


def test_settings_are_checked_without_a_framework():
    modules = "sdxl.config.load, sdxl.config.registry"
    code = f"import sys, {modules}; print(sorted({FRAMEWORKS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "['hydra', 'omegaconf']", done.stdout + done.stderr


def test_the_ground_floor_knows_no_framework():
    """`preload` is for those that fork: it exists to import them."""
    for path, tree in sources.trees(SOURCES):
        if path.parent == PACKAGE / "core" and path.stem != "preload":
            found = {name.partition(".")[0] for name in imports(tree)}
            assert not found & FRAMEWORKS, path.name


def test_no_circles():
    """Take modules away that import none of those left: whatever stays, stands on a circle."""
    left = {
        name: imports(sources.tree(path)) & set(MODULES) - {name} for name, path in MODULES.items()
    }
    while leaves := {name for name, needed in left.items() if not needed & set(left)}:
        left = {name: needed for name, needed in left.items() if name not in leaves}
    assert not left, sorted(left)


@pytest.fixture
def linted(tmp_path):
    """Run import-linter on a copy of the package with these lines planted at the ends of files."""
    shutil.copytree(PACKAGE, tmp_path / "sdxl", ignore=shutil.ignore_patterns("assets"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def run(planted):
        for file, line in planted.items():
            with (tmp_path / "sdxl" / file).open("a") as stream:
                stream.write(f"\n\ndef late():\n    {line}\n")
        program = Path(sys.executable).with_name("lint-imports")
        return subprocess.run([program], cwd=tmp_path, capture_output=True, text=True)

    return run


def test_an_arrow_back_up_is_found(linted):
    done = linted(
        {
            "core/store.py": "from sdxl.run import cell",
            "quant/levels.py": "from sdxl.export import parity",
            "bench/probe.py": "import mlflow",
        }
    )
    assert done.returncode == 1, done.stdout + done.stderr
    for arrow in ("sdxl.core.store -> sdxl.run.cell", "sdxl.quant.levels -> sdxl.export.parity",
                  "sdxl.bench.probe -> mlflow"):  # fmt: skip
        assert arrow in done.stdout


def takes_config(node: ast.AST) -> bool:
    """Whether a function's argument is the whole configuration."""
    if not isinstance(node, ast.FunctionDef):
        return False
    words = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return any(ast.unparse(word.annotation) in ("Config", "schema.Config")
               for word in words if word.annotation)  # fmt: skip


def late_imports(tree: ast.AST) -> int:
    """Imports of our own modules that wait for a call."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {each for function in functions for each in ast.walk(function)
             if any(name.startswith("sdxl") for name in imported(each))}  # fmt: skip
    return len(found)


def test_ratchets():
    """Rules apart: what they judge is the whole configuration."""
    counts = Counter()
    thousands = sum(path.read_text().count("\n") for path in SOURCES) / 1000
    for path, tree in sources.trees(SOURCES):
        text = path.read_text()
        counts["dict[str, Any]"] += text.count("dict[str, Any]")
        counts["# fmt: skip"] += text.count("# fmt: skip")
        counts["late imports"] += late_imports(tree)
        if not path.stem.startswith("rules"):
            counts["whole Config"] += sum(map(takes_config, ast.walk(tree)))
    found = {name: round(count / thousands, 2) for name, count in counts.items()}
    assert not {name: share for name, share in found.items() if share > AT_MOST[name]}


def test_every_folder_of_modules_is_a_package():
    """The layers are checked in packages; what lies in another folder may import anything."""
    folders = {path.parent for path in (ROOT / "sdxl").rglob("*.py")}
    own = {path for path in folders if "assets" not in path.parts}
    assert not [path for path in own if not (path / "__init__.py").is_file()]
