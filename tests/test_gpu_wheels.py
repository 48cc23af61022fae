"""The wheels for a GPU machine without network: the tested versions, and nothing missing."""

import json
import tarfile
import types
import zipfile
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu_payload
from benchmarks.gpu import payload
from benchmarks.gpu.payload import STUBS
from tests.conftest import ROOT

LIST = "benchmarks/gpu_wheels.txt"
THERE = (
    "torch", "triton", "numpy", "scipy", "transformers", "huggingface-hub", "tokenizers",
    "safetensors", "accelerate", "psutil", "rich", "pillow", "pyyaml", "filelock", "nvidia-ml-py",
    "requests", "ninja",
)  # fmt: skip
"""What such a machine has, with all that these need; the list's first comment says so."""
OPTIONAL = {"hf-xet"}
"""Named as needed by what it only speeds up: downloads, of which there are none."""


def pins(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def with_needs(names):
    """The packages and all that they require here, extras aside."""
    found, left = set(), {canonicalize_name(name) for name in names}
    while left:
        name = left.pop()
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # what a CUDA build of torch brings
            continue
        needed = [Requirement(line) for line in lines]
        here = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
        left |= {canonicalize_name(r.name) for r in here} - found
    return found


def test_versions_are_the_tested_ones():
    wheels, tested = pins(LIST), pins("constraints.txt")
    assert len(wheels) > 8
    assert {name: version for name, version in wheels.items() if tested.get(name) != version} == {}


def test_nothing_that_they_need_is_missing():
    listed = set(pins(LIST))
    assert with_needs(listed) - listed - with_needs(THERE) - OPTIONAL - set(STUBS) == set()
    some = listed - {"pydantic-core", "omegaconf"}
    assert {"pydantic-core", "omegaconf"} <= with_needs(some) - some
    assert "pulp" in with_needs(listed), "nothing asks for it: its stub can go"


def wheel(folder, name, files):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as made:
        for path, text in files.items():
            made.writestr(path, text)


def test_the_payload_is_laid_out_as_an_installer_would(tmp_path, monkeypatch):
    def fetch(wanted, python, folder):
        assert "diffusers==0.42.1" in wanted and python == "3.12"
        wheel(folder, "one", {"one/__init__.py": "", "one-1.0.dist-info/METADATA": "Name: one"})
        wheel(folder, "two", {"two-1.0.data/purelib/two.py": "x = 1", "two-1.0.data/scripts/t": ""})
        return sorted(folder.glob("*.whl"))

    monkeypatch.setattr(payload, "fetch", fetch)
    cache = tmp_path / "cache" / "KEY"
    cache.mkdir(parents=True)
    for name in ("_gemm.cubin", "_gemm.json", "_gemm.ttir"):
        (cache / name).write_text(name)
    paths = {p.name: str(p) for p in cache.iterdir()}
    (cache / "__grp___gemm.json").write_text(json.dumps({"child_paths": paths}))
    launcher = f"{payload.LAUNCHER}.cpython-312-x86_64-linux-gnu.so"
    (cache.parent / "OTHER").mkdir()
    (cache.parent / "OTHER" / launcher).touch()
    out = tmp_path / "out"
    sizes = payload.make([ROOT / LIST], out, "3.12", tmp_path / "cache", "/there")
    assert set(sizes) == {"site.tar.xz", "triton.tar.xz"}
    with tarfile.open(out / "site.tar.xz") as opened:
        assert {"one/__init__.py", "one-1.0.dist-info/METADATA", "two.py", "pulp.py"} == set(
            opened.getnames()
        )
    with tarfile.open(out / "triton.tar.xz") as opened:
        opened.extractall(tmp_path / "moved", filter="data")
    group = json.loads((tmp_path / "moved" / "KEY" / "__grp___gemm.json").read_text())
    assert group["child_paths"] == {
        "_gemm.cubin": "/there/KEY/_gemm.cubin", "_gemm.json": "/there/KEY/_gemm.json",
    }  # fmt: skip
    assert (tmp_path / "moved" / "OTHER" / launcher).is_file()


def test_the_stub_serves_what_modelopt_does_when_it_is_imported():
    module = types.ModuleType("pulp")
    exec(STUBS["pulp"], module.__dict__)
    assert list[module.LpVariable] and module.LpProblem.__name__ == "LpProblem"


def test_what_is_too_large_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(payload, "make", lambda *_: {"site.tar.xz": 61 << 20})
    monkeypatch.setattr("sys.argv", ["gpu_payload.py", "--out", str(tmp_path)])
    assert gpu_payload.main() == 1
    assert "together, 60 allowed" in capsys.readouterr().out
