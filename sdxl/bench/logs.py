"""What LoadGen wrote, under its own key names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl.core.errors import SdxlError

MARK = ":::MLLOG "
"""Begins LoadGen's own lines."""
_BULKY = {"loadgen_file_sha1", "loaded_qsl_set", "loadgen_git_log_message"}


def parse_detail(path: Path) -> dict[str, Any]:
    """The keys of mlperf_log_detail.txt (the last value wins), `errors` and `warnings` apart.

    A line that a killed process left half-written is passed over.
    """
    values: dict[str, Any] = {}
    messages: dict[str, list[str]] = {"errors": [], "warnings": []}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mark, payload = line.partition(MARK)
        if not mark:
            continue
        try:
            entry = json.loads(payload)
            key, value, metadata = entry["key"], entry["value"], entry["metadata"]
        except (ValueError, KeyError, TypeError):
            continue
        if metadata.get("is_error"):
            messages["errors"].append(f"{key}: {value}")
        elif metadata.get("is_warning"):
            messages["warnings"].append(f"{key}: {value}")
        elif key not in _BULKY:
            values[key] = value
    return {**values, **messages}


def parse_summary(path: Path) -> dict[str, str]:
    """The `name : value` lines of mlperf_log_summary.txt, names as LoadGen prints them."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found[name.strip()] = value.strip()
    return found


def read(folder: Path) -> dict[str, Any]:
    """Both logs of a finished test; raises `SdxlError` if LoadGen did not finish them."""
    detail_path = folder / "mlperf_log_detail.txt"
    summary_path = folder / "mlperf_log_summary.txt"
    if not detail_path.is_file() or not summary_path.is_file():
        raise SdxlError("LoadGen left no logs", str(folder), "mlperf_log_detail.txt and _summary")
    detail = parse_detail(detail_path)
    summary = parse_summary(summary_path)
    if "num_errors" not in detail and "power_end" not in detail:
        raise SdxlError("LoadGen's detail log stops half-way", str(detail_path))
    return {"detail": detail, "summary": summary}


def verdict(detail: dict[str, Any], accuracy: bool) -> tuple[bool, str]:
    """(valid, reasons): LoadGen's own validity with its reasons, and its error count.

    Accuracy mode has no validity line: it is valid when LoadGen logged no error.
    """
    reasons: list[str] = []
    if not accuracy and detail.get("result_validity") != "VALID":
        reason = str(detail.get("result_invalid_reason", "")).strip()
        reasons.append(reason or f"result_validity is {detail.get('result_validity')}")
        stopping = " ".join(str(detail.get("early_stopping_result", "")).split())
        if not detail.get("early_stopping_met", True) and stopping:
            reasons.append(f"early stopping: {stopping.lstrip('* ')}")
    reasons += [f"LoadGen error: {message}" for message in detail.get("errors", [])]
    return not reasons, "; ".join(reasons)


def figure(
    scenario: str, detail: dict[str, Any], samples: int = 1
) -> tuple[float, tuple[str, float | None, str]]:
    """images/s, and the scenario's own (metric, value, unit) under LoadGen's names.

    samples: of a query, in MultiStream.
    """
    match scenario:
        case "Offline":
            rate = float(detail["result_samples_per_second"])
            return rate, ("samples_per_second", rate, "images/s")
        case "Server":
            rate = float(detail["result_completed_samples_per_sec"])
            return rate, ("completed_samples_per_second", rate, "images/s")
        case "SingleStream":
            name = "early_stopping_latency_ss"
        case _:
            name = "early_stopping_latency_ms"
    rate = samples * 1e9 / detail["result_mean_latency_ns"]
    # LoadGen writes 0 where early stopping has too few queries for an estimate.
    return rate, (name, detail[name] / 1e6 or None, "ms")


def latency_ms(detail: dict[str, Any]) -> dict[str, float]:
    """The latencies of a timed run that a record keeps."""
    names = {"mean": "mean_latency", "max": "max_latency"}
    names |= {f"p{share}": f"{share}.00_percentile_latency" for share in (50, 90, 99)}
    order = ("mean", "p50", "p90", "p99", "max")
    return {label: detail[f"result_{names[label]}_ns"] / 1e6 for label in order}
