"""What machine this is, and what it can reach: a copy, and a product in bf16."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu import clock
from benchmarks.gpu.child import Context

PACKAGES = (
    "torch", "triton", "numpy", "diffusers", "transformers", "tokenizers", "huggingface-hub",
    "hydra-core", "omegaconf", "nvidia-modelopt", "mlcommons-loadgen", "safetensors", "pydantic",
    "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-frontend", "fa3-fwd", "tensorrt",
    "tensorrt-rtx-cu12", "nvidia-ml-py", "psutil", "rich",
)  # fmt: skip

QUERIES = (
    "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,"
    "power.draw,power.limit,temperature.gpu",
    "clocks_event_reasons.active,mig.mode.current",  # not every driver knows these
)

HALF_BYTES = 2


def run(context: Context) -> dict[str, Any]:
    """Versions first, so that they are there whatever comes later."""
    import torch

    context.note(
        versions=versions(), python=sys.version, kernel=platform.platform(), cores=os.cpu_count(),
        libtriton_sha256=_libtriton(), triton_cache=_cache(), gpu=_smi(),
    )  # fmt: skip
    device = context.device
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    facts: dict[str, Any] = {"device": name, "cuda": torch.version.cuda}
    if device.type == "cuda":
        seen = torch.cuda.get_device_properties(device)
        facts |= {"multiprocessors": seen.multi_processor_count, "memory_bytes": seen.total_memory,
                  "capability": list(torch.cuda.get_device_capability(device)),
                  "l2_bytes": getattr(seen, "L2_cache_size", None),
                  "cudnn": torch.backends.cudnn.version()}  # fmt: skip
    context.note(**facts)
    size = 256 if context.rehearse else 8192
    source = torch.empty((1 << 16) if context.rehearse else (4 << 30), dtype=torch.uint8,
                         device=device)  # fmt: skip
    source.random_()
    target = torch.empty_like(source)
    copied = clock.candidate([partial(target.copy_, source)], device, moved=2 * source.numel())
    del source, target
    dtype = torch.bfloat16
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    product = clock.candidate([partial(torch.matmul, left, right)], device, flop=2.0 * size**3)
    context.note(copy=copied, bf16=product, bf16_size=size)
    told = f"{name}, torch {torch.__version__}, copy {copied.get('tb_per_s')} TB/s, "
    return {"gpu_after": _smi(), "line": told + f"bf16 {product.get('tflops')} TFLOP/s"}


def versions() -> dict[str, str]:
    """Versions of what the measurement depends on; those that are not there left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _libtriton() -> str:
    """Kernels compiled elsewhere are found in the cache only if this library is the same."""
    try:
        import triton
    except ImportError as error:
        return f"no Triton: {error}"
    files = sorted((Path(triton.__file__).parent / "_C").glob("libtriton*.so"))
    return hashlib.sha256(files[0].read_bytes()).hexdigest() if files else "no libtriton"


def _cache() -> dict[str, Any]:
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or "~/.triton/cache").expanduser()
    return {"folder": str(folder), "cubins": sum(1 for _ in folder.glob("*/*.cubin"))}


def _smi() -> dict[str, str]:
    """Clocks and power as the card is found; nothing is set."""
    found = {}
    for query in QUERIES:
        line = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=15, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            found[query.partition(",")[0]] = f"{type(error).__name__}: {error}"
            continue
        values = [each.strip() for each in done.stdout.splitlines()[0].split(",")]
        found |= dict(zip(query.split(","), values, strict=False))
    return found
