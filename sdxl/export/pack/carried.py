"""Which settings each kind of pack can carry as they were measured; imports no framework."""

from __future__ import annotations

from sdxl.config import graphs, schema
from sdxl.config.schema import Config, DType, Format
from sdxl.core.errors import UserError

TORCHAO = {
    Format.int8: "Int8StaticActivationInt8WeightConfig",
    Format.int8_weight_only: "Int8WeightOnlyConfig",
    Format.fp8: "Float8WeightOnlyConfig",
}
"""By number format: what torchao calls a layer of it."""

_READER = {"diffusers": "no quantizer of diffusers", "comfyui": "no layer of ComfyUI"}


def check(config: Config, kind: str) -> None:
    """Raise `UserError` for a setting that this kind of pack cannot carry, by its name."""
    if config.backend.name == "fake":
        raise UserError(
            "there is nothing to pack: the fake backend runs no model",
            "backend=fake",
            "a record of a model",
        )
    if getattr(config.backend, "dialect", "sdxl") != "sdxl":
        raise UserError(
            "nobody knows what that server drew with",
            "backend.dialect=openai",
            "a record of a model that is here",
        )
    if config.shortcut.name != "none":
        raise UserError(
            "a shortcut is a loop of our own, which no file carries",
            f"shortcut={config.shortcut.name}",
            "a record without one",
        )
    if kind in ("diffusers", "comfyui"):
        _weights(config.quant, kind)
    elif kind != "tensorrt":
        _numpy(config)


def _numpy(config: Config) -> None:
    used = {graph: graphs.dtype_of(config, graph) for graph in graphs.GRAPHS}
    if found := [graph for graph, dtype in used.items() if dtype is DType.bf16]:
        raise UserError(
            "numpy, which feeds the graphs, has no bf16",
            f"bf16 for {', '.join(found)}",
            "a record in fp16 or fp32",
            "--as diffusers",
        )


def _weights(quant: schema.Quant, kind: str) -> None:
    known = (Format.none, Format.auto_mixed, *TORCHAO)
    if quant.format not in known or (quant.format is Format.fp8 and quant.level >= 4):
        what = "FP8 attention" if quant.format in known else quant.format.value
        raise UserError(
            f"{_READER[kind]} carries {what} as it was measured",
            f"quant={quant.name} quant_level={quant.level:g}",
            "int8, int8_weight_only or fp8, up to level 3; an onnx pack carries the others",
            "--as onnx",
        )
