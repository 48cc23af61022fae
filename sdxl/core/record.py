"""A record: one measurement as `record.json` holds it, each part with its type."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sdxl.core.json_part import JsonPart
from sdxl.core.record_quality import Comparison as Comparison
from sdxl.core.record_quality import GateRow as GateRow
from sdxl.core.record_quality import LayerError as LayerError
from sdxl.core.record_quality import Paired as Paired
from sdxl.core.record_quality import PerPrompt as PerPrompt
from sdxl.core.record_quality import Quality as Quality
from sdxl.core.record_quality import Reference as Reference
from sdxl.core.record_quality import Scores as Scores
from sdxl.core.types import now

RECORD_SCHEMA = 1


@dataclass
class LoadGen(JsonPart):
    """LoadGen's own log, under its key names."""

    detail: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass
class Counts(JsonPart):
    """Samples of the harness; `padded` were drawn to fill prepared batch sizes, and dropped."""

    issued: int = 0
    done: int = 0
    batches: int = 0
    padded: int = 0


@dataclass
class GeneratorFacts(JsonPart):
    """The backend's own facts about how pictures were made; each backend adds others."""

    device: str | None = None
    device_name: str | None = None
    scheduler: str | None = None
    simulated: bool | None = None  # quantized numbers in wider arithmetic: its speed says nothing
    unet_rows_per_image: int | None = None
    warnings: list[str] = field(default_factory=list)  # where settings and weights do not agree
    execution: dict[str, Any] = field(default_factory=dict)  # 8-bit kernels, fallbacks, fusions
    deaths: list[Any] = field(default_factory=list)  # of workers
    earlier_deaths: int = 0  # beyond those, of so many that only the last are described

    @property
    def died(self) -> int:
        """How many workers died."""
        return len(self.deaths) + self.earlier_deaths


@dataclass
class Roofline(JsonPart):
    """The limit of the device, and the share of it that was reached."""

    images_per_second: float | None = None
    share: float | None = None
    device: str | None = None
    matrix_tflops: float | None = None
    int8_tops: float | None = None
    memory_gb_per_s: float | None = None


@dataclass
class Peak(JsonPart):
    """The largest rate that keeps Server's latency limit, in queries/s."""

    qps: float | None = None
    fails_at: float | None = None
    tolerance: float | None = None
    probes: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Performance(JsonPart):
    """How fast: LoadGen's figures, and the harness's own counts and clocks."""

    scenario: str | None = None
    mode: str | None = None
    batch_size: int | None = None
    prompts: int | None = None
    counts: Counts = field(default_factory=Counts)
    warm_up: dict[str, Any] = field(default_factory=dict)
    stage_ms: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    generator: GeneratorFacts = field(default_factory=GeneratorFacts)
    loadgen: LoadGen = field(default_factory=LoadGen)
    profile: dict[str, Any] = field(default_factory=dict)
    images_per_second: float | None = None
    metric: str | None = None
    value: float | None = None
    unit: str | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    latency_histogram: dict[str, list[float]] = field(default_factory=dict)
    tflop_per_image: float | None = None
    work: dict[str, Any] = field(default_factory=dict)  # UNet calls, rows, operations of an image
    tflops: float | None = None
    roofline: Roofline = field(default_factory=Roofline)
    artifact_key: str | None = None
    pair_key: str | None = None
    peak: Peak = field(default_factory=Peak)
    curve: dict[str, Any] = field(default_factory=dict)  # of scenario=LoadCurve: points and knee
    repeats: list[float] = field(default_factory=list)
    spread: float | None = None
    baseline_images_per_second: float | None = None
    speed_up: float | None = None
    compliance: dict[str, Any] = field(default_factory=dict)
    equal_to: str | None = None  # the record of a skipped cell's equal


@dataclass
class ProbeSummary(JsonPart):
    """What the machine did meanwhile: means and extremes in `other`, numbers of each GPU."""

    gpus: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Energy(JsonPart):
    """Electricity while measuring, by the machine's own counters; empty where none can be read."""

    joules: float | None = None
    joules_per_image: float | None = None
    watts: float | None = None  # mean
    source: str | None = None  # which counters, of what


@dataclass
class Resources(JsonPart):
    """Memory of the measuring process, energy, and what the probe saw."""

    peak_rss_bytes: int | None = None
    cuda_peak_bytes: int | None = None
    energy: Energy = field(default_factory=Energy)
    probe: ProbeSummary = field(default_factory=ProbeSummary)


@dataclass
class Image(JsonPart):
    """A kept picture; `measured` is False if it was drawn after the clock stopped."""

    index: int | None = None
    file: str = ""
    sha256: str = ""  # of the pixels
    caption: str = ""
    row: int | None = None
    source_id: str | None = None
    measured: bool | None = None


@dataclass
class Git(JsonPart):
    """The code that ran."""

    commit: str | None = None
    dirty: bool | None = None


@dataclass
class Environment(JsonPart):
    """Where it was measured."""

    python: str | None = None
    platform: str | None = None
    cpu: str | None = None
    instructions: str | None = None  # of the processor, those that arithmetic depends on
    cores: int | None = None
    memory_bytes: int | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    git: Git = field(default_factory=Git)
    accelerators: list[dict[str, Any]] = field(default_factory=list)
    cuda_visible_devices: str | None = None
    diffusers: dict[str, Any] = field(default_factory=dict)
    parallel_region: dict[str, Any] = field(default_factory=dict)  # around the measurement, CPU
    outside: list[str] = field(default_factory=list)  # configuration and code of others that ran
    traceback: str | None = None

    @property
    def gpu_names(self) -> list[str]:
        """What torch calls the devices that it saw."""
        return [str(each.get("name")) for each in self.accelerators]


@dataclass
class TrainingFacts(JsonPart):
    """A training: how far it is, how fast its measured steps were; rates are of all processes."""

    stage: str | None = None
    folder: str | None = None
    steps: int | None = None
    resumed_at: int | None = None
    batch: int | None = None
    samples_per_s: float | None = None
    step_ms: float | None = None  # median
    data_wait: float | None = None  # share of the steps' time
    tflop_per_sample: float | None = None  # there and back
    tflops: float | None = None
    share_of_peak: float | None = None
    peak_of: str | None = None  # whose peak
    peak_memory_gib: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)  # losses, and those of the evaluation


@dataclass
class Record(JsonPart):
    """One cell's outcome, as `record.json` holds it (docs/record.md)."""

    key: str
    config: dict[str, Any]
    command: str
    status: str = "failed"  # ok | invalid | failed | timeout | skipped
    reason: str = ""
    comparable: bool = False
    comparable_reason: str = ""
    performance: Performance = field(default_factory=Performance)
    quality: Quality = field(default_factory=Quality)
    verdict: list[GateRow] = field(default_factory=list)
    resources: Resources = field(default_factory=Resources)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    training: TrainingFacts = field(default_factory=TrainingFacts)  # empty for a measurement
    environment: Environment = field(default_factory=Environment)
    durations: dict[str, float] = field(default_factory=dict)
    started: str = field(default_factory=now)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    schema: int = RECORD_SCHEMA
    _strict: ClassVar[bool] = True

    def to_json(self) -> dict[str, Any]:
        """All fields, but `training` where nothing was trained."""
        found = super().to_json()
        return found if self.training else {k: v for k, v in found.items() if k != "training"}

    @property
    def _complete(self) -> bool:
        return not self._order  # a new record has every field
