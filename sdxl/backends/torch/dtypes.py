"""`precision=auto`: fp32 or bf16 on this processor, by the time of the UNet's heaviest blocks.

Layers that compute in 8 bits are left out of the blocks: what counts is the rest of the network.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from sdxl.backends.torch import rules
from sdxl.backends.torch.config import Config, Execution
from sdxl.backends.torch.timings import Times, Timings
from sdxl.config import content_key, schema
from sdxl.config.schema import DType, Format
from sdxl.core import isolate
from sdxl.core.errors import ConfigError
from sdxl.core.progress import silent
from sdxl.model import networks
from sdxl.model.components import torch_device, torch_dtype
from sdxl.model.sources import shapes_source

CANDIDATES = (DType.fp32, DType.bf16)
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""diffusers' classes of which the heaviest is timed each: nearly all of a UNet lies in them."""
ROUNDS = 3
LIMIT_S = 600.0
"""Longest that a child may be silent."""

_settled: dict[str, DType] = {}
"""What this process has chosen: one choice for all cells of a sweep, also on a busy machine."""


def settle(config: schema.Config) -> None:
    """Put the faster dtype into `config.precision`: by kept times, or timed now in a child.

    Raises `ConfigError` if the model is not on a CPU.
    """
    key = content_key.key(config.model, config.quant, config.backend)
    if key not in _settled:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "timing.log"
            times = isolate.run(timed, config, log=log, limit_s=LIMIT_S, on_report=silent)
        _settled[key] = fastest(times)
    chosen = _settled[key]
    config.precision = schema.Precision(chosen, chosen, chosen, auto=True)


def fastest(times: Times) -> DType:
    """The dtype that took the least time."""
    return DType(min(times, key=times.__getitem__))


def timed(_link: Any, config: schema.Config) -> Times:
    """Milliseconds by dtype, kept or measured in this process."""
    assert isinstance(config.backend, Config)
    device = torch_device(config.model.device)
    if device.type != "cpu":
        raise ConfigError([rules.auto_elsewhere(f"the model is on {device.type}")])
    if config.backend.threads:
        torch.set_num_threads(config.backend.threads)
    found = list(blocks(config))
    names = [dtype.value for dtype in CANDIDATES]
    return Timings().of(_what(found), names, lambda: measure(found))


def kept(config: schema.Config) -> dict[str, Any]:
    """For the record: what was timed on which processor; of a busy moment nothing is kept."""
    found, timings = list(blocks(config)), Timings()
    times = timings.kept.get(_what(found), {})
    why = {} if times else {"unkept": "others used the machine while it was timed"}
    return {"of": _what(found), "machine": timings.machine, "ms": times, **why}


@dataclasses.dataclass
class Block:
    """A block on the meta device, the shapes it is called with, and how often in a forward."""

    module: nn.Module
    given: Any
    calls: int = 0

    @property
    def work(self) -> float:
        """Weights times positions times calls: nearly its multiply-accumulates."""
        first = pytree.tree_leaves(self.given)[0]
        width = first.shape[-1] if first.ndim == 3 else first.shape[1]
        weights = sum(each.numel() for each in self.module.parameters())
        return self.calls * weights * first.numel() / width


def blocks(config: schema.Config) -> Iterator[Block]:
    """The heaviest block of each kind in a forward of one row, without its 8-bit layers."""
    source = shapes_source(config.model, config.seed)
    unet: Any = source.component("unet", torch.float32, torch.device("meta"))
    seen: dict[Any, Block] = {}

    def see(module: nn.Module, args: Any, words: Any) -> None:
        given = args, words
        shapes = [tuple(each.shape) for each in _tensors(given)]
        sizes = [tuple(each.shape) for each in module.parameters()]
        block = seen.setdefault(
            (type(module).__name__, str(shapes), str(sizes)), Block(module, given)
        )
        block.calls += 1

    handles = [
        module.register_forward_pre_hook(see, with_kwargs=True)
        for module in unet.modules()
        if type(module).__name__ in BLOCKS
    ]
    size = config.model.height, config.model.width
    with torch.inference_mode():
        unet(**networks.empty_inputs(unet, 1, *size))
    for handle in handles:
        handle.remove()
    for kind in BLOCKS:
        of_kind = [block for (name, *_), block in seen.items() if name == kind]
        if of_kind:
            heaviest = max(of_kind, key=lambda block: block.work)
            _leave_out(heaviest.module, config)
            yield heaviest


def measure(found: list[Block]) -> Times:
    """Milliseconds of all calls of the blocks in each dtype, alternated, the fastest round."""
    total = dict.fromkeys((dtype.value for dtype in CANDIDATES), 0.0)
    for block in found:
        ready = {dtype.value: _made(block, torch_dtype(dtype)) for dtype in CANDIDATES}
        best = dict.fromkeys(ready, math.inf)
        for number in range(ROUNDS + 1):  # the first warms up
            for name, (module, (args, words)) in ready.items():
                began = time.perf_counter()
                with torch.inference_mode():
                    module(*args, **words)
                if number:
                    best[name] = min(best[name], time.perf_counter() - began)
        for name, seconds in best.items():
            total[name] += seconds * 1e3 * block.calls
    return total


class LeftOut(nn.Module):
    """A layer that computes in 8 bits whatever the dtype: its output's shape, at no cost."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self._stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 0
        self._width, self._out = layer.weight.shape[0], torch.empty(0)

    def forward(self, values: torch.Tensor, *_: Any) -> torch.Tensor:
        """Ones."""
        if not len(self._out):
            shape = (*values.shape[:-1], self._width)
            if self._stride:
                sides = (-(-side // self._stride) for side in values.shape[2:])
                shape = (len(values), self._width, *sides)
            self._out = values.new_ones(shape)
            if self._stride:
                self._out = self._out.contiguous(memory_format=torch.channels_last)
        return self._out


def _leave_out(block: nn.Module, config: schema.Config) -> None:
    """Replace the layers that `config` computes in 8 bits."""
    assert isinstance(config.backend, Config)
    real = config.backend.execution is not Execution.simulated
    if not real or config.quant.format is Format.none:
        return
    for name, layer in list(block.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear) and _in_8_bits(name, layer, config.quant.level):
            owner, _, field = name.rpartition(".")
            setattr(block.get_submodule(owner), field, LeftOut(layer))


def _in_8_bits(name: str, layer: nn.Module, level: float) -> bool:
    """As levels quantize, to a good approximation: convolutions, feed-forwards, q/k/v, all."""
    if "time_emb_proj" in name or "conv_shortcut" in name:
        return False
    if isinstance(layer, nn.Conv2d):
        return level >= 1
    qkv = name.endswith(("to_q", "to_k", "to_v"))
    return level >= 3 or (level >= 2 and name.startswith("ff.")) or (level >= 2.5 and qkv)


def _made(block: Block, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """The block and its arguments on the CPU, with random numbers."""
    seeded = torch.Generator().manual_seed(0)
    module: Any = copy.deepcopy(block.module).to(dtype).to_empty(device="cpu").eval()
    module.requires_grad_(False)
    for weight in module.parameters():
        weight.normal_(0, (weight[0].numel() if weight.ndim > 1 else 1) ** -0.5, generator=seeded)

    def real(each: Any) -> Any:
        if not isinstance(each, torch.Tensor):
            return each
        drawn = torch.randn(each.shape, generator=seeded).to(dtype)
        wide = each.ndim == 4
        return drawn.contiguous(memory_format=torch.channels_last) if wide else drawn

    module = module.to(memory_format=torch.channels_last)
    return module, pytree.tree_map(real, block.given)


def _tensors(given: Any) -> list[torch.Tensor]:
    return [each for each in pytree.tree_leaves(given) if isinstance(each, torch.Tensor)]


def _what(found: list[Block]) -> str:
    """The blocks in words: what kept times are of."""
    said = []
    for block in found:
        shapes = ["x".join(map(str, each.shape)) for each in _tensors(block.given)]
        left = sum(isinstance(each, LeftOut) for each in block.module.modules())
        without = f" without {left} layers" if left else ""
        said.append(f"{block.calls} {type(block.module).__name__}({', '.join(shapes)}){without}")
    return " + ".join(said)
