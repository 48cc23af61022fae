"""The two TensorRT libraries, as far as their builders differ."""

from __future__ import annotations

from typing import Any

from sdxl.config import engines
from sdxl.config.engines import Compatibility, Flavor
from sdxl.config.schema import Config
from sdxl.core.errors import SdxlError

GIB = 1 << 30


def load(flavor: Flavor) -> Any:
    """The library's module; raises `SdxlError` if it is there but cannot be loaded."""
    try:
        if flavor is Flavor.rtx:
            import tensorrt_rtx

            return tensorrt_rtx
        import tensorrt

        return tensorrt
    except (ImportError, OSError) as error:
        raise SdxlError(
            f"{engines.MODULES[flavor]} cannot be loaded",
            f"{type(error).__name__}: {error}",
            "the library and the CUDA runtime it was made for",
            "python -m sdxl doctor",
        ) from error


def version(flavor: Flavor) -> str:
    """The library's own version; an engine belongs to exactly one."""
    return str(load(flavor).__version__)


def network(trt: Any, builder: Any) -> Any:
    """An empty network whose types are the graph's own (10.x asks for it, later ones always)."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def configure(trt: Any, target: Any, config: Config) -> None:
    """Set the builder configuration `target` as the settings say."""
    wanted, flavor = engines.settings_of(config), engines.choose(config)
    target.builder_optimization_level = wanted.builder_optimization_level
    target.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if wanted.workspace_gib is not None:
        limit = int(wanted.workspace_gib * GIB)
        target.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if not wanted.tf32:
        target.clear_flag(trt.BuilderFlag.TF32)
    for name in flags(config):
        target.set_flag(getattr(trt.BuilderFlag, name))
    if flavor is Flavor.rtx:
        _set_targets(trt, target, engines.targets(config))
    elif wanted.hardware_compatibility is not Compatibility.none:
        target.hardware_compatibility_level = _level(trt, wanted.hardware_compatibility)


def flags(config: Config) -> list[str]:
    """TensorRT's builder flags that the settings switch on."""
    wanted = engines.settings_of(config)
    chosen = [
        ("REFIT", wanted.refit),
        ("STRIP_PLAN", wanted.strip_plan),
        ("WEIGHT_STREAMING", wanted.weight_streaming),
    ]
    return [name for name, on in chosen if on]


def _set_targets(trt: Any, target: Any, names: list[str]) -> None:
    target.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not target.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index):
            raise SdxlError(
                "TensorRT-RTX refuses a target",
                name,
                "one it can compile for",
                "backend.compute_capabilities=[sm89]",
            )


def _level(trt: Any, wanted: Compatibility) -> Any:
    known = trt.HardwareCompatibilityLevel.__members__
    if wanted.value.upper() not in known:  # 10.2 has two levels, 10.13 three
        raise SdxlError(
            f"TensorRT {trt.__version__} has no such level of hardware compatibility",
            wanted.value,
            " ".join(name.lower() for name in known),
            "backend.hardware_compatibility=none",
        )
    return known[wanted.value.upper()]
