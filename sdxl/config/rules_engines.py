"""What may be asked of TensorRT engines, and what this machine lacks for them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from sdxl.config import schema
from sdxl.config.choices import Convolutions
from sdxl.config.derive import batch_size
from sdxl.config.engines import (
    MODULES,
    RTX_TARGETS,
    Compatibility,
    Flavor,
    choose,
    images,
    installed,
    needs,
    number,
    settings_of,
)
from sdxl.config.schema import Config
from sdxl.core import gpu
from sdxl.core.errors import Problem

INSTALL = "python -m pip install -c constraints.txt -e '.[{}]'"


def problems_of(config: Config) -> Iterator[Problem]:
    """Rules of the settings, whatever machine this is."""
    yield from _batches(config)
    yield from _targets(config)
    yield from _ignored(config)
    if config.export.convolutions is Convolutions.product:
        yield Problem(
            "TensorRT takes no convolutions as products of patches (docs/qdq.md)",
            "export.convolutions=product",
            "conv float",
            "export.convolutions=conv",
        )
    if config.model.device in (schema.Device.cpu, schema.Device.mps):
        yield Problem(
            "TensorRT runs on NVIDIA GPUs only",
            f"model.device={config.model.device.value}",
            "model.device=auto",
            "backend=ort",
        )


def missing(config: Config, run: bool = True) -> Iterator[Problem]:
    """What this machine lacks to build (and to `run`) engines; asks the driver, not CUDA."""
    flavor = choose(config)
    found, reason = gpu.find()
    ahead = "python export.py backend=trt backend.flavor=rtx   # or: python run.py backend=ort"
    if not installed(flavor):
        asked = settings_of(config).flavor
        names = list(MODULES) if asked is Flavor.auto else [asked]
        yield Problem(
            "TensorRT is not installed" if flavor is not Flavor.rtx else "no TensorRT-RTX here",
            "no module " + " or ".join(f"`{MODULES[name]}`" for name in names),
            "data-centre TensorRT (with a GPU), or TensorRT-RTX (builds without one)",
            INSTALL.format("trt" if found else "rtx"),
        )
    if not found and run:
        yield Problem(
            "backend=trt needs an NVIDIA GPU to run on",
            reason,
            "a GPU; without one RTX engines can be built ahead of time, and ONNX Runtime runs "
            "the same graphs",
            ahead,
        )
    elif not found and flavor is Flavor.tensorrt:
        yield Problem(
            "data-centre TensorRT builds only on the GPU it builds for: it times kernels there",
            reason,
            "a GPU, or TensorRT-RTX, which compiles for named architectures",
            "python export.py backend=trt backend.flavor=rtx",
        )
    if found and run and version("torch").endswith("+cpu"):
        yield Problem(
            "this PyTorch cannot reach the GPU, and TensorRT works in its buffers",
            f"torch {version('torch')}, {found.name}",
            "a CUDA build",
            "python -m pip install --force-reinstall torch",
        )
    yield from _unfit(config, flavor, found)


def _unfit(config: Config, flavor: Flavor, found: gpu.Gpu | None) -> Iterator[Problem]:
    """A GPU that cannot do what is asked of it."""
    wanted = settings_of(config)
    if found and not wanted.compute_capabilities:
        here = found.capability[0] * 10 + found.capability[1]
        for lowest, why in needs(config):
            if here < lowest:
                yield Problem(f"this GPU cannot hold {config.quant.name or 'it'}",
                              f"{found.name}, {found.target}", why, "quant=int8")  # fmt: skip
        if flavor is Flavor.rtx and found.target not in RTX_TARGETS:
            yield Problem(
                "TensorRT-RTX does not list this GPU",
                f"{found.name}, {found.target}",
                "one of " + " ".join(RTX_TARGETS) + "; or try an older target's engine on it",
                "backend.flavor=tensorrt   # or: backend.compute_capabilities=[sm80]",
            )
    if not found and flavor is Flavor.rtx and (wanted.refit or wanted.strip_plan):
        yield Problem(
            "TensorRT-RTX builds refittable engines only on a machine with a GPU",
            f"backend.refit={wanted.refit} backend.strip_plan={wanted.strip_plan}".lower(),
            "both false, or a GPU",
            "backend.refit=false backend.strip_plan=false",
        )


def _batches(config: Config) -> Iterator[Problem]:
    """min <= opt <= max, and the run's batches within them."""
    wanted, batch = settings_of(config), batch_size(config)
    least, usual, most = images(config)
    names = ("min_batch_size", "opt_batch_size", "max_batch_size")
    given = [f"backend.{name}={value}" for name in names if (value := getattr(wanted, name))]
    if wanted.static_batch:
        for setting in given:
            yield Problem(
                f"{setting} would be ignored: a static engine has one batch size",
                "backend.static_batch=true",
                "backend.batch_size alone",
                f"backend.static_batch=true backend.batch_size={batch}",
            )
    elif not least <= usual <= most or not least <= batch <= most:
        yield Problem(
            "the engine's batch sizes do not fit together",
            f"min {least}, opt {usual}, max {most}; {config.scenario.name} sends {batch}",
            "min <= opt <= max, and the batch within them",
            f"backend.min_batch_size={min(least, batch)} backend.max_batch_size={max(most, batch)}",
        )


def _targets(config: Config) -> Iterator[Problem]:
    wanted = settings_of(config).compute_capabilities
    unknown = [target for target in wanted if target not in RTX_TARGETS]
    if unknown:
        yield Problem("TensorRT-RTX has no such target", " ".join(unknown),
                      " ".join(RTX_TARGETS), "backend.compute_capabilities=[sm89]")  # fmt: skip
        return
    for lowest, why in needs(config):
        low = [target for target in wanted if number(target) < lowest]
        if low:
            fit = ",".join(t for t in RTX_TARGETS if number(t) >= lowest)
            yield Problem(f"{' '.join(low)} cannot hold what is asked for", why,
                          f"targets from sm{lowest}",
                          f"backend.compute_capabilities=[{fit}]")  # fmt: skip


def _ignored(config: Config) -> Iterator[Problem]:
    """Settings that would silently do nothing."""
    wanted = settings_of(config)
    if wanted.weight_streaming_budget_gib is not None and not wanted.weight_streaming:
        yield Problem(
            "`backend.weight_streaming_budget_gib` would be ignored",
            "backend.weight_streaming=false",
            "backend.weight_streaming=true",
        )
    if wanted.flavor is Flavor.tensorrt and wanted.compute_capabilities:
        yield Problem(
            "`backend.compute_capabilities` would be ignored: TensorRT builds for this GPU",
            "backend.flavor=tensorrt",
            "backend.flavor=rtx",
        )
    if wanted.flavor is Flavor.rtx and wanted.hardware_compatibility is not Compatibility.none:
        yield Problem(
            "`backend.hardware_compatibility` would be ignored: RTX names its targets",
            "backend.flavor=rtx",
            "backend.compute_capabilities=[sm80,sm89]",
        )
