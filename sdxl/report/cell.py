"""A cell: one record as a report sees it, and the one measure of its quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.core.record import Comparison, Record
from sdxl.report.values import flatten, number

MEASURED = ("ok", "invalid")
EXTRA = "extra."
"""Begins the names of further figures: of `quality.extra`, and of the comparison."""
REFERENCE, BASELINE = "reference", "baseline"
"""What the quality of a cell is its distance to."""


@dataclass(frozen=True)
class Best:
    """The best published result on a cell's accelerator: images/s of one, and the cell's share."""

    rate: float
    ratio: float
    source: str  # round and number of the submission
    url: str


@dataclass
class Cell:
    """One record with its place in the report; figures that it lacks are None."""

    path: Path
    record: Record
    number: int = 0
    label: str = ""
    baseline: Cell | None = None
    is_baseline: bool = False  # of another cell of the report
    best_published: Best | None = None  # where the report was asked for it
    against: str = ""  # what the cells of its group are compared with; empty: whatever it has

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted name."""
        node: Any = self.record.config
        for part in dotted.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    @property
    def measured(self) -> bool:
        """Did LoadGen finish, validly or not?"""
        return self.record.status in MEASURED

    @property
    def published(self) -> bool:
        """Is it somebody else's published result, and no measurement of ours?"""
        return self.setting("backend.name") == "published"

    @property
    def quantized(self) -> bool:
        """Was the UNet asked to run in fewer bits?"""
        return str(self.setting("quant.format", "none")) != "none"

    @property
    def speed(self) -> float | None:
        """Images per second."""
        return self.record.performance.images_per_second

    @property
    def speed_up(self) -> float | None:
        """Throughput over the unquantized baseline's."""
        return self.record.performance.speed_up

    @property
    def repeats(self) -> list[float]:
        """Images per second of each repetition, if the cell was repeated."""
        return [rate for rate in self.record.performance.repeats if rate]

    @property
    def simulated(self) -> bool:
        """Was quantized arithmetic simulated in wider numbers?"""
        return bool(self.record.performance.generator.simulated)

    @property
    def served(self) -> dict[str, Any]:
        """What the server said of itself, if it was measured over HTTP."""
        found = self.record.performance.generator.other.get("server")
        return found if isinstance(found, dict) else {}

    @property
    def meaningless(self) -> str:
        """Why its speed says nothing about a product; empty if it does."""
        if "fake" in (self.setting("backend.name"), self.served.get("backend")):
            return "the fake backend runs no model"
        if self.simulated:
            return "quantized arithmetic was simulated"
        return ""

    @property
    def latency(self) -> dict[str, float]:
        """Milliseconds by `min`, `p50`, `p90`, `p95`, `p97`, `p99`, `p99.9`, `max`, `mean`."""
        detail = self.record.performance.loadgen.detail
        names = {"min": "min_latency", "mean": "mean_latency", "max": "max_latency"}
        names |= {f"p{p:g}": f"{p:.2f}_percentile_latency" for p in (50, 90, 95, 97, 99, 99.9)}
        found = {n: number(detail.get(f"result_{key}_ns")) for n, key in names.items()}
        ours = {name: number(v) for name, v in self.record.performance.latency_ms.items()}
        whole = {n: v / 1e6 for n, v in found.items() if v is not None}
        return whole | {n: v for n, v in ours.items() if v is not None}

    @property
    def one_latency(self) -> bool:
        """Did everything end at once, in one batch?"""
        return self.latency.get("min") == self.latency.get("max")

    @property
    def queries(self) -> int:
        """Queries that the latency percentiles rest on."""
        return int(number(self.record.performance.loadgen.detail.get("result_query_count")) or 0)

    @property
    def memory_gib(self) -> float | None:
        """Peak of the GPU's allocator, else of the resident memory."""
        found = self.record.resources
        size = found.cuda_peak_bytes or found.peak_rss_bytes
        return size / 2**30 if size else None

    @property
    def memory_kind(self) -> str:
        """Which memory `memory_gib` is."""
        return "GPU" if self.record.resources.cuda_peak_bytes else "resident"

    @property
    def against_baseline(self) -> Comparison:
        """The comparison with the baseline's pictures; empty (and false) where there is none."""
        return self.record.quality.baseline

    @property
    def comparison(self) -> Comparison:
        """The comparison that its quality is read from: with the reference, else the baseline."""
        if self.compared_with == REFERENCE:
            return reference_of(self.record)
        return self.against_baseline

    @property
    def psnr(self) -> float | None:
        """The quality measure of every view: mean dB to `against`, over the pictures that differ.

        Infinite where no pixel differs, as the baseline itself; None where nothing was compared.
        """
        found = self.comparison
        if found:
            return math.inf if found.psnr_db is None else found.psnr_db
        return math.inf if self.is_baseline and self.compared_with == BASELINE else None

    @property
    def compared_with(self) -> str:
        """What its quality is the distance to: `reference` or `baseline`."""
        return self.against or (REFERENCE if reference_of(self.record) else BASELINE)

    @property
    def joules(self) -> float | None:
        """Energy of an image, as the machine's own counters have it."""
        return self.record.resources.energy.joules_per_image

    @property
    def price(self) -> float | None:
        """Of a thousand images, at `cost.per_hour` of its configuration."""
        per_hour = number(self.setting("cost.per_hour"))
        return None if per_hour is None or not self.speed else per_hour / self.speed / 3.6

    @property
    def pairs(self) -> list[float]:
        """dB of each picture, by prompt; infinite where it is identical."""
        found = (number(pair.get("psnr_db")) for pair in self.comparison.pairs)
        return [math.inf if value is None else value for value in found]

    @property
    def ssim(self) -> float | None:
        """Structural similarity to what `psnr` is measured to."""
        return self.comparison.ssim

    @property
    def accuracy(self) -> float | None:
        """Share of the attributes asked for that the judge of scenes finds."""
        return number(self.record.quality.scores.metrics.get("attribute_accuracy"))

    @property
    def rms_percent(self) -> float | None:
        """Root mean square difference over all pictures, percent of full scale; ranks nothing.

        None for records from before 0.2 that kept neither it nor their pairs.
        """
        if self.psnr in (None, math.inf):
            return None if self.psnr is None else 0.0
        square = self.comparison.mean_square
        if square is None and self.pairs:
            square = sum(10 ** (-db / 10) for db in self.pairs) / len(self.pairs)
        return None if square is None else 100.0 * square**0.5

    @property
    def group(self) -> str:
        """Cells of one group did the same work and can be ranked; this is its title."""
        steps = f"{self.setting('model.steps', '?')} steps"
        if one := self.setting("quality.reference_steps"):
            steps = f"any number of steps beside {one}"
        size = f"{self.setting('model.width', '?')} x {self.setting('model.height', '?')}"
        return (
            f"{self.setting('model.name', 'unknown model')} {size}, "
            f"{steps}, {self.setting('scenario.name', '?')}"
            + (", accuracy" if self.setting("mode") == "accuracy" else "")
        )


def surroundings(cell: Cell) -> dict[str, Any]:
    """The environment as facts to compare, without what a single run left there."""
    own = ("traceback", "parallel_region")
    found = {k: v for k, v in cell.record.environment.to_json().items() if k not in own}
    gpus = found.pop("accelerators", None)
    if isinstance(gpus, list):
        found["accelerators"] = ", ".join(cell.record.environment.gpu_names) or "none"
    if number(found.get("memory_bytes")):
        found["memory_bytes"] = f"{float(found['memory_bytes']) / 2**30:.1f} GiB"
    return found


def other_scores(cell: Cell) -> dict[str, float]:
    """Quality scores beside PSNR and SSIM, such as FID or CLIP."""
    quality = cell.record.quality.to_json()
    apart = (BASELINE, REFERENCE, "layer_errors", "parity", "per_prompt")
    flat = flatten({k: v for k, v in quality.items() if k not in apart})
    flat = {k: v for k, v in flat.items() if not k.startswith(("scores.images", "scores.extra"))}
    if near := cell.comparison.perceptual_scenes:
        flat[f"{cell.compared_with}.perceptual_scenes"] = near
    flat |= {f"{EXTRA}{name}": value for name, value in cell.comparison.extra.items()}
    facts = cell.record.quality.scores.extra
    flat |= {f"{EXTRA}{name}": each["mean"] for name, each in facts.items() if "mean" in each}
    return {k: v for k, v in ((k, number(v)) for k, v in flat.items()) if v is not None}


def heading(score: str, cells: Sequence[Cell]) -> str:
    """A score's name without its place in a record, with an arrow where it is known."""
    name = score.removeprefix("scores.metrics.").removeprefix(EXTRA)
    known = (cell.record.quality.scores.extra.get(name, {}) for cell in cells)
    ways = [each["higher_is_better"] for each in known if "higher_is_better" in each]
    if score == f"{EXTRA}answers_changed":
        ways = [False]
    return f"{name} {'↑' if ways[0] else '↓'}" if ways else name


def reference_of(record: Record) -> Comparison:
    """The comparison with the common reference; empty (and false) where a record has none."""
    found = record.quality.reference
    return found if found.images else Comparison()
