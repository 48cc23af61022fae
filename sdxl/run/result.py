"""What a measuring process sends its parent when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WorkerResult:
    """Counts, settings, kept pictures, facts and durations of one test; JSON-ready throughout.

    latency_histogram: `edges_ms` (one more than bins) and `counts`; stage_ms: of the fastest full
    batch; scores, profile, roofline: empty where there are none; beside: the pictures beside the
    reference's, and figures by prompt; image_flop: operations per image, 0 without a model;
    environment: what only the worker sees; durations: seconds by stage; work: what the UNet calls
    of an image compute; curve: of a load curve.
    """

    counts: dict[str, int]
    latency_histogram: dict[str, list[float]]
    warm_up: dict[str, Any]
    stage_ms: dict[str, float]
    settings: dict[str, Any]
    images: list[dict[str, Any]]
    scores: dict[str, Any]
    beside: dict[str, Any]
    generator: dict[str, Any]
    profile: dict[str, Any]
    environment: dict[str, Any]
    image_flop: int
    roofline: dict[str, Any]
    memory: dict[str, int]
    durations: dict[str, float]
    prompts: int
    batch_size: int
    work: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, Any] = field(default_factory=dict)
