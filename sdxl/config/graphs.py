"""The four graphs of the pipeline: what they are called, what they take and give.

Export, engines and backends agree through these names; imports no framework.
"""

from __future__ import annotations

from sdxl.config import shortcuts
from sdxl.config.schema import Config, DType, Format
from sdxl.core.errors import Problem

GRAPHS = ("text_encoder", "text_encoder_2", "unet", "vae_decoder")
"""In the order of the pipeline."""

PARTS = ("unet_deep", "unet_shallow")
"""In place of `unet` where a shortcut keeps features: all of it, what lies above the feature."""

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
"""A graph's two files: the second holds the weights, read in place."""

_UNET = ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids")
FEATURE = "feature"
INPUTS = {
    "text_encoder": ("input_ids",),
    "text_encoder_2": ("input_ids",),
    "unet": _UNET,
    "unet_deep": _UNET,
    "unet_shallow": (*_UNET, FEATURE),
    "vae_decoder": ("latents",),
}
GUIDANCE = "timestep_cond"
"""Last input of a UNet that takes the guidance scale, an embedding of it."""
OUTPUTS = {
    "text_encoder": ("hidden",),
    "text_encoder_2": ("hidden", "pooled"),
    "unet": ("noise",),
    "unet_deep": ("noise", "kept_feature"),
    "unet_shallow": ("noise",),
    "vae_decoder": ("image",),
}

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
    if shortcuts.branch_of(config.shortcut) is None:
        return GRAPHS
    return "text_encoder", "text_encoder_2", *PARTS, "vae_decoder"


def is_unet(graph: str) -> bool:
    """Whether a graph is the UNet, or a part of it."""
    return graph in ("unet", *PARTS)


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
    if config.export.dynamic_size and of(config) != GRAPHS:
        return [
            Problem(
                "the parts of a UNet are graphs of one size",
                f"export.dynamic_size=true shortcut={config.shortcut.name}",
                "one of both",
                "export.dynamic_size=false",
            )
        ]
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
