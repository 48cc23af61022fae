"""The few things that cross module borders."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Protocol, runtime_checkable

from sdxl.core.json_part import JsonPart

Array = Any
"""A `torch.Tensor`, or a `numpy.ndarray` from backends that work without torch."""


@dataclass(frozen=True)
class Prompt:
    """One query sample: `index` is LoadGen's qsl index, `row` its place in the source."""

    index: int
    text: str
    row: int
    source_id: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One picture that somebody asks for: words, and the seed of its noise.

    negative: what guidance leads away from; None: the setting's own. shared: start from the latent
    that all prompts of the setting share, and let the seed decide the noise of the steps alone.
    """

    text: str
    seed: int
    negative: str | None = None
    shared: bool = False


@dataclass
class Embeddings:
    """Conditioning of the UNet for N rows.

    hidden: (N, 77, D) penultimate states of both encoders; pooled: (N, P) of the second;
    time_ids: (N, 6) original size, crop corner, target size in pixels; guidance: (N, W) embedding
    of the guidance scale, None for a UNet that takes none.
    """

    hidden: Array
    pooled: Array
    time_ids: Array
    guidance: Array = None


@dataclass(frozen=True)
class TokenIds:
    """One int64 array of shape (N, 77) per text encoder."""

    first: Array
    second: Array

    def rows(self, index: Any) -> TokenIds:
        """The rows chosen by a numpy index."""
        return TokenIds(self.first[index], self.second[index])

    def __len__(self) -> int:
        return len(self.first)


class Stages(Protocol):
    """What a backend is: three functions over arrays on its own device."""

    def encode(self, ids: TokenIds) -> Embeddings:
        """Token ids (N, 77) of each encoder -> embeddings of N rows, without time ids filled."""
        ...

    def unet(self, sample: Array, timestep: Array, embeddings: Embeddings) -> Array:
        """Noisy latents (N, 4, h, w), scalar timestep -> predicted noise (N, 4, h, w)."""
        ...

    def decode(self, latents: Array) -> Array:
        """Latents (B, 4, h, w) -> uint8 images (B, 8h, 8w, 3) in host memory.

        Raises `StageError` when the picture has NaN or Inf.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the record: device, dtypes, versions, parameters."""
        ...

    def close(self) -> None:
        """Free device memory."""
        ...


class Generator(Protocol):
    """What the harness drives: prompts in by index, pictures out."""

    def generate(self, indices: Sequence[int]) -> Array:
        """Prompts by qsl index -> uint8 images (B, H, W, 3) in host memory."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the record."""
        ...

    def close(self) -> None:
        """Free what the backend holds."""
        ...


@runtime_checkable
class Draws(Protocol):
    """A `Generator` that draws what is asked for later, too."""

    cut: Sequence[int]
    """Places of the last batch whose text was longer than what is read of it."""

    def draw(self, orders: Sequence[Order]) -> Array:
        """uint8 images (B, H, W, 3) in host memory."""
        ...


@runtime_checkable
class Asks(Protocol):
    """A `Generator` that is opened without prompts, and told them afterwards."""

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """What positions mean from now on."""
        ...


Figures = Mapping[str, Sequence[float | None]]
"""By name, a number for each picture of a batch."""


class Scorer(Protocol):
    """What a quality option is: pictures in, by qsl index, scores out."""

    def add(self, indices: Sequence[int], images: Array) -> Figures | None:
        """Score uint8 images (B, H, W, 3) of the prompts at these positions, each index once.

        Returns what is known of each of them, if anything is.
        """
        ...

    def result(self) -> dict[str, Any]:
        """JSON-ready, for the record.

        `metrics` (name -> number), `comparable` and `comparable_reason` (may they stand beside
        published figures, and if not, why), and whatever else is worth keeping.
        """
        ...


@runtime_checkable
class Looks(Protocol):
    """A `Scorer` that knows pictures one by one, other pictures too."""

    kinds: Mapping[str, Any]
    """How each figure is to be read (`sdxl.quality.per_prompt.Kind`)."""

    def look(self, indices: Sequence[int], images: Array) -> Figures:
        """The figures of `add` for other pictures of the same prompts, which count nowhere."""
        ...


@dataclass
class Manifest(JsonPart):
    """What an artifact in the store is, and what it was made of."""

    kind: str  # statistics, checkpoint, onnx, engine, reference
    key: str
    settings: dict[str, Any]
    parents: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> sha256, bytes
    versions: dict[str, str] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    created: str = field(default_factory=lambda: now())
    _strict: ClassVar[bool] = True

    @property
    def _complete(self) -> bool:
        return not self._order  # a new manifest has every field

    def bytes_of(self, name: str) -> Any:
        """The size of a file that is listed, in bytes; None where the list is damaged."""
        facts = self.files.get(name)
        return facts.get("bytes") if isinstance(facts, dict) else None


def now() -> str:
    """The current UTC time, ISO 8601 in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True, slots=True)
class Sample:
    """One outstanding sample: LoadGen's response id and the qsl index."""

    id: int
    index: int


class Build(str, Enum):
    """May a missing artifact (statistics, checkpoint, engine) be built on the way?"""

    auto = "auto"
    never = "never"
