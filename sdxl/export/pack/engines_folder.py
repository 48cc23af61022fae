"""Engines of TensorRT with what each was made for, and what a few lines need to draw with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sdxl.config import engines, graphs
from sdxl.config.engines import Flavor
from sdxl.config.schema import Config
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.progress import Report
from sdxl.export.pack import layout, schedule
from sdxl.model.sources import open_source

LIBRARIES = {
    Flavor.tensorrt: ("tensorrt", "tensorrt"),
    Flavor.rtx: ("tensorrt_rtx", "tensorrt-rtx-cu12"),
}
"""By flavor: what is imported, and what pip calls it."""
STRIPPED = "STRIP_PLAN"


def write(config: Config, loads: dict[str, Path], folder: Path, report: Report) -> dict[str, Any]:
    """An engine a graph, the tokenizers, and the denoise loop as a table.

    Raises `UserError` for engines without their weights.
    """
    source = open_source(config.model, config.seed)
    layout.tokenizers(source, folder)
    made: dict[str, Any] = {}
    for graph in graphs.GRAPHS:
        report({"phase": f"copying the engine of {graph}"})
        manifest = store.manifest_of(loads[graph])
        made[graph] = manifest.settings
        if STRIPPED in manifest.settings["flags"]:
            raise UserError(
                "these engines have no weights of their own",
                "backend.strip_plan=true",
                "a record with backend.strip_plan=false",
            )
        shutil.copyfile(loads[graph] / engines.ENGINE, folder / f"{graph}.engine")
    unet = made["unet"]
    library, package = LIBRARIES[Flavor(unet["flavor"])]
    where = unet.get("targets") or unet["gpu"]
    told = f"engines of {unet['flavor']} {unet['tensorrt']} on {unet['host']}, for {where}"
    outputs = graphs.OUTPUTS
    return {
        "library": library,
        "also_needs": [package],
        "engines": made,
        "schedule": schedule.plain(config, source),
        "names": {
            "hidden": [outputs["text_encoder"][0], outputs["text_encoder_2"][0]],
            "pooled": outputs["text_encoder_2"][1],
            "noise": outputs["unet"][0],
            "latents": graphs.INPUTS["vae_decoder"][0],
            "image": outputs["vae_decoder"][0],
            "scale": [1.0],
            "shift": [0.0],
        },
        "holds": [
            told,
            f"UNet rows from {unet['rows'][0]} to {unet['rows'][2]}: two a picture with guidance",
            "versions, targets and shapes of each: `pack.json`",
        ],
    }
