"""Which layers an engine really has, and in which number format each computes.

TensorRT fuses, moves and drops what the graph asked for; the count that matters is of the engine's
own layers. The builder lists them in its log, the engine inspector in JSON where there is a GPU.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

BITS = {"Float": 32, "FP32": 32, "Half": 16, "FP16": 16, "BFloat16": 16, "BF16": 16, "Int8": 8,
        "INT8": 8, "FP8": 8, "E4M3": 8, "Int4": 4, "INT4": 4, "FP4": 4}  # fmt: skip
"""Bits of the formats that hold pictures and weights; indices and shapes (Int64) are not here."""

KINDS = {"correlation": "conv", "gemm": "matmul", "CaskConvolution": "conv",
         "CaskGemm": "matmul"}  # fmt: skip
"""Layer types that name their kind; the others are known by the layer's name."""
PRODUCT = re.compile(r"_(Fc|Gemm|MatMul|Bmm)|gemm|conv", re.IGNORECASE)
ATTENTION = re.compile(r"mha|flash|attention", re.IGNORECASE)
DATATYPE = re.compile(r"Datatype: (\w+)")
LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*)\])?, Outputs: \[(?P<outputs>.*?)\], TacticName",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine: formats of what it reads, holds and writes."""

    name: str
    type: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """conv, matmul, attention, other (norms, activations, copies), or shape (no numbers)."""
        if not any(word in BITS for word in (*self.inputs, *self.outputs)):
            return "shape"
        if ATTENTION.search(self.name):
            return "attention"
        if self.type in KINDS:
            return KINDS[self.type]
        if PRODUCT.search(self.name):
            return "conv" if re.search("conv", self.name, re.IGNORECASE) else "matmul"
        return "other"

    @property
    def bits(self) -> int:
        """Of the narrowest input: what is multiplied; a wide one beside it is a fused addition.

        A layer that reads nothing but constants has the format of its output.
        """
        found = [BITS[word] for word in self.inputs if word in BITS]
        return min(found or [BITS[word] for word in self.outputs if word in BITS] or [0])


def from_log(listing: str) -> list[Layer]:
    """Layers of the listing in the builder's log."""
    return [
        Layer(
            match["name"],
            match["type"],
            *(tuple(DATATYPE.findall(match[part] or "")) for part in
              ("inputs", "constants", "outputs")),
        )
        for match in LAYER.finditer(listing)
    ]  # fmt: skip


def from_inspector(text: str) -> list[Layer]:
    """Layers of the engine inspector's JSON (TensorRT 10 calls the format `Format/Datatype`)."""
    found = []
    for each in json.loads(text)["Layers"]:
        if isinstance(each, str):  # an engine without layer details has names only
            continue
        formats = [
            tuple(_format(tensor) for tensor in each.get(part, []))
            for part in ("Inputs", "Constants", "Outputs")
        ]
        found.append(Layer(each["Name"], each.get("LayerType", ""), *formats))
    return found


def summary(layers: list[Layer]) -> dict[str, dict[str, int]]:
    """{kind: {"8": layers, "16": layers, "32": layers}}; `shape` layers compute no numbers."""
    counts = Counter((layer.kind, layer.bits) for layer in layers)
    found: dict[str, dict[str, int]] = {}
    for kind, bits in sorted(counts):
        found.setdefault(kind, {})[str(bits) if bits else "-"] = counts[kind, bits]
    return found


def _format(tensor: dict[str, Any]) -> str:
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
    return next((word for word in re.findall(r"\w+", text) if word in BITS), text)
