"""One layer in 8 bits: its candidate kernels timed at the first call, the fastest kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from sdxl.backends.torch import cpu, cuda, fp8_attention
from sdxl.backends.torch.kernels.words import short
from sdxl.backends.torch.layer import Float, Kernel, Layer, Simulated
from sdxl.backends.torch.timings import Timings
from sdxl.config.schema import Format
from sdxl.model.checkpoint import StoredLayer

WIDE = (Simulated.name, Float.name, fp8_attention.PLAIN)
"""Kernels that are not in 8 bits."""


class Choice:
    """The kernels in use: how each was chosen, and what fell back."""

    def __init__(self, device: torch.device, timings: Timings | None = None) -> None:
        self.device = device
        self.timings = timings
        """With them a layer may also compute in floats, and nothing is simulated for being slow."""
        # Triton's interpreter aside, its kernels need CUDA.
        self.home: Any = cuda if device.type == "cuda" else cpu
        self._usable: dict[tuple[str, Format], list[type[Kernel]]] = {}
        self.refused: dict[str, dict[str, str]] = {}
        self.shapes: dict[tuple[Any, ...], dict[str, float]] = {}
        self.layers: dict[str, str] = {}
        self.calls: Counter[tuple[Any, ...]] = Counter()
        """Layers by the key of `shapes`."""
        self.attention: dict[tuple[Any, ...], dict[str, float]] = {}
        self.fallbacks: dict[str, str] = {}
        self.fused: Counter[str] = Counter()
        self.unfused: Counter[str] = Counter()

    def usable(self, kind: str, number: Format) -> list[type[Kernel]]:
        """The kernels that compute exactly here."""
        key = (kind, number)
        if key not in self._usable:
            refused = self.refused.setdefault(f"{number.value} {kind}", {})
            self._usable[key] = self.home.usable(kind, number, self.device, refused)
        return self._usable[key]

    def why_not(self, entry: StoredLayer, module: Any) -> str | None:
        """The reason why a stored layer can only be simulated; None if there is a kernel."""
        if entry.weight_only:
            return "8-bit weights alone make no 8-bit product"
        if reason := self.home.why_none(self.device, entry.format):
            return reason
        if entry.kind == "attention":
            return fp8_attention.why_not(module, self.home, self.device)
        if isinstance(module, nn.Conv2d) and not _plain(module):
            return "a convolution in groups, or with odd strides or padding"
        if self.timings is None and not self.usable(entry.kind, entry.format):
            return self._no_kernel(entry.kind, entry.format)
        return None

    def _no_kernel(self, kind: str, number: Format) -> str:
        """Why no kernel computes such layers exactly, in words."""
        what = f"{number.value} {kind}"
        why = "; ".join(f"{name}: {said}" for name, said in self.refused.get(what, {}).items())
        return f"no exact {what} kernel on this device" + (f" ({why})" if why else "")

    def kernel(
        self, layer: Layer, example: torch.Tensor, residual: torch.Tensor | None = None
    ) -> Kernel:
        """The fastest kernel for this layer and input, and for adding a residual where it does."""
        kernels: list[Any] = [
            each
            for each in (
                *self.usable(layer.kind, layer.format),
                Float if self.timings else Simulated,
            )
            if getattr(each, "fits", _always)(layer)
        ]
        candidates = {each.name: each for each in kernels}
        stride = tuple(layer.conv.stride) if layer.conv else ()
        key = (layer.kind, tuple(example.shape), tuple(layer.codes.shape), stride, layer.format,
               layer.dtype, residual is not None, tuple(candidates))  # fmt: skip
        if key not in self.shapes:
            self.shapes[key] = self._times(key, candidates, layer, example, residual)
        times = self.shapes[key]
        fastest = min(times, key=times.__getitem__)
        names = layer.name.split("+")  # a joined layer has the names of its parts
        self.layers.update(dict.fromkeys(names, fastest))
        self.calls[key] += len(names)
        return candidates[fastest](layer, example)

    def _times(
        self,
        key: tuple[Any, ...],
        candidates: dict[str, Any],
        layer: Layer,
        example: torch.Tensor,
        residual: torch.Tensor | None,
    ) -> dict[str, float]:
        """Milliseconds of each candidate: the machine's, where they are kept, or measured now."""

        def measure() -> dict[str, float]:
            found = {}
            for name, kernel in candidates.items():
                try:
                    found[name] = self.home.best_ms(kernel(layer, example), example, residual)
                except Exception as error:
                    # Exact on the layer of `extreme`, but not made for this dtype or shape.
                    if name in WIDE or isinstance(error, torch.OutOfMemoryError):
                        raise
                    self._refuse(layer, name, error)
            return found

        if self.timings is None:
            return measure()
        return self.timings.of(str(key[:-1]), list(candidates), measure)

    def _refuse(self, layer: Layer, name: str, error: Exception) -> None:
        """Remember what a kernel said of a layer that it does not compute."""
        kind, shape = f"{layer.format.value} {layer.kind}", "x".join(map(str, layer.codes.shape))
        what = f"{kind} {shape} in {str(layer.dtype).removeprefix('torch.')}"
        self.refused.setdefault(what, {})[name] = short(error)

    def attends(self, name: str) -> Any:
        """What an attention layer calls when it has timed a shape."""

        def chosen(shape: tuple[Any, ...], times: dict[str, float]) -> None:
            self.attention[shape] = times
            self.layers[name] = min(times, key=times.__getitem__)

        return chosen

    def describe(self) -> dict[str, Any]:
        """For the record: kernels by layer, by count, by shape with their milliseconds."""
        slower = {n: "slower in 8 bits" for n, k in self.layers.items() if k == Simulated.name}
        shapes = [
            {
                "layer": key[0],
                "input": list(key[1]),
                "weight": list(key[2]),
                "chosen": min(times, key=times.__getitem__),
                "ms": {name: round(ms, 3) for name, ms in times.items()},
            }
            for key, times in self.shapes.items()
        ]
        shapes += [
            {
                "layer": "attention",
                "query": list(query),
                "key": list(key),
                "chosen": min(times, key=times.__getitem__),
                "ms": {name: round(ms, 4) for name, ms in times.items()},
            }
            for (query, key, _), times in self.attention.items()
        ]
        wide = Counter(
            "attention: 16 bits are faster"
            for kernel in self.layers.values()
            if kernel == fp8_attention.PLAIN
        )
        return {
            **({"timings": self.timings.machine} if self.timings else {}),
            **({"timings_unkept": busy} if self.timings and (busy := self.timings.unkept) else {}),
            "real_layers": sum(kernel not in WIDE for kernel in self.layers.values()),
            "simulated_layers": len(slower) + len(self.fallbacks),
            "kernels": dict(Counter(k for k in self.layers.values() if k not in WIDE)),
            # Neither in 8 bits nor simulated.
            "wide": dict(wide + self._floats()),
            "layers": self.layers,
            "shapes": shapes,
            "fallbacks": dict(Counter([*self.fallbacks.values(), *slower.values()])),
            "refused": {what: said for what, said in self.refused.items() if said},
            "fused": dict(self.fused),
            "unfused": dict(self.unfused),
        }

    def _floats(self) -> Counter[str]:
        """Why how many layers compute in floats, with the dtype."""
        found: Counter[str] = Counter()
        for key, times in self.shapes.items():
            if min(times, key=times.__getitem__) == Float.name:
                kind, number, dtype = key[0], key[4], str(key[5]).removeprefix("torch.")
                why = "faster" if len(times) > 1 else self._no_kernel(kind, number)
                found[f"{kind} in {dtype}: {why}"] += self.calls[key]
        return found


class EightBit(nn.Module):
    """A Linear or convolution that chooses its kernel when it sees its first input."""

    pieces = 1
    """How many layers it stands for."""

    def __init__(self, layer: Layer, choice: Choice) -> None:
        super().__init__()
        self.layer: Layer | None = layer
        self._choice = choice
        self.kind, self.code = layer.kind, layer.codes.dtype
        self.kernel: Any = None

    def forward(
        self, values: torch.Tensor, coded: bool = False, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The layer's output, in the model's dtype; `coded`: `values` are the input's codes."""
        if coded:
            return self.kernel.product(values, residual)
        if self.kernel is None:
            assert self.layer is not None
            self.kernel = self._choice.kernel(self.layer, values, residual)
            self.layer = None  # the kernel has its own copy of the weights
        return self.kernel(values, residual)


def _always(_layer: Layer) -> bool:
    return True


def _plain(conv: nn.Conv2d) -> bool:
    """Square in all respects, zeros around."""
    pairs = (conv.kernel_size, conv.stride, conv.padding)
    return (
        conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in pairs)
    )
