"""What an image costs: parameters, floating-point operations, memory; counted on shapes alone."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sdxl.config import schema
from sdxl.model import guidance, networks, schedulers
from sdxl.model.components import COMPONENTS, Source, torch_dtype
from sdxl.model.kinds import kinds_of
from sdxl.model.prompts import MAX_TOKENS
from sdxl.model.sampler import LATENT_SCALE
from sdxl.model.sources import shapes_source


@dataclass(frozen=True)
class Share:
    """UNet calls of one kind: how many, rows of an image in each, operations of a row."""

    kind: str
    calls: int
    rows: int
    row_flop: int


@dataclass(frozen=True)
class Cost:
    """Counts for one configuration.

    parameters and bytes: per component. unet_flop, decode_flop, encode_flop: of one row, one
    image, one prompt (2 operations per multiply-add). image_flop: the whole image, guidance and
    both prompts included, as its shortcut leaves it; closed_flop: with nothing left out.
    unet_calls: of a batch; a scheduler of second order has two a step. kinds: of its calls.
    encodings: prompts of an image that are encoded.
    peak_bytes: most activations alive at once in an eager forward of a batch, UNet or VAE; weights
    and workspaces come on top.
    """

    parameters: dict[str, int]
    weight_bytes: dict[str, int]
    unet_flop: int
    decode_flop: int
    encode_flop: int
    image_flop: int
    rows_per_image: int
    unet_calls: int
    peak_bytes: int
    closed_flop: int
    kinds: tuple[Share, ...]
    encodings: int

    @property
    def unet_rows(self) -> int:
        """UNet rows of an image, all calls together."""
        return sum(share.calls * share.rows for share in self.kinds)

    def describe(self) -> dict[str, Any]:
        """For the record: calls, rows and operations of an image, beside those of closed rules."""
        closed = {
            "unet_rows": self.unet_calls * self.rows_per_image,
            "tflop": self.closed_flop / 1e12,
        }
        return {
            "unet_calls": self.unet_calls,
            "unet_rows": self.unet_rows,
            "tflop": self.image_flop / 1e12,
            "kinds": [vars(share) for share in self.kinds],
            "closed": {"unet_calls": self.unet_calls, **closed},
        }


def count(config: schema.Config, batch: int) -> Cost:
    """Build every component on the meta device and count one forward of each."""
    model = config.model
    meta = torch.device("meta")
    source = shapes_source(model, config.seed)
    wanted = config.precision
    dtypes = dict(
        zip(
            COMPONENTS,
            (wanted.text_encoder, wanted.text_encoder, wanted.unet, wanted.vae),
            strict=True,
        )
    )
    modules: dict[str, Any] = {
        name: source.component(name, torch_dtype(dtypes[name]), meta) for name in COMPONENTS
    }
    parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
    weight_bytes = {
        n: sum(p.numel() * p.element_size() for p in m.parameters()) for n, m in modules.items()
    }
    latent = (4, model.height // LATENT_SCALE, model.width // LATENT_SCALE)
    with torch.inference_mode(), meta:
        unet, vae = modules["unet"], modules["vae"]
        size = (model.height, model.width)
        unet_flop, unet_peak = _known(
            unet, size, lambda: _forward(unet, **networks.empty_inputs(unet, 1, *size))
        )
        decode_flop, decode_peak = _known(
            vae, size, lambda: _forward(vae.decode, torch.empty(1, *latent, dtype=vae.dtype))
        )
        tokens = torch.zeros(1, MAX_TOKENS, dtype=torch.int64)
        encode_flop = sum(
            _known(modules[n], (), functools.partial(_forward, modules[n], tokens))[0]
            for n in ("text_encoder", "text_encoder_2")
        )
    decoded = min(batch, getattr(config.backend, "decode_batch_size", None) or batch)
    rows, calls = guidance.rows_per_image(model, source), schedulers.chosen(config, source).calls
    encodings = 1 if guidance.zero_negative(model, source) else rows
    around = encodings * encode_flop + decode_flop
    shares = _shares(config, source, unet, unet_flop, calls)
    return Cost(
        parameters,
        weight_bytes,
        unet_flop,
        decode_flop,
        encode_flop,
        sum(each.calls * each.rows * each.row_flop for each in shares) + around,
        rows,
        calls,
        peak_bytes=max(batch * rows * unet_peak, decoded * decode_peak),
        closed_flop=rows * calls * unet_flop + around,
        encodings=encodings,
        kinds=shares,
    )


def _shares(
    config: schema.Config, source: Source, unet: Any, unet_flop: int, calls: int
) -> tuple[Share, ...]:
    """UNet calls of a batch by kind, each kind run once on a row's shapes."""
    model, shortcut = config.model, config.shortcut
    steps = guidance.steps_of(shortcut, model, source, calls)
    with torch.inference_mode():
        kinds = kinds_of(unet, shortcut, steps, (model.height, model.width), 0)
        return tuple(
            Share(
                kind.step.kind,
                kind.calls,
                kind.step.rows,
                unet_flop if kind.step.whole else _forward(kind.run)[0],
            )
            for kind in kinds
        )


_seen: dict[tuple[Any, ...], tuple[int, int]] = {}


def _known(module: Any, size: tuple[int, ...], forward: Callable[[], Any]) -> tuple[int, int]:
    """What `_forward` found for the same network at this size; cells of a sweep share networks."""
    processors = getattr(module, "attn_processors", {})
    kinds = sorted({type(each).__qualname__ for each in processors.values()})
    # Its settings and its layers with their widths are all that a count on shapes depends on.
    key = (repr(module), str(module.config), module.dtype, *kinds, *size)
    if key not in _seen:
        _seen[key] = forward()
    return _seen[key]


def _forward(function: Any, *args: Any, **kwargs: Any) -> tuple[int, int]:
    """(operations, peak bytes of activations) of one call."""
    with FlopCounterMode(display=False) as counter, _Live() as live:
        function(*args, **kwargs)
    return counter.get_total_flops(), live.peak


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive; on the meta device nothing is really allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor)
        return out

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._holders[key]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._holders[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.now -= size
