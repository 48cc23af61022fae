"""The graphs of the pipeline: what they are called, what they take and give.

Export, engines and backends agree through these names; imports no framework.
"""

from __future__ import annotations

from sdxl.config import shortcuts
from sdxl.config.schema import Config, DType, Format, Shortcut
from sdxl.config.shortcuts import Cross, Step
from sdxl.core.errors import Problem

GRAPHS = ("text_encoder", "text_encoder_2", "unet", "vae_decoder")
"""In the order of the pipeline."""

UNETS = {
    "unet": Step(guided=True),
    "unet_deep": Step(guided=True, keeps=True),
    "unet_shallow": Step(guided=True, deep=False),
    "unet_recorded": Step(guided=True, cross=Cross.recorded),
    "unet_gated": Step(guided=False, cross=Cross.replayed),
    "unet_deep_recorded": Step(guided=True, keeps=True, cross=Cross.recorded),
    "unet_deep_gated": Step(guided=False, keeps=True, cross=Cross.replayed),
    "unet_shallow_gated": Step(guided=False, deep=False, cross=Cross.replayed),
}
"""The UNet, and the parts that shortcuts put in its place: what a call of each computes at most.

`deep` returns the feature, `shallow` takes it; `recorded` returns what each cross-attention made,
`gated` takes the means of that. After the gate nothing is guided.
"""

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
"""A graph's two files: the second holds the weights, read in place."""

_UNET = ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids")
FEATURE, CROSS = "feature", "cross_"
"""Inputs of the UNet's parts; a number follows `cross_`, in the order of the layers."""
KEPT_FEATURE, KEPT_CROSS = "kept_feature", "kept_cross_"
"""Outputs of the UNet's parts."""
INPUTS = {
    "text_encoder": ("input_ids",),
    "text_encoder_2": ("input_ids",),
    **{name: (*_UNET, *([] if part.deep else [FEATURE])) for name, part in UNETS.items()},
    "vae_decoder": ("latents",),
}
"""Without those that depend on the weights: the gated parts' `CROSS`, and `GUIDANCE`."""
GUIDANCE = "timestep_cond"
"""Last input of a UNet that takes the guidance scale, an embedding of it."""
OUTPUTS = {
    "text_encoder": ("hidden",),
    "text_encoder_2": ("hidden", "pooled"),
    **{name: ("noise", *([KEPT_FEATURE] if part.keeps else [])) for name, part in UNETS.items()},
    "vae_decoder": ("image",),
}
"""Without the recording parts' `KEPT_CROSS`."""

LATENT_CHANNELS = 4
LATENT_SCALE = 8
"""Pixels per latent, in each direction."""
TOKENS = 77
TIME_IDS = 6

FORMAT_OPSETS = {Format.int4_weight_only: 21, Format.nvfp4: 23}
"""Where the UNet's 8- or 4-bit format needs more than 19."""
MOST_OPSET = 23

Shape = tuple[int, ...]


def of(config: Config) -> tuple[str, ...]:
    """The graphs of a configuration, in the order of the pipeline."""
    return "text_encoder", "text_encoder_2", *unets(config.shortcut), "vae_decoder"


def unets(shortcut: Shortcut) -> tuple[str, ...]:
    """The graphs of the UNet; the first has all its layers, the others' weights are some of its."""
    steps = [Step(guided=True)]
    if shortcuts.branch_of(shortcut) is not None:
        steps.append(Step(guided=True, deep=False))
    if shortcuts.gated(shortcut):
        steps += [Step(False, step.deep, cross=Cross.replayed) for step in steps]
    return tuple(unet_of(shortcut, step) for step in steps)


def unet_of(shortcut: Shortcut, step: Step) -> str:
    """The graph that computes a call."""
    words = ["unet"]
    if shortcuts.branch_of(shortcut) is not None:
        words.append("deep" if step.deep else "shallow")
    if step.cross is Cross.replayed:
        words.append("gated")
    elif shortcuts.gated(shortcut) and step.deep:
        words.append("recorded")
    return "_".join(words)


def is_unet(graph: str) -> bool:
    """Whether a graph is the UNet, or a part of it."""
    return graph in UNETS


def has_all_layers(graph: str) -> bool:
    """Whether a graph of the UNet leaves none of its layers out."""
    part = UNETS[graph]
    return part.deep and part.cross is not Cross.replayed


def dtype_of(config: Config, graph: str) -> DType:
    """The graph's number format."""
    precision = config.precision
    if is_unet(graph):
        return precision.unet
    return precision.vae if graph == "vae_decoder" else precision.text_encoder


def rows(graph: str, images: int, per_image: int) -> int:
    """First dimension of the graph's inputs for a batch of `images`.

    `per_image`: UNet rows of an image (`sdxl.model.guidance`); guidance counts here only.
    """
    if is_unet(graph):
        return min(per_image, UNETS[graph].rows) * images
    return images if graph == "vae_decoder" else per_image * images


def row_range(graph: str, images: Shape, per_image: int) -> Shape:
    """(min, opt, max) rows for the smallest, usual and largest batch.

    Text encoders take single rows too: with `rules=open` the negative prompt is encoded apart.
    """
    low, opt, high = (rows(graph, count, per_image) for count in images)
    return (1 if graph.startswith("text_encoder") else low), opt, high


def input_shapes(
    config: Config, graph: str, count: int, widths: tuple[int, int, int]
) -> dict[str, Shape]:
    """Shapes of the graph's inputs for `count` rows.

    `widths`: of `encoder_hidden_states`, `text_embeds` and the guidance scale's embedding (0:
    none), which depend on the weights.
    """
    latent = (LATENT_CHANNELS, config.model.height // LATENT_SCALE,
              config.model.width // LATENT_SCALE)  # fmt: skip
    if is_unet(graph):
        hidden, pooled, scale = widths
        return {
            "sample": (count, *latent),
            "timestep": (1,),
            "encoder_hidden_states": (count, TOKENS, hidden),
            "text_embeds": (count, pooled),
            "time_ids": (count, TIME_IDS),
            **({GUIDANCE: (count, scale)} if scale else {}),
        }
    if graph == "vae_decoder":
        return {"latents": (count, *latent)}
    return {"input_ids": (count, TOKENS)}


def opset(config: Config, graph: str) -> int:
    """The opset of the graph: as asked, else the lowest that holds its number formats."""
    return config.export.opset or lowest_opset(config, graph)


def lowest_opset(config: Config, graph: str) -> int:
    """19 has fp16 scales and FP8, 21 has INT4, 22 has bf16 in every operator, 23 has FP4."""
    lowest = 22 if dtype_of(config, graph) is DType.bf16 else 19
    if is_unet(graph):
        lowest = max(lowest, FORMAT_OPSETS.get(config.quant.format, 0))
    return lowest


def problems_of(config: Config) -> list[Problem]:
    """Rules of the graphs, for backends that load them."""
    asked = config.export.opset
    least = max(lowest_opset(config, graph) for graph in GRAPHS)
    if asked is None or least <= asked <= MOST_OPSET:
        return []
    return [
        Problem(
            "`export.opset` does not hold the graphs' number formats",
            str(asked),
            f"{least} to {MOST_OPSET}",
            "export.opset=null",
        )
    ]
