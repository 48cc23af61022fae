"""What the session's steps launch, found by running them on tensors without memory.

Each step goes its own way, with all of its tiles and candidates, on PyTorch's meta device; of the
UNet every kind of layer is there and repeated blocks are not. Needs Triton's compiler, no GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.gpu.child import Context
from benchmarks.gpu.data import NUMBERS
from benchmarks.gpu.steps import Step
from sdxl.backends.torch import cuda, fp8_attention, fused
from sdxl.backends.torch.config import Graphs
from sdxl.backends.torch.eight_bit import Choice, EightBit
from sdxl.backends.torch.kernels import tuning
from sdxl.backends.torch.kernels.euler import euler_step
from sdxl.backends.torch.layer import Geometry, Input, Layer, extreme
from sdxl.backends.torch.loop import Denoiser
from sdxl.bench import sizes
from sdxl.config.schema import Format
from sdxl.core.types import Embeddings
from sdxl.model import networks, schedulers
from sdxl.model.sources import shapes_source
from sdxl.quant import levels

META = torch.device("meta")
WITHOUT = ("machine", "decoding", "tensorrt")
"""Modules of steps that launch no kernel of ours."""
WHOLE = ("model", "scenarios")
"""Modules whose steps run the whole network."""


class Bare(Context):
    """A step's context whose tensors have no memory."""

    @property
    def device(self) -> torch.device:
        """The meta device."""
        return META


def different(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps, without those that launch what one before them does."""
    seen: set[Any] = set()
    for step in steps:
        module, _, _ = step.run.partition(":")
        key = (module, step.given.get("words"), step.given.get("batch"))
        if module in WHOLE and key in seen:
            continue
        seen.add(key)
        yield step


def run(step: Step, target: int, folder: Path) -> None:
    """Launch what a step launches on a GPU of a compute capability such as 90.

    Raises `RuntimeError` if a kernel of ours cannot be launched: none is left out silently.
    """
    module, _, name = step.run.partition(":")
    if module in WITHOUT:
        return
    seen: dict[str, Any] = {}
    context = Bare(folder, False, lambda **found: seen.update(found))
    with _as_on(target), torch.inference_mode():
        if module in WHOLE:
            _denoise(context, **step.given)
        else:
            getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(
                context, **step.given
            )
    if failed := list(_failed(seen)):
        raise RuntimeError(f"{step.name}: {'; '.join(failed)}")


def _failed(found: dict[str, Any], ours: bool = False) -> Iterator[str]:
    """Errors of our own kernels in what a step has noted, cuBLAS' and others' aside."""
    for name, each in found.items():
        if isinstance(each, dict):
            mine = ours or name == "kernels" or name.startswith("triton")
            if mine and "error" in each:
                yield f"{name}: {each['error']}"
            yield from _failed(each, mine)


@contextmanager
def _as_on(target: int) -> Iterator[None]:
    """A GPU of this capability as far as tiles go; whatever would be timed runs once."""

    def once(call: Callable[[], object]) -> float:
        call()
        return 1.0

    with (
        mock.patch.object(torch.cuda, "get_device_capability", lambda *_: divmod(target, 10)),
        mock.patch.object(tuning, "milliseconds", once),
    ):
        yield


_unets: dict[tuple[Any, ...], Any] = {}


class _All(Choice):
    """Every candidate of a layer is called with every tile; ours or a library's stays."""

    def __init__(self, ours: bool) -> None:
        super().__init__(META)
        self.home, self.ours = cuda, ours

    def kernel(self, layer: Layer, example: Any, residual: Any = None) -> Any:
        """The layer's first candidate of the kind that is to stay."""
        kinds: list[Any] = list(cuda.candidates(layer.kind, layer.format))
        made = [k(layer, example) for k in kinds if not hasattr(k, "fits") or k.fits(layer)]
        for each in made:
            cuda.best_ms(each, example, residual)
        return next((k for k in made if k.name.startswith("triton") is self.ours), made[0])


def _denoise(context: Context, words: tuple[str, ...], batch: int | None) -> None:
    """Steps of the loop in each batch size that the configuration prepares."""
    from benchmarks.gpu import model

    config = model.composed(context, words, batch)
    scenario = not isinstance(batch, int) or any("scenario" in word for word in words)
    quantized = config.quant.format is not Format.none
    wanted = sizes.warm_up_sizes(config, config.limit, True) if scenario else [batch]
    for ours in (True, False) if quantized else (False,):
        for size in sorted(wanted, reverse=True):
            _steps(config, ours, size)
    if quantized:
        _exact(Format(config.quant.format))


def _exact(number: Format) -> None:
    """The layers by which a run finds out whether kernels are exact."""
    for kind in ("linear", "conv"):
        layer, values, _ = extreme(kind, number, META)
        for candidate in cuda.candidates(kind, number):
            if not hasattr(candidate, "fits") or candidate.fits(layer):
                candidate(layer, values)(values)
    with suppress(NotImplementedError, RuntimeError):  # of its figures, after the launch
        fp8_attention._why_not_exact(META)


def _steps(config: Any, ours: bool, batch: int) -> None:
    unet, calls = _unet(config, ours)
    half = {"dtype": torch.bfloat16, "device": META}
    embeddings = Embeddings(
        *(torch.empty(2 * batch, *size, **half) for size in ((77, 2048), (1280,), (6,)))
    )
    scheduler = schedulers.chosen(config, shapes_source(config.model, 0)).scheduler

    def predict(*given: Any) -> torch.Tensor:
        return networks.predict(unet, *given)

    loop = Denoiser(predict, scheduler, calls, config.model.guidance, META, Graphs.none)
    loop._advance = euler_step
    loop(embeddings, torch.empty(batch, 4, 128, 128, **half))


def _unet(config: Any, ours: bool) -> tuple[Any, int]:
    """The configuration's UNet, and its calls: the first chooses kernels, only then norms fuse."""
    key = (config.quant.format, config.quant.level, ours)
    if key in _unets:
        return _unets[key], 1
    _unets[key] = _made(config, ours)
    return _unets[key], 2


def _made(config: Any, ours: bool) -> Any:
    """SDXL's UNet in 8 bits as `real.restore` makes it, one of each run of equal blocks."""
    unet = shapes_source(config.model, 0).component("unet", torch.bfloat16, META)
    for module in unet.modules():
        if hasattr(module, "transformer_blocks"):
            module.transformer_blocks = module.transformer_blocks[:1]
    unet.to(memory_format=torch.channels_last)
    if config.quant.format is Format.none:
        return unet
    choice = _All(ours)
    for layer in levels.select(levels.layers_of(unet), config.quant):
        plain = unet.get_submodule(layer.name)
        if layer.kind is levels.Kind.attention:
            fp8_attention.install(plain, layer.name, _Ranges(), META)  # type: ignore[arg-type]
        else:
            made = _layer(layer, plain, config.quant)
            unet.set_submodule(layer.name, EightBit(made, choice))
    with mock.patch.object(torch, "equal", lambda one, other: one is other):
        fused.fuse(unet, choice)
    return unet.eval()


class _Ranges:
    """A checkpoint as far as attention looks at it."""

    def tensor(self, _name: str) -> torch.Tensor:
        """Any range."""
        return torch.tensor(1.0)


_ONE = torch.ones((), device=META)


def _layer(layer: levels.Layer, plain: nn.Module, quant: Any) -> Layer:
    """A quantized layer as `layer.read` makes it."""
    assert isinstance(plain, nn.Linear | nn.Conv2d)
    number, conv = Format(quant.format), None
    linear = isinstance(plain, nn.Linear)
    if isinstance(plain, nn.Conv2d):
        padding = [int(each) for each in plain.padding]
        conv = Geometry(list(plain.stride), padding, list(plain.dilation))
    smooth = quant.smooth and linear and number is Format.int8
    half = {"dtype": torch.bfloat16, "device": META}
    factors = torch.empty(plain.weight.shape[1], **half) if smooth else None
    stored = torch.empty(plain.weight.shape, dtype=NUMBERS[number.value], device=META)
    units = torch.empty(1 if number is Format.fp8 else len(stored), device=META)
    given = Input(_ONE, factors, torch.ones((), device=META), 1.0)
    return Layer(layer.name, layer.kind.value, number, stored, _ONE, units, plain.bias, given,
                 torch.bfloat16, conv)  # fmt: skip
