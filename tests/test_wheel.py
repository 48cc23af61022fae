"""What `pip install` brings: the package with its configuration, and the command `sdxl`."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(ROOT)], check=True, timeout=200)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def sdxl(wheel, tmp_path_factory):
    """`sdxl WORDS` of an installed wheel, typed in a folder without a checkout."""
    site = tmp_path_factory.mktemp("site")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=200)

    def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(
            [sys.executable, str(site / "bin" / "sdxl"), *words],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    return run


def test_it_holds_the_configuration_and_what_the_package_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"sdxl/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert {"sdxl/constraints.txt", "sdxl/assets/prompts.txt"} <= names
    assert "hydra_plugins/sdxl_sweeper.py" in names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))}


def test_it_measures_below_the_current_folder(sdxl, tmp_path):
    done = sdxl("run", "backend=fake", "limit=4", "tracking=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["status"] == "ok"
    record = Path(line["record"])
    assert record.is_relative_to(tmp_path / "multirun")
    assert json.loads(record.read_text())["command"].startswith("sdxl run backend=fake")


def test_a_sweep_and_its_report(sdxl, tmp_path):
    words = ("backend=fake", "limit=8", "scenario.min_duration_ms=0", "tracking=off", "seed=1,2")
    done = sdxl("run", "-m", *words, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1])["ok"] == 2, done.stderr
    assert sdxl("report", cwd=tmp_path).returncode == 0
    assert list((tmp_path / "multirun").rglob("report.html"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "measure one setting"),
        (["run", "--help"], "quant_level=null"),
        (["export", "plan=true"], '"status": "ok"'),
        (["quantize", "quant=int8", "plan=true"], '"status": "ok"'),
        (["train", "train=smoke", "plan=true"], '"status": "ok"'),
        (["download", "--help"], "usage: python -m sdxl download"),
        (["doctor"], '"missing": 0'),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_every_command_is_there(sdxl, words, said, tmp_path):
    done = sdxl(*words, cwd=tmp_path)
    assert said in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_command_is_answered_with_the_right_one(sdxl, tmp_path):
    done = sdxl("repotr", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean `report`?" in done.stderr
