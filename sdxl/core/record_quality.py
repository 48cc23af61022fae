"""The part of a record that says how good the pictures are, each part of it with its type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdxl.core.json_part import JsonPart


@dataclass
class GateRow(JsonPart):
    """One gate of the verdict; `scope` is `run` (decides on `invalid`) or `round`."""

    gate: str = ""
    required: str = ""
    measured: str = ""
    margin: str = ""
    passed: bool = field(default=False, metadata={"json": "pass"})
    scope: str = ""


@dataclass
class Scores(JsonPart):
    """Scores of a quality option over all pictures."""

    metrics: dict[str, float] = field(default_factory=dict)
    by: str | None = None
    images: int = 0
    unscored: dict[str, str] = field(default_factory=dict)  # what could not be, and why
    comparable: bool = False
    comparable_reason: str | None = None
    gates: list[GateRow] = field(default_factory=list)  # published bounds that are not MLPerf's
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)  # facts of `quality.extra`


@dataclass
class Paired(JsonPart):
    """One figure of two cells, prompt by prompt from the same noise: ours minus theirs.

    `verdict` is about ours: better or worse if the interval leaves 0 out, else equal, within
    `resolution`: the least difference that as many prompts show four times in five.
    """

    metric: str = ""
    prompts: int = 0
    ours: float | None = None  # means over these prompts
    theirs: float | None = None
    difference: float | None = None
    low: float | None = None  # 95 % interval of the difference
    high: float | None = None
    higher_is_better: bool = True
    verdict: str = ""  # better | equal | worse
    resolution: float | None = None
    prompts_needed: int | None = None  # that would tell this difference from 0, where equal
    right_to_wrong: int | None = None  # of answers that are right or wrong
    wrong_to_right: int | None = None
    p_value: float | None = None  # of these flips, McNemar's exact test


@dataclass
class Comparison(JsonPart):
    """The pictures beside another's of the same prompts and noise.

    `psnr_db` is the mean of the pairs that differ, None where none does.
    """

    record: str | None = None
    images: int = 0
    identical: int = 0
    psnr_db: float | None = None
    psnr_min_db: float | None = None
    mean_square: float | None = None  # of the differences in all pairs, full scale 1
    ssim: float | None = None
    ssim_min: float | None = None
    max_deviation: int | None = None  # of 255
    mean_deviation: float | None = None
    pairs: list[dict[str, Any]] = field(default_factory=list)
    perceptual_scenes: float | None = None
    intervals: dict[str, list[float]] = field(default_factory=dict)  # 95 %, of means over pictures
    extra: dict[str, float] = field(default_factory=dict)  # further figures, by name
    paired: list[Paired] = field(default_factory=list)


@dataclass
class Reference(Comparison):
    """The pictures beside those of the same model in torch fp32; `absent`: why there are none."""

    key: str | None = None  # of what the reference pictures depend on, prompts apart
    absent: str | None = None


@dataclass
class PerPrompt(JsonPart):
    """Figures of each prompt, in a file beside the record (docs/record.md)."""

    file: str = ""
    sha256: str = ""
    prompts: int = 0
    figures: list[str] = field(default_factory=list)


@dataclass
class LayerError(JsonPart):
    """Relative output error of a quantized layer."""

    layer: str = "?"
    error: float | None = None


@dataclass
class Quality(JsonPart):
    """How good the pictures are."""

    layer_errors: list[LayerError] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)
    scores: Scores = field(default_factory=Scores)
    baseline: Comparison = field(default_factory=Comparison)
    reference: Reference = field(default_factory=Reference)
    per_prompt: PerPrompt = field(default_factory=PerPrompt)
