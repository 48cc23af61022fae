"""One reference for all: pictures of the same model in torch fp32, from the same prompts and noise.

Whatever makes a cell faster (precision, backend, quantization) is seen in its distance from them;
what changes pictures by design (model, LoRA, scheduler, steps, size, guidance, noise) is in their
key. This part says for whom, and how they are drawn; it loads nothing.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence

from sdxl.config import plugins, schema
from sdxl.config.schema import Config, DType, Mode, Rules
from sdxl.core.types import Prompt
from sdxl.quality import needs, settings

IMAGES = 16
"""Pictures of a model that is dear to draw in fp32, unless `quality.reference_images` says."""


def absent(config: Config) -> str:
    """Why a cell is compared with no reference; empty if it is."""
    quality, model = config.quality, config.model
    if not isinstance(quality, settings.Scored):
        return f"quality={quality.name} compares with none"
    if quality.reference is None:
        return "quality.reference=null"
    if quality.reference != settings.AUTO:
        return "quality.reference names real pictures, not the model's own"
    backend = plugins.backend_of(config)
    if not (backend.needs_torch or backend.remote):
        return f"backend={config.backend.name} draws without a model"
    if getattr(config.backend, "dialect", None) == "openai":
        return "a server that is not ours draws from noise of its own"
    if isinstance(model, schema.TinyModel | schema.RandomModel):
        return f"model={model.name} has random weights: its pictures are noise"
    if config.compliance:
        return "an audit looks at speed and equality only"
    if not importlib.util.find_spec("torchmetrics"):
        return f"torchmetrics is not installed: {needs.QUALITY}"
    return ""


def chosen(config: Config, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose pictures are compared: the first ones, or all."""
    assert isinstance(config.quality, settings.Scored)
    cheap = isinstance(config.model, schema.ScenesModel)
    count = config.quality.reference_images or (len(prompts) if cheap else IMAGES)
    return list(prompts[:count])


def drawing(config: Config) -> Config:
    """How the reference is drawn: torch as it comes, fp32 throughout, nothing quantized."""
    found = copy.deepcopy(config)
    found.quant, found.shortcut = schema.Quant("none"), schema.Shortcut("none")
    for name in schema.QUANT_KEYS:
        setattr(found, name, None)
    found.model.steps = settings.reference_steps(found.quality, found.model)
    found.precision = schema.Precision(DType.fp32, DType.fp32, DType.fp32)
    found.backend = plugins.backends()["torch"].config(name="torch")
    # The division's rules are about measuring; here the negative prompt is encoded once.
    found.rules, found.mode = Rules.open, Mode.performance
    return found
