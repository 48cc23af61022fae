"""A sweep that was never run: records and pictures for the tests of reports."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.model.images import save

EVIL = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>"
CONFIG: dict[str, Any] = {
    "model": {"name": "sdxl", "height": 128, "width": 128, "steps": 20},
    "precision": {"text_encoder": "fp16", "unet": "fp16", "vae": "fp16"},
    "quant": {
        "name": "none",
        "format": "none",
        "level": 2.5,
        "alpha": 0.8,
        "statistics": None,
        "calib_dataset": "coco_calibration",
        "calib_size": 32,
    },
    "dataset": {"name": "coco", "shuffle": False},
    "seed": 0,
    "backend": {"name": "torch"},
    "scenario": {"name": "SingleStream"},
    "tracking": {"name": "off", "uri": None},
    "quant_level": None,
    "alpha": None,
    "limit": None,
    "mode": "performance",
}
ENVIRONMENT = {
    "python": "3.11.7",
    "cpu": "A processor",
    "packages": {"torch": "2.13.0"},
    "accelerators": [{"name": "A GPU", "memory_bytes": 80 << 30}],
    "git": {"commit": "0123abc", "dirty": False},
}


def record(speed: float = 2.0, **changes: Any) -> dict[str, Any]:
    """A valid record of the given images per second; `changes` replace whole fields."""
    latency = {n: 1e3 / speed * f for n, f in
               (("mean", 1), ("p50", 0.98), ("p90", 1.08), ("p99", 1.2), ("max", 1.3))}  # fmt: skip
    detail = {
        "result_validity": "VALID",
        "result_min_duration_met": True,
        "result_min_queries_met": True,
        "early_stopping_met": True,
        "result_query_count": 1024,
        "result_min_latency_ns": 0.93e9 / speed,
        "result_max_latency_ns": 1.3e9 / speed,
    }
    whole = {
        "key": f"{speed:.4f}".replace(".", "").zfill(16),
        "config": copy.deepcopy(CONFIG),
        "command": "python run.py model=sdxl",
        "status": "ok",
        "reason": "",
        "comparable": False,
        "comparable_reason": "5,000 prompts are needed",
        "performance": {
            "images_per_second": speed,
            "metric": "early_stopping_latency_ss",
            "value": latency["p90"],
            "unit": "ms",
            "latency_ms": latency,
            "loadgen": {"detail": detail, "summary": {}},
            "generator": {"simulated": False},
        },
        "quality": {},
        "resources": {"peak_rss_bytes": 3 << 30, "cuda_peak_bytes": int(9.6 * 2**30)},
        "artifacts": [],
        "images": [],
        "environment": copy.deepcopy(ENVIRONMENT),
        "durations": {"total_s": 60.0},
        "started": "2026-11-22T00:00:00Z",
        "schema": 1,
    }
    return whole | changes


def quantized(
    speed: float, level: float, alpha: float, psnr: float | None, baseline: Path | None
) -> dict[str, Any]:
    """A valid record of an INT8 cell compared with the baseline at `baseline`."""
    made = record(speed)
    made["config"]["quant"] |= {"name": "int8", "format": "int8", "level": level, "alpha": alpha}
    made["command"] = f"python run.py model=sdxl quant=int8 quant_level={level:g} alpha={alpha:g}"
    made["resources"]["cuda_peak_bytes"] = int((8.4 - level) * 2**30)
    made["performance"]["speed_up"] = speed / 2.0
    if psnr is not None:
        pairs = [{"psnr_db": psnr + d, "ssim": 0.9} for d in (-0.4, 0.1, 0.3)]
        made["quality"]["baseline"] = {
            "record": str(baseline), "images": 3, "identical": 0, "psnr_db": psnr,
            "ssim": psnr / 40, "max_deviation": 30, "pairs": pairs,
        }  # fmt: skip
        made["quality"]["layer_errors"] = [
            {"layer": f"up_blocks.{n}.attentions.0.transformer_blocks.1.ff.net.2", "kind": "linear",
             "format": "int8", "error": level / (100 + 30 * n)}
            for n in range(4)
        ]  # fmt: skip
    return made


def put(folder: Path, made: dict[str, Any], noise: float | None = 0.0) -> Path:
    """Write a record, and three pictures with that much noise (None: no pictures)."""
    if noise is not None:
        made["images"] = [_picture(folder, index, noise) for index in range(3)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    path.write_text(json.dumps(made))
    return path


def sweep(folder: Path) -> Path:
    """A whole sweep: a baseline, four quantized cells, one without comparison, and failures."""
    baseline = folder / "0" / "baseline" / "record.json"
    cells = [(2.31, 1, 0.8, 31.2), (2.96, 2.5, 0.8, 27.9), (2.83, 2.5, 0.5, 26.4),
             (3.42, 3, 0.8, 24.6)]  # fmt: skip
    put(baseline.parent, record(2.0))
    for count, (speed, level, alpha, psnr) in enumerate(cells):
        put(
            folder / str(count),
            quantized(speed, level, alpha, psnr, baseline),
            255 * 10 ** (-psnr / 20),
        )
    lonely = quantized(3.6, 4, 0.8, None, None)
    lonely["status"], lonely["reason"] = "invalid", "early stopping: too few queries"
    lonely["environment"]["packages"]["torch"] = "2.14.0"
    put(folder / "4", lonely, None)
    failed = quantized(1.0, 2, 1.0, None, None) | {"status": "failed", "reason": f"boom {EVIL}"}
    failed["performance"], failed["environment"]["traceback"] = {}, f"Traceback {EVIL}"
    put(folder / "5", failed, None)
    skipped = quantized(1.0, 1, 1.0, None, None) | {"status": "skipped", "reason": "the same work"}
    skipped["performance"] = {}
    put(folder / "6", skipped, None)
    (folder / "7").mkdir()
    (folder / "7" / "record.json").write_text("{half a rec")
    return folder


def _picture(folder: Path, index: int, noise: float) -> dict[str, Any]:
    y, x = np.mgrid[0:128, 0:128] / 128
    hue = [np.sin(3 * x + index), np.cos(4 * y + 2 * index), np.sin(5 * x * y + index)]
    drawn = 127 + 90 * np.stack(hue, axis=-1)
    drawn = drawn + np.random.default_rng(index).normal(0, max(noise, 1e-9), drawn.shape)
    digest = save(np.clip(drawn, 0, 255).astype(np.uint8), folder / f"images/{index:06}.png")
    caption = f"A lighthouse at dusk, number {index}" if index else f"Evil {EVIL}"
    return {"index": index, "file": f"images/{index:06}.png", "sha256": digest, "caption": caption}
