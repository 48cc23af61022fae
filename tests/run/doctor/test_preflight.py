"""The preflight: what is missing is found before anything is measured."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from sdxl.run.doctor import preflight
from tests.nvml import driver
from tests.run.doctor.conftest import configure

USAGE = namedtuple("usage", "total used free")


def test_preflight_of_a_plain_run_is_empty_and_fast(tmp_path: Path):
    config = configure("quant_level=2.5")
    began = time.perf_counter()
    assert preflight(config, tmp_path / "not" / "yet" / "there") == []
    assert time.perf_counter() - began < 0.05


def test_preflight_imports_no_framework():
    code = (
        "import sys, sdxl.run.doctor;"
        "print(sorted({'torch', 'mlflow', 'mlperf_loadgen', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "[]", done.stderr


def test_preflight_finds_a_full_disk(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: USAGE(1 << 40, 1 << 40, 1 << 20))
    problems = preflight(configure("quant_level=2.5"), tmp_path)
    assert ["too full" in problem.what for problem in problems] == [True, True]
    assert all(problem.fix for problem in problems)


def test_preflight_counts_what_the_store_will_hold(tmp_path: Path, monkeypatch):
    """SDXL's graphs in fp32 are 14 GB, OpenVINO's form as much again."""

    def refused(gigabytes, *words):
        monkeypatch.setattr("shutil.disk_usage", lambda _: USAGE(1 << 40, 0, gigabytes * 10**9))
        found = preflight(configure("model=sdxl_random", "rules=open", *words), None, runs=False)
        return any("too full" in problem.what for problem in found)

    for words, most in (
        (("backend=ort",), 14),
        (("backend=ort", "precision=fp16"), 7),
        (("backend=openvino",), 28),
        (("backend=torch", "quant=int8", "quant_level=1"), 10),
        (("backend=torch", "quant=int8", "quant_level=3"), 4),
    ):
        assert refused(most - 1, *words) and not refused(most + 1, *words), words


def test_preflight_counts_the_pictures_of_an_accuracy_run(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: USAGE(1 << 40, 0, 10 << 30))
    accuracy = ("model=sdxl_random", "mode=accuracy")
    assert preflight(configure(*accuracy, "limit=16"), tmp_path) == []
    assert preflight(configure(*accuracy, "limit=2000"), tmp_path) == []
    assert preflight(configure(*accuracy, "limit=2000", "submission=true"), tmp_path)


@pytest.fixture
def gpus(monkeypatch):
    """Put GPUs into this machine; the argument is `CUDA_VISIBLE_DEVICES`."""
    from sdxl.core import gpu

    monkeypatch.setitem(sys.modules, "pynvml", driver(["L4", "L4", "H100"]))

    def show(visible):
        gpu.names.cache_clear()
        monkeypatch.setenv(gpu.VARIABLE, visible)

    yield show
    gpu.names.cache_clear()


def test_preflight_finds_places_without_a_gpu(gpus):
    words = ("model=tiny_random", "quality=none")
    gpus("2,1")
    (problem,) = preflight(configure(*words, "backend.devices=[0,1,2]"))
    assert problem.got == "[0, 1, 2]"
    assert problem.fix == "backend.devices=[0,1]"
    assert "0: GPU 2 H100, 1: GPU 1 L4" in str(problem.expected)
    (problem,) = preflight(configure(*words, "backend.devices=[2]"))
    assert problem.fix == "backend.devices=[0]"
    assert preflight(configure(*words, "backend.devices=[1]")) == []
    three = "backend.devices=[0,1,2]"
    for others in (["model.device=cpu"], ["backend=ort", "backend.provider=cpu"], ["backend=fake"]):
        found = preflight(configure(*words, three, *others))
        assert not [each for each in found if "backend.devices" in each.what], others
    assert preflight(configure(*words, three), runs=False) == []
    for hidden in ("", "-1"):
        gpus(hidden)
        assert preflight(configure(*words, three)) == [], "workers on the processor"


def test_preflight_finds_missing_packages_and_weights(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    weights = preflight(configure("model=sdxl", "model.path=store:sdxl"))
    assert [problem.fix for problem in weights] == ["python -m sdxl download sdxl"]
    (tmp_path / "sdxl").mkdir()
    (tmp_path / "sdxl" / "model_index.json").write_text("{}")
    assert preflight(configure("model=sdxl", "model.path=store:sdxl")) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    lacking = preflight(configure("backend=fake"))
    names = ["`mlperf_loadgen`", "`psutil`", "`scipy`"]
    assert [problem.got for problem in lacking] == [f"no module {name}" for name in names]
