"""Where a figure was measured: versions, processor, GPU, code."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sdxl.core.paths import ROOT

PACKAGES = (
    "accelerate",
    "diffusers",
    "hydra-core",
    "mlcommons-loadgen",
    "mlflow",
    "numpy",
    "nvidia-modelopt",
    "onnx",
    "onnxruntime",
    "openvino",
    "safetensors",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
)

INSTRUCTIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
    "amx_int8", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""By Linux's names, those that arithmetic in 8, 16 and 32 bits depends on."""


@cache
def describe() -> dict[str, Any]:
    """Versions, machine and code state; imports no framework."""
    import psutil

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": versions(),
        "git": git_state(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a figure."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the project and whether the working tree differs from it."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "-uno"))}


def diffusers_in_use() -> dict[str, Any]:
    """Version, path and content hash of the diffusers that this process imported, if it did."""
    module = sys.modules.get("diffusers")
    if module is None or not module.__file__:
        return {}
    folder = Path(module.__file__).parent
    return {
        "version": module.__version__,
        "path": str(folder),
        "sha256": _fingerprint(folder),
    }


@cache
def _fingerprint(folder: Path) -> str:
    """Of the code in a folder, as it was when this process first asked."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def accelerators() -> list[dict[str, Any]]:
    """CUDA devices that torch sees in this process."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        found.append(
            {
                "name": facts.name,
                "compute_capability": f"{facts.major}.{facts.minor}",
                "memory_bytes": facts.total_memory,
                "cuda": torch.version.cuda,
            }
        )
    return found


def peak_rss_bytes() -> int:
    """The most memory that this process had resident; macOS tells bytes, others kibibytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_name() -> str:
    return _told("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Those of `INSTRUCTIONS` that the processor has; empty where the system does not tell."""
    has = {*(_told("flags") or _told("Features")).split()}
    return " ".join(name for name in INSTRUCTIONS if name in has)


def lacks_vnni() -> bool:
    """Whether 8-bit products are added in 16 bits, which overflow: x86 with AVX2 alone."""
    has = instructions()
    return "avx2" in has and "vnni" not in has and "amx_int8" not in has


def processor() -> str:
    """What a figure of this processor holds for: virtual machines call unlike ones the same."""
    return f"{_cpu_name()} {instructions()}".rstrip()


def _told(field: str) -> str:
    """What Linux says of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, "")
