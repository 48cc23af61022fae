"""One way to the model's parts, whatever they come from: seed, folder or hub."""

from __future__ import annotations

from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.model.components import Source
from sdxl.model.seeded import RandomSource
from sdxl.model.weights import OtherUnet, WeightSource, bundled


def open_source(model: schema.Model, seed: int) -> Source:
    """The source that `model` asks for; reads no weights yet."""
    source = _own_source(model, seed)
    if model.unet:
        return OtherUnet(source, model.unet)
    return source


def _own_source(model: schema.Model, seed: int) -> Source:
    if isinstance(model, schema.SdxlModel):
        return WeightSource(model)
    if isinstance(model, schema.ScenesModel):
        return bundled(model)
    if isinstance(model, schema.RandomModel):
        return RandomSource(architecture.SDXL, seed, model.unet_config, through_fp32=False)
    assert isinstance(model, schema.TinyModel)
    return RandomSource(architecture.TINY, seed, model.unet_config)


def shapes_source(model: schema.Model, seed: int) -> Source:
    """A source for the meta device that downloads nothing.

    Where SDXL's weights are not here, the published shapes of SDXL base 1.0 stand in.
    """
    if not isinstance(model, schema.SdxlModel) or model.unet:
        return open_source(model, seed)
    try:
        return WeightSource(model, download=False)
    except UserError:
        return RandomSource(architecture.SDXL, seed)
