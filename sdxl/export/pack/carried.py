"""Which settings each kind of pack can carry as they were measured; imports no framework."""

from __future__ import annotations

from sdxl.config import schema
from sdxl.config.schema import Config, Format
from sdxl.core.errors import UserError

TORCHAO = {
    Format.int8: "Int8StaticActivationInt8WeightConfig",
    Format.int8_weight_only: "Int8WeightOnlyConfig",
    Format.fp8: "Float8WeightOnlyConfig",
}
"""By number format: what torchao calls a layer of it."""


def check(config: Config, kind: str) -> None:
    """Raise `UserError` for a setting that this kind of pack cannot carry, by its name."""
    if config.backend.name == "fake":
        raise UserError(
            "there is nothing to pack: the fake backend runs no model",
            "backend=fake",
            "a record of a model",
        )
    if kind == "diffusers":
        _diffusers(config.quant)


def _diffusers(quant: schema.Quant) -> None:
    known = (Format.none, Format.auto_mixed, *TORCHAO)
    if quant.format not in known or (quant.format is Format.fp8 and quant.level >= 4):
        what = "FP8 attention" if quant.format in known else quant.format.value
        raise UserError(
            f"no quantizer of diffusers carries {what} as it was measured",
            f"quant={quant.name} quant_level={quant.level:g}",
            "int8, int8_weight_only or fp8, up to level 3; an onnx pack carries the others",
            "--as onnx",
        )
