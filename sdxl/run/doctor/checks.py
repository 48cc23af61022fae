"""The single checks: each returns lines that say ok, warning or missing, and what to type."""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sdxl.backends.openvino import rules
from sdxl.config import engines
from sdxl.config.engines import Flavor
from sdxl.core import environment, store
from sdxl.core import gpu as gpus
from sdxl.core.disk import existing, room
from sdxl.core.errors import UserError
from sdxl.core.gpu import find as find_gpu
from sdxl.core.paths import CONSTRAINTS, DISTRIBUTION, IN_CHECKOUT, ROOT
from sdxl.model.download import catalogue as published
from sdxl.run.doctor.preflight import INSTALL

OLDEST, NEWEST = (3, 11), (3, 13)
LITTLE, NOTHING = 10e9, 1e9
"""Bytes free that are little for real weights, and too few for any run."""
NAMED = 6


@dataclass(frozen=True)
class Check:
    """One line: `state` is ok, warning, or missing (run.py needs it)."""

    name: str
    state: str
    text: str
    fix: str = ""


def python() -> Iterator[Check]:
    """The interpreter's version."""
    fine = OLDEST <= sys.version_info[:2] <= NEWEST
    text = f"{platform.python_version()} at {sys.executable}"
    yield (
        Check("Python", "ok", text)
        if fine
        else Check(
            "Python", "missing", f"{text}; 3.11 to 3.13 is needed", "make PYTHON=python3.11 run"
        )
    )


def packages(constraints: Path = CONSTRAINTS) -> Iterator[Check]:
    """What run.py depends on, and how far the installed versions are from the tested set."""
    tested = dict(_pins(constraints))
    absent, unlike = [], []
    needed = _dependencies()
    for name in needed:
        if version(name) is None:
            absent.append(name)
    for name, pin in tested.items():
        found = version(name)
        if found and found.partition("+")[0] != pin:
            unlike.append(f"{name} {found} (tested: {pin})")
    if absent:
        yield Check("packages", "missing", f"not installed: {', '.join(absent)}", INSTALL)
    if not tested:
        yield Check("packages", "warning", f"{constraints} is not there to compare with")
    elif unlike:
        more = f" and {len(unlike) - NAMED} more" if len(unlike) > NAMED else ""
        text = f"{len(unlike)} of {len(tested)} differ from the tested set: "
        yield Check("packages", "warning", text + ", ".join(unlike[:NAMED]) + more, INSTALL)
    elif not absent:
        count = sum(version(name) is not None for name in tested)
        yield Check("packages", "ok", f"{len(needed)} needed, {count} in the tested versions")


def loadgen() -> Iterator[Check]:
    """MLPerf LoadGen, imported as the measuring process does."""
    try:
        module = importlib.import_module("mlperf_loadgen")
        assert hasattr(module, "StartTestWithLogSettings")
    except (ImportError, AssertionError) as error:
        yield Check("LoadGen", "missing", f"cannot be imported: {error}", INSTALL)
        return
    yield Check("LoadGen", "ok", f"mlcommons-loadgen {version('mlcommons-loadgen')}")


def processor() -> Iterator[Check]:
    """Its name, cores and instructions, and whether 8 bits pay."""
    here = environment.describe()
    found = str(here["instructions"])
    text = f"{here['cpu']}, {here['cores']} cores" + (f": {found}" if found else "")
    if environment.lacks_vnni():
        note = "; no VNNI: INT8 gained nothing where it was tried, and is inexact in OpenVINO"
        yield Check("processor", "warning", text + note, "quant=none, or backend=ort")
        return
    yield Check("processor", "ok", text)


def gpu() -> Iterator[Check]:
    """GPUs and driver as NVML sees them, then as torch does."""
    with gpus.Gpus() as found:
        if found.reason:
            yield Check("GPU", "warning", f"{found.reason}; models run on the CPU", found.fix)
        for device in found.devices:
            free, total = device.memory.free / 2**30, device.memory.total / 2**30
            text = f"{device.index}: {device.name}, {free:.1f} of {total:.1f} GiB free, "
            taken = free < total / 2
            note = "; another process holds more than half of it" if taken else ""
            yield Check("GPU", "warning" if taken else "ok",
                        f"{text}driver {device.described().driver}{note}",
                        "nvidia-smi" if taken else "")  # fmt: skip
    yield from _torch(len(found.devices))


def tensorrt() -> Iterator[Check]:
    """Which TensorRT is installed; there are three families with one API."""
    kinds = {"tensorrt": "data centre", "tensorrt-rtx": "RTX", "tensorrt-llm": "LLM"}
    # Wheels write their names with `_` as often as with `-`.
    told = (str(each.metadata["Name"] or "") for each in metadata.distributions())
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in told}
    found = sorted(name for name in names if re.fullmatch(r"tensorrt(-rtx)?(-cu\d+)?", name))
    if not found:
        text = "not installed; only backend=trt and export.py need it"
        yield Check("TensorRT", "warning", text, "python -m pip install -e '.[trt]'")
        return
    described = [f"{n} {version(n)} ({kinds[re.sub(r'-cu[0-9]+$', '', n)]})" for n in found]
    yield Check("TensorRT", "ok", ", ".join(described))
    for flavor in (Flavor.tensorrt, Flavor.rtx):
        if engines.installed(flavor):
            yield _engines(flavor)


def openvino() -> Iterator[Check]:
    """OpenVINO's devices here, with the formats that each computes in."""
    if absent := rules.not_installed():
        text = "not installed; only backend=openvino needs it"
        yield Check("OpenVINO", "warning", text, absent[0].fix or "")
        return
    try:
        found = rules.devices()
    except Exception as error:  # a library it needs is absent or too old
        text = f"cannot be loaded: {type(error).__name__}: {error}"
        yield Check("OpenVINO", "warning", text, rules.INSTALL)
        return
    described = ", ".join(f"{name} ({' '.join(each)})" for name, each in found.items())
    yield Check("OpenVINO", "ok", f"{version('openvino')}: {described}")


def disk() -> Iterator[Check]:
    """Free space and permission of the project's and the store's disks."""
    fixes = {"project": "hydra.run.dir=FOLDER", "store": "export SDXL_STORE=FOLDER"}
    for name, folder in (("project", ROOT), ("store", store.root())):
        if silent := room(folder, 0, ""):
            yield Check(f"disk, {name}", "missing", silent[0].what, fixes[name])
            continue
        free = shutil.disk_usage(existing(folder)).free
        state, text = "warning" if free < LITTLE else "ok", f"{folder}: {free / 1e9:,.0f} GB free"
        if problems := room(folder, int(NOTHING), ""):
            state, text = "missing", f"{problems[0].what}: {problems[0].got}"
        yield Check(f"disk, {name}", state, text, "" if state == "ok" else fixes[name])


def downloads(checksums: bool = False, catalogue: Path = published.CATALOGUE) -> Iterator[Check]:
    """Weights, captions and statistics in the store, by size or (slowly) by checksum."""
    for name, target in published.load(catalogue).items():
        fix = f"python -m sdxl download {name}"
        absent, wrong, count, variant = _best_variant(target, checksums)
        label = f"download, {name}"
        if wrong:
            yield Check(label, "warning", "; ".join(wrong[:NAMED]), fix)
        elif len(absent) == count:
            yield Check(label, "warning", f"not there: {target.what}", fix)
        elif absent:
            text = f"{len(absent)} of {count} files are not there: {', '.join(absent[:NAMED])}"
            yield Check(label, "warning", text, fix)
        else:
            how = "checksums agree" if checksums else "sizes agree, checksums not read"
            what = " ".join([target.what.split(" (")[0], *([variant] if variant else [])])
            yield Check(label, "ok", f"{what}: {how}")


def _best_variant(
    target: published.Target, checksums: bool
) -> tuple[list[str], list[str], int, str]:
    """(absent, wrong, files, variant) of the variant of the weights that is most nearly there."""
    found = []
    for variant in sorted({file.variant or "" for file in target.files} - {""}) or [""]:
        files = [file for file in target.files if file.variant in (None, variant)]
        found.append((*_files(files, checksums), len(files), variant))
    return min(found, key=lambda each: (bool(each[1]), len(each[0])))


def version(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _files(files: list[published.File], checksums: bool) -> tuple[list[str], list[str]]:
    """(absent, wrong) of files of the store."""
    absent, wrong = [], []
    for file in files:
        if not file.target.is_file():
            absent.append(file.path)
            continue
        size = file.target.stat().st_size
        if checksums:
            try:
                problem = file.problem(file.target)
            except (OSError, UserError) as error:
                problem = str(error)
            if problem:
                wrong.append(f"{file.path}: {problem}")
        elif file.bytes and size != file.bytes:
            wrong.append(f"{file.path}: {size:,} bytes in place of {file.bytes:,}")
    return absent, wrong


def _engines(flavor: Flavor) -> Check:
    """What one TensorRT library can do on this machine."""
    name = f"engines, {flavor.value}"
    try:
        importlib.import_module(engines.MODULES[flavor])
    except Exception as error:  # a library it needs is absent or too old
        return Check(name, "warning", f"cannot be loaded: {type(error).__name__}: {error}")
    found, reason = find_gpu()
    if found and (flavor is Flavor.tensorrt or found.target in engines.RTX_TARGETS):
        return Check(name, "ok", f"builds and runs on {found.name}, {found.target}")
    here = f"{found.name} ({found.target}) is no target of it" if found else reason
    if flavor is Flavor.tensorrt:
        return Check(name, "warning", f"neither builds nor runs: {here}", "backend=ort")
    targets = " ".join(engines.RTX_TARGETS)
    text = f"builds ahead of time for {targets}, runs none: {here}"
    return Check(name, "ok", text, "python export.py backend=trt backend.flavor=rtx")


def _torch(seen: int) -> Iterator[Check]:
    try:
        torch: Any = importlib.import_module("torch")
    except Exception as error:  # a broken binary raises OSError and worse
        yield Check("torch", "missing", f"cannot be imported: {error}", INSTALL)
        return
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    text = f"{torch.__version__}, " + (f"built for CUDA {built}" if built else "a CPU build")
    if torch.cuda.is_available():
        yield Check("torch", "ok", f"{text}, {torch.cuda.device_count()} devices")
    elif seen:
        fix = "python -m pip install --force-reinstall torch   # a CUDA build the driver can run"
        yield Check("torch", "warning", f"{text}; it cannot use the GPU", fix)
    else:
        yield Check("torch", "ok", text)


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        name, sign, pin = line.partition("#")[0].strip().partition("==")
        if sign:
            yield name, pin.partition("+")[0]


def _dependencies() -> list[str]:
    """What the package needs, without what only its extras need."""
    if IN_CHECKOUT:
        lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    else:
        lines = [line for line in metadata.requires(DISTRIBUTION) or [] if "extra ==" not in line]
    return [re.split(r"[<>=!~\[; ]", line)[0] for line in lines]
