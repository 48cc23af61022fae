"""Figures of a measurement: what LoadGen and the clocks found, as a record keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.bench import logs
from sdxl.config import loras, schema
from sdxl.config.derive import calibration_file, effective
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Config, Mode, Rules
from sdxl.core.record import Performance
from sdxl.run.result import WorkerResult


def performance(config: Config, result: WorkerResult, logged: Path) -> Performance:
    """Figures from LoadGen's own logs in `logged`; in accuracy mode there are none to report."""
    same = ("batch_size", "prompts", "counts", "warm_up", "stage_ms", "settings", "generator")
    performance: dict[str, Any] = {
        "scenario": config.scenario.name,
        "mode": config.mode.value,
        **{name: getattr(result, name) for name in same},
        **({"work": result.work} if result.work else {}),
    }
    if result.profile:
        performance["profile"] = result.profile
    if isinstance(config.scenario, schema.LoadCurve):
        return _of_curve(performance, result)
    found = performance["loadgen"] = logs.read(logged)
    if config.mode is Mode.accuracy:
        return Performance.from_json(performance)
    samples = getattr(config.scenario, "samples_per_query", 1)
    rate, metric = logs.figure(config.scenario.name, found["detail"], samples)
    performance["images_per_second"] = rate
    performance["metric"], performance["value"], performance["unit"] = metric
    performance["latency_ms"] = logs.latency_ms(found["detail"])
    performance["latency_histogram"] = result.latency_histogram
    if result.image_flop:
        performance["tflop_per_image"] = result.image_flop / 1e12
        performance["tflops"] = rate * result.image_flop / 1e12
    if limit := result.roofline:
        performance["roofline"] = within(limit, rate)
    return Performance.from_json(performance)


def _of_curve(found: dict[str, Any], result: WorkerResult) -> Performance:
    """The knee as the speed, and the latencies of all points together."""
    curve, histogram = result.curve, result.latency_histogram
    found |= {"curve": curve, "images_per_second": curve["knee"], "latency_histogram": histogram}
    found |= {"metric": "knee", "value": curve["knee"], "unit": "images/s"}
    return Performance.from_json(found)


def within(limit: dict[str, Any], rate: float) -> dict[str, Any]:
    """A limit with the share of it that `rate` images/s is.

    A limit that was passed is none: the run itself then shows what the machine can do at least.
    """
    if rate <= limit["images_per_second"]:
        return {**limit, "share": rate / limit["images_per_second"]}
    device = f"{limit['device']}, which this run passed: it is the limit itself"
    return {**limit, "device": device, "images_per_second": rate, "share": 1.0}


def incomparable(config: Config, prompt_count: int) -> list[str]:
    """Why the figures may not stand beside published MLPerf results; empty if they may."""
    reasons = []
    model, scenario = config.model, config.scenario
    reasons += _drawn_elsewhere(config)
    if not isinstance(model, schema.SdxlModel):
        kind = "is a miniature" if isinstance(model, schema.ScenesModel) else "has random weights"
        reasons.append(f"model={model.name} {kind}")
    elif model.path != schema.SDXL_BASE and (doubt := _doubt(config)):
        reasons.append(f"weights from {model.path}: {doubt}")
    if model.unet:
        reasons.append(f"another UNet: {model.unet}")
    if model.vae:
        reasons.append(f"another VAE: {model.vae}")
    if fused := loras.of(model):
        reasons.append(f"LoRA fused: {', '.join(each.path.name for each in fused)}")
    if config.rules is Rules.open:
        reasons.append("rules=open")
    if model.latents or config.seed:
        reasons.append("an initial latent of its own")
    reasons += _other_load(scenario)
    if config.dataset.name != "coco" or config.dataset.shuffle or prompt_count < 5000:
        reasons.append(f"{prompt_count} prompts of {config.dataset.name}, not 5,000 of coco")
    elif isinstance(config.dataset, schema.TsvDataset) and config.rules is Rules.closed:
        reasons += filter(None, [_captions_doubt(config.dataset.path, "coco")])
    if config.rules is Rules.closed:
        reasons += filter(None, [_quantized_otherwise(config)])
    if config.mode is Mode.performance and config.scenario.min_duration_ms < 600_000:
        reasons.append(f"{config.scenario.min_duration_ms / 1e3:g} s minimum duration, not 600 s")
    return reasons


def _quantized_otherwise(config: Config) -> str | None:
    """Why numbers were not made smaller as the closed division allows.

    No weight is trained, and ranges are those of the official calibration captions or some of them.
    """
    quant, found = config.quant, effective(config)
    if "tuned" in found:
        return f"trained weights: {quant.tuned}"
    if "statistics" in found:
        return f"calibrated by {quant.statistics}, whose captions are not known"
    if "calibration" not in found:
        return None
    if path := calibration_file(quant):
        return _captions_doubt(path, "calibration")
    return f"calibrated on prompts of {quant.calib_dataset}, not of coco_calibration"


def _drawn_elsewhere(config: Config) -> list[str]:
    """What of it no model in this process drew."""
    backend = backend_of(config)
    if backend.remote:
        return [f"measured over HTTP: {getattr(config.backend, 'url', '')}"]
    return [] if backend.needs_torch else [f"backend={config.backend.name} draws without a model"]


def _other_load(scenario: schema.Scenario) -> list[str]:
    """Loads that MLPerf does not ask of SDXL."""
    if isinstance(scenario, schema.LoadCurve):
        return ["a load curve is no scenario of MLPerf's"]
    if isinstance(scenario, schema.Server) and (
        scenario.target_latency_ms > 20_000 or scenario.target_latency_percentile < 0.99
    ):
        return ["a Server limit other than 99 % within 20 s"]
    return []


def _doubt(config: Config) -> str | None:
    """Why a folder's weights are not known to be the benchmark's; only closed rules ask for it."""
    assert isinstance(config.model, schema.SdxlModel)
    if config.rules is Rules.open:
        return "are they SDXL base 1.0's?"
    from sdxl.model import published

    return published.doubt(config.model)


def _captions_doubt(path: str, target: str) -> str | None:
    """Why a caption file is not known to be the benchmark's; `target`: its word for downloads."""
    from sdxl.model import published

    return published.captions_doubt(path, target)
