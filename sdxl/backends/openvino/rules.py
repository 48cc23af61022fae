"""Rules of the openvino backend's settings, and what they need of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from sdxl.backends.openvino import library
from sdxl.backends.openvino.config import Place, settings_of
from sdxl.config import graphs, schema
from sdxl.config.schema import DType, Format
from sdxl.core.errors import Problem

INSTALL = "python -m pip install -c constraints.txt -e '.[openvino]'"
ABILITIES = {DType.fp32: "FP32", DType.fp16: "FP16", DType.bf16: "BF16"}
"""What a device lists if it computes in a format."""
FORMATS = (Format.none, Format.int8, Format.int8_weight_only, Format.int4_weight_only)


def problems_of(config: schema.Config) -> list[Problem]:
    """Rules of this backend's own settings, and of the graphs it loads."""
    return [*graphs.problems_of(config), *_refused(config)]


def _refused(config: schema.Config) -> Iterator[Problem]:
    backend = settings_of(config)
    place = backend.device_name
    if config.quant.format not in FORMATS:
        yield Problem(
            "OpenVINO (2026.4) has no FP8 kernels: it rounds in plain loops, computes in floats",
            f"quant={config.quant.name}",
            "INT8, or 8- or 4-bit weights",
            "quant=int8",
        )
    if config.model.device in (schema.Device.cuda, schema.Device.mps):
        yield Problem(
            "`model.device` would be ignored: OpenVINO's device is `backend.device_name`",
            f"model.device={config.model.device.value}",
            "model.device=auto or cpu",
            "model.device=auto",
        )
    if place is Place.npu and not backend.static_batch:
        yield Problem(
            "an NPU takes graphs of one size only",
            "backend.static_batch=false",
            "a static batch",
            "backend.static_batch=true",
        )
    if place is not Place.cpu and backend.threads:
        yield Problem(
            "`backend.threads` would be ignored: it counts the processor's threads",
            f"backend.device_name={place.value}",
            "backend.threads=null",
            "backend.threads=null",
        )
    if place is not Place.cpu and backend.devices is not None:
        yield Problem(
            f"workers would share one {place.value}",
            f"backend.devices={backend.devices}",
            "one process",
            "backend.devices=null",
        )
    if backend.threads and backend.streams > backend.threads:
        yield Problem(
            "each stream needs a thread",
            f"backend.streams={backend.streams} backend.threads={backend.threads}",
            f"at most {backend.threads} streams",
            f"backend.streams={backend.threads}",
        )


def missing(config: schema.Config) -> list[Problem]:
    """Devices, and number formats of devices, that this machine lacks."""
    if absent := not_installed(config):
        return absent
    place, hint = settings_of(config).device_name, settings_of(config).precision_hint
    if place is Place.cpu and hint in (None, DType.fp32):
        return []
    found = devices()
    if place.value.upper() not in found:
        return [
            Problem(
                f"OpenVINO has no {place.value} here",
                ", ".join(found),
                "one of these",
                "backend.device_name=cpu",
            )
        ]
    if hint and ABILITIES[hint] not in found[place.value.upper()]:
        return [
            Problem(
                f"this {place.value} has no {hint.value} arithmetic",
                ", ".join(found[place.value.upper()]),
                "a format it lists",
                "backend.precision_hint=null",
            )
        ]
    return []


def not_installed(_config: schema.Config | None = None) -> list[Problem]:
    """The package, if it is not here."""
    if find_spec("openvino"):
        return []
    return [Problem("OpenVINO is not installed", "no module `openvino`", "the extra", INSTALL)]


def devices() -> dict[str, list[str]]:
    """OpenVINO's devices here, CPU first, each with the formats that it computes in."""
    core = library.load().Core()
    return {
        name: list(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        for name in core.available_devices
    }
