"""The networks as functions of named tensors, ready for the exporter."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sdxl.config import graphs
from sdxl.config.schema import Config
from sdxl.export import parts
from sdxl.model import components, guidance
from sdxl.model.components import Source

EXAMPLE_IMAGES = 2
"""Images of the example batch: the exporter takes 1 for a constant."""


@dataclass(frozen=True)
class Exportable:
    """A network whose `forward` has the graph's inputs and outputs, with example inputs.

    read: brings the weights of a network that has their shapes alone.
    """

    graph: str
    module: nn.Module
    names: tuple[str, ...]
    inputs: tuple[torch.Tensor, ...]
    dynamic: tuple[Any, ...]
    outputs: tuple[str, ...]
    read: Callable[[], nn.Module] | None = None

    def weights(self) -> dict[str, torch.Tensor]:
        """The values of the network's weights, read now where it has none."""
        return (self.read() if self.read else self.module).state_dict()

    def run(self) -> tuple[torch.Tensor, ...]:
        """What torch makes of the example inputs."""
        with torch.inference_mode():
            found = self.module(*self.inputs)
        return found if isinstance(found, tuple) else (found,)


def prepare(
    config: Config, source: Source, graph: str, images: int, shapes: bool = False
) -> Exportable:
    """The network of one graph on the CPU, and random inputs for a batch of `images`.

    `forward` is replaced on the instance, so that modules and weights keep their own names.
    shapes: a UNet without weights, which can be traced, not run.
    """
    dtype = components.torch_dtype(graphs.dtype_of(config, graph))
    is_unet = graphs.is_unet(graph)
    name = "vae" if graph == "vae_decoder" else "unet" if is_unet else graph

    def read() -> nn.Module:
        return source.component(name, dtype, torch.device("cpu"))

    fake = FakeTensorMode() if shapes else None
    module: Any = _without_weights(source, name, dtype, fake) if fake else read()
    forward: dict[str, Callable[..., Any]] = {
        "unet": _unet,
        "vae_decoder": _decode,
        "text_encoder": _encode,
    }
    module.forward = types.MethodType(forward.get(graph, _encode_pooled), module)
    if is_unet:
        # The sinusoids are fp32: without the cast the concatenation would mix types.
        module.add_time_proj.register_forward_hook(lambda _module, _args, out: out.to(dtype))
    elif graph == "vae_decoder":
        module.encoder = module.quant_conv = None  # half of the weights, never used here
    else:
        module.set_attn_implementation("eager")
    outputs, part = graphs.OUTPUTS[graph], is_unet and graph != "unet"
    rows = graphs.rows(graph, images, guidance.rows_per_image(config.model, source))
    with fake or nullcontext():
        inputs = _inputs(config, module, graph, dtype, rows)
        if part:
            inputs, outputs = parts.prepare(module, graph, config.shortcut, inputs)
    free: tuple[Any, ...] = _dynamic(config, graph, tuple(inputs))
    free = (free,) if part else free  # a part takes all in one `*tensors`
    names, given = tuple(inputs), tuple(inputs.values())
    return Exportable(graph, module, names, given, free, outputs, read if shapes else None)


def _without_weights(source: Source, name: str, dtype: torch.dtype, fake: FakeTensorMode) -> Any:
    """A network whose weights are shapes that claim to lie on the CPU."""
    module = source.component(name, dtype, torch.device("meta"))
    meta = module.state_dict()
    with fake:
        shapes = {n: torch.empty(each.shape, dtype=each.dtype) for n, each in meta.items()}
    module.load_state_dict(shapes, assign=True)
    return module


def _unet(
    self: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    text_embeds: torch.Tensor,
    time_ids: torch.Tensor,
    timestep_cond: torch.Tensor | None = None,
) -> torch.Tensor:
    added = {"text_embeds": text_embeds, "time_ids": time_ids}
    return type(self).forward(
        self,
        sample,
        timestep,
        encoder_hidden_states=encoder_hidden_states,
        timestep_cond=timestep_cond,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def _decode(self: Any, latents: torch.Tensor) -> torch.Tensor:
    return self.decode(components.unscale(latents, self.config), return_dict=False)[0]


def _encode(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
    return type(self).forward(self, input_ids, output_hidden_states=True).hidden_states[-2]


def _encode_pooled(self: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    out = type(self).forward(self, input_ids, output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


def _inputs(
    config: Config, module: Any, graph: str, dtype: torch.dtype, rows: int
) -> dict[str, torch.Tensor]:
    """Random inputs in the range of real ones; the same for the same seed."""
    widths = (0, 0, 0)
    if graphs.is_unet(graph):
        hidden = module.config.cross_attention_dim
        pooled = module.config.projection_class_embeddings_input_dim
        pooled -= graphs.TIME_IDS * module.config.addition_time_embed_dim
        widths = (hidden, pooled, module.config.time_cond_proj_dim or 0)
    shapes = graphs.input_shapes(config, graph, rows, widths)
    random = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}
    if "input_ids" in shapes:
        last = module.config.eos_token_id
        ids = torch.randint(0, last - 1, shapes["input_ids"], generator=random)
        ids[:, 40:] = last  # as a tokenizer pads
        found["input_ids"] = ids
    if graphs.is_unet(graph):
        found["timestep"] = torch.tensor([500.0])
        size = [config.model.height, config.model.width]
        ids = torch.tensor([*size, 0, 0, *size], dtype=dtype)
        found["time_ids"] = ids.expand(shapes["time_ids"]).contiguous()
    return {name: found[name] for name in shapes}


def _dynamic(config: Config, graph: str, names: tuple[str, ...]) -> tuple[dict[int, Any], ...]:
    """Free dimensions by input: the rows, and with `export.dynamic_size` height and width."""
    free: list[dict[int, Any]] = []
    for name in names:
        found: dict[int, Any] = {} if name == "timestep" else {0: "rows"}
        if name in ("sample", "latents") and config.export.dynamic_size:
            step = 4 if graph == "unet" else 1  # the UNet halves its sample twice
            found[2] = step * torch.export.Dim("height", max=512)
            found[3] = step * torch.export.Dim("width", max=512)
        free.append(found)
    return tuple(free)
