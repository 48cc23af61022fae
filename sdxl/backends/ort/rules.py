"""Rules of the ort backend's settings, and what they need of a machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sdxl.backends.ort.config import Config, Optimization, Provider
from sdxl.config import graphs, schema
from sdxl.core import gpu
from sdxl.core.errors import Problem


def problems_of(config: schema.Config) -> list[Problem]:
    """Rules of this backend's own settings, and of the graphs it loads."""
    backend = config.backend
    assert isinstance(backend, Config)
    problems = graphs.problems_of(config)
    if _fuses_fp8(config, backend):
        problems.append(
            Problem(
                "ONNX Runtime's fusions break FP8 graphs (1.31: they take FP8 for INT8)",
                f"quant={config.quant.name} backend.optimization={backend.optimization.value}",
                "backend.optimization=basic or disabled, at float speed; or INT8",
                f"quant={config.quant.name} backend.optimization=basic",
            )
        )
    if config.quant.format is not schema.Format.none and backend.provider is Provider.tensorrt:
        problems.append(
            Problem(
                "a graph quantized for ONNX Runtime has the layout of its processor's kernels, "
                "which TensorRT does not take",
                f"quant={config.quant.name} backend.provider=tensorrt",
                "backend=trt, or another provider",
                "backend=trt",
            )
        )
    on_cpu = config.model.device in (schema.Device.cpu, schema.Device.mps)
    if on_cpu and backend.provider in (Provider.cuda, Provider.tensorrt):
        problems.append(
            Problem(
                "`backend.provider` needs a CUDA device",
                f"model.device={config.model.device.value}",
                "model.device=auto or cuda",
                "backend.provider=cpu",
            )
        )
    if config.model.device is schema.Device.cuda and backend.provider is Provider.cpu:
        problems.append(
            Problem(
                "`model.device` would be ignored", "model.device=cuda backend.provider=cpu",
                "one place", "model.device=auto",
            )
        )  # fmt: skip
    if (on_cpu or backend.provider is Provider.cpu) and (problem := _bf16(config)):
        problems.append(problem)
    if config.model.device is schema.Device.mps:
        problems.append(
            Problem("ONNX Runtime has no MPS provider", "model.device=mps", "cpu or cuda",
                    "model.device=cpu")
        )  # fmt: skip
    return problems


def missing(config: schema.Config) -> list[Problem]:
    """What this machine lacks to run the graphs, found before they are made."""
    problem = _bf16(config)
    # onnxruntime-gpu installs the same module; its CUDA provider is a library inside.
    spec = find_spec("onnxruntime")
    places = spec.submodule_search_locations if spec else None
    cuda = any(list(Path(place).glob("capi/*providers_cuda*")) for place in places or [])
    return [problem] if problem and not (cuda and gpu.find()[0]) else []


def _bf16(config: schema.Config) -> Problem | None:
    """The CPU provider (1.31.1) has Transpose, Gather and LayerNormalization in bf16, no product
    or sum."""
    found = [g for g in graphs.GRAPHS if graphs.dtype_of(config, g) is schema.DType.bf16]
    if not found:
        return None
    return Problem(
        "ONNX Runtime has no bf16 arithmetic on a CPU",
        f"bf16 for {', '.join(found)}",
        "fp32 or fp16; or a GPU, with onnxruntime-gpu",
        "precision=fp32   # or: backend=torch",
    )


def _fuses_fp8(config: schema.Config, backend: Config) -> bool:
    """Whether FP8 layers, perhaps among others, would meet fusions made for INT8."""
    eight = config.quant.format in (schema.Format.fp8, schema.Format.auto_mixed)
    careful = backend.optimization in (Optimization.disabled, Optimization.basic)
    return eight and not careful
