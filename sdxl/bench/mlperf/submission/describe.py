"""What a submission says of its runs: data types, weights, settings, how to repeat them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf.rounds import MODEL, PROMPTS, SETTINGS, Rules
from sdxl.bench.mlperf.submission.gather import Result
from sdxl.config.schema import SDXL_BASE, Format
from sdxl.core.record import Record

TYPE_OF = {
    "int8": "int8",
    "int8_weight_only": "int8",
    "int4_weight_only": "int4",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
}
"""Number format of a recipe -> the name that measurements.json uses."""


def measurements(record: Record) -> dict[str, str]:
    """measurements.json: none of its values may be empty."""
    steps = ["none"]
    if record.config["quant"]["format"] != "none":
        steps = _quantization(record.config["quant"])
    elif "fp16" in weight_types(record) or "bf16" in weight_types(record):
        steps = ["rounded to the stated types"]
    return {
        "input_data_types": "int64",
        "retraining": "Yes" if _trained(record.config) else "No",
        "starting_weights_filename": _weights(record),
        "weight_data_types": ",".join(weight_types(record)),
        "weight_transformations": "; ".join(steps),
    }


def _quantization(quant: dict[str, Any]) -> list[str]:
    """What was done to the weights, and on what data."""
    kind = "quantization-aware training" if quant.get("tuned") else "post-training quantization"
    steps = [
        f"{kind} of the UNet to {quant['format']}",
        f"recipe {quant['name']}, level {quant['level']:g}",
    ]
    if quant.get("statistics"):
        steps.append(f"calibrated by the statistics in {Path(quant['statistics']).name}")
    elif not Format(quant["format"]).weight_only:
        steps.append(f"calibrated on {quant['calib_size']} prompts of {quant['calib_dataset']}")
    return steps


def _trained(config: dict[str, Any]) -> bool:
    """Whether weights are others than the benchmark's."""
    model = config["model"]
    others = (model.get(name) for name in ("lora", "unet", "vae"))
    return any(others) or bool(config["quant"].get("tuned"))


def _weights(record: Record) -> str:
    """Which weights it began with: not where they lie on this machine, if they are known."""
    path = record.config["model"].get("path")
    if not path:
        return f"random weights, seed {record.config['seed']}"
    if path != SDXL_BASE and record.comparable:
        return f"{SDXL_BASE}: {Path(path).name}, known by its files' published checksums"
    return str(path)


def weight_types(record: Record) -> list[str]:
    """Data types of the weights, from the artifacts' manifests and the precision."""
    found = {value for value in record.config["precision"].values() if isinstance(value, str)}
    for manifest in record.artifacts:
        for name in _formats(manifest.get("settings", {})):
            found |= {TYPE_OF[name]} if name in TYPE_OF else set()
    return sorted(found)


def _formats(settings: Any) -> set[str]:
    """Every `format` in an artifact's settings, at whatever depth."""
    if isinstance(settings, dict):
        inner = [_formats(value) for value in settings.values()]
        own = settings.get("format")
        return set().union(*inner, {own} if isinstance(own, str) else set())
    if isinstance(settings, list):
        return set().union(*map(_formats, settings))
    return set()


def user_conf(record: Record) -> str:
    """user.conf: the settings that the round leaves to the submitter, as LoadGen had them."""
    scenario = record.config["scenario"]["name"]
    seen = record.performance.settings
    values: dict[str, Any] = {}
    if scenario == "Offline":
        values["target_qps"] = seen["offline_expected_qps"]
    elif scenario == "Server":
        values["target_qps"] = seen["server_target_qps"]
        values["min_query_count"] = seen["min_query_count"]
        values["coalesce_queries"] = int(seen["server_coalesce_queries"])
    else:
        name = "single_stream" if scenario == "SingleStream" else "multi_stream"
        values["target_latency"] = seen[f"{name}_expected_latency_ns"] / 1e6
    lines = [f"{MODEL}.{scenario}.{key} = {value:.12g}" for key, value in values.items()]
    head = "# Settings of the performance run, in LoadGen's own words; latencies in milliseconds."
    return "\n".join([head, *lines, ""])


def rule_file(rules: Rules) -> str:
    """mlperf.conf of a round that wants it: LoadGen's rules of this benchmark, from the table."""
    found = {f"*.*.{name}_rng_seed": seed for name, seed in vars(rules.seeds).items()}
    for scenario, wanted in SETTINGS.items():
        own = f"{MODEL}.{scenario}"
        found[f"{own}.performance_sample_count_override"] = PROMPTS
        found[f"{own}.min_duration"] = wanted.min_duration_ms
        if scenario in ("Offline", "MultiStream"):
            found[f"{own}.min_query_count"] = wanted.min_query_count
        if wanted.percentile:
            found[f"{own}.target_latency_percentile"] = round(100 * wanted.percentile)
        if wanted.target_latency_ms:
            found[f"{own}.target_latency"] = round(wanted.target_latency_ms)
        if wanted.samples_per_query:
            found[f"{own}.samples_per_query"] = wanted.samples_per_query
    head = "# The round's rules for this benchmark, in LoadGen's own words; times in milliseconds."
    return "\n".join([head, *(f"{key} = {value}" for key, value in found.items()), ""])


def readme(result: Result) -> str:
    """README.md of one scenario: what was run, and the lines that run it again."""
    record = result.performance.record
    config, packages = record.config, record.environment.packages
    runs = "\n".join(f"{role:<12} {run.record.command}" for role, run in result.runs.items())
    versions = "\n".join(f"- {name} {version}" for name, version in sorted(packages.items()))
    speed, batch = record.performance, record.performance.batch_size
    return f"""\
# Stable Diffusion XL, {result.scenario}

{config["model"]["name"]} on the {config["backend"]["name"]} backend, weights in
{", ".join(weight_types(record))}, batches of at most {batch},
{config["model"]["steps"]} Euler steps, guidance {config["model"]["guidance"]:g}.
{speed.metric}: {speed.value} {speed.unit}.

To run it again, with the source that comes with this submission (commit
{record.environment.git.commit}):

```
{runs}
```

Artifacts: {", ".join(a["key"] for a in record.artifacts) or "none beside the weights"}.
Software:

{versions}
"""


def calibration(results: list[Result]) -> str:
    """documentation/calibration.md: how numbers were made smaller, and on what data."""
    parts = ["# Calibration\n"]
    for result in results:
        record = result.performance.record
        parts.append(f"## {result.scenario}\n")
        made = record.artifacts
        if not made:
            parts.append("No quantization: weights are used in the types that are stated.\n")
        for manifest in made:
            settings = json.dumps(manifest.get("settings", {}), indent=2, sort_keys=True)
            parts.append(f"{manifest['kind']} `{manifest['key']}`:\n\n```json\n{settings}\n```\n")
    return "\n".join(parts)
