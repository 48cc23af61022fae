"""From a configuration to a quantized checkpoint in the store, and what that would take."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from sdxl.config import content_key
from sdxl.config.derive import effective
from sdxl.config.schema import Config, Format
from sdxl.core import environment, json_file, memory, store
from sdxl.core.errors import SdxlError, UserError
from sdxl.core.progress import Report, silent
from sdxl.core.store import Artifact
from sdxl.model import checkpoint
from sdxl.model.components import torch_device, torch_dtype
from sdxl.model.sources import open_source, shapes_source
from sdxl.quant import apply, calibrate, device, levels, mixed
from sdxl.quant import statistics as tables
from sdxl.quant.levels import Kind, Layer
from sdxl.quant.statistics import Statistics

KIND = "checkpoint"
FRONTIER = "frontier.json"
MODELOPT_KIND = "modelopt"
MODELOPT_FILE = "modelopt.pth"
VERSION = 1


def prepare(config: Config, report: Report = silent) -> Artifact:
    """The quantized checkpoint of `config`, found in the store or made now.

    Raises `UserError` for what cannot be: nothing to quantize, a format that the device lacks, too
    few calibration prompts, statistics of another model, a missing artifact with `build=never`.
    """
    quant = config.quant
    if quant.format is Format.none:
        raise UserError(
            "there is nothing to quantize", f"quant={quant.name}", "a recipe", "quant=int8"
        )
    where = torch_device(config.model.device)
    device.check(quant.format, where)
    chosen = selection(config)
    key, parent, settings = _identity(config, chosen)
    if quant.tuned:
        parent = _start_of(config)

    def build(folder: Path) -> dict[str, Any]:
        if quant.tuned:
            _copy_tuned(store.resolve(quant.tuned), folder)
            return {"settings": settings}
        began = time.perf_counter()
        unet, kept, formats = _quantized(config, chosen, folder, report)
        apply.write(unet, kept, quant, folder, formats)
        facts = _facts(time.perf_counter() - began, where)
        return {**facts, "settings": {**settings, **_counts(kept)}}

    made = store.get(
        KIND, key, build, settings=settings, parents=[parent] if parent else [],
        allow=config.build, otherwise="first quantize.py with the same settings",
    )  # fmt: skip
    if quant.modelopt:
        modelopt(config, made, report)
    return made


def modelopt(config: Config, made: Artifact, report: Report = silent) -> Artifact:
    """ModelOpt's own checkpoint of the same UNet: full-size weights, for `mto.restore`."""

    def build(folder: Path) -> dict[str, Any]:
        began = time.perf_counter()
        unet, _, _ = _quantized(config, selection(config), None, report)
        apply.save_modelopt(unet, folder / MODELOPT_FILE)
        return _facts(time.perf_counter() - began, torch_device(config.model.device))

    key = made.manifest.key
    return store.get(MODELOPT_KIND, key, build, settings=made.manifest.settings, parents=[key],
                     allow=config.build)  # fmt: skip


def selection(config: Config) -> list[Layer]:
    """The layers that `config` quantizes."""
    return levels.select(levels.layers_of(_shapes(config)), config.quant)


def statistics_of(
    config: Config, chosen: list[Layer], report: Report = silent
) -> Statistics | None:
    """The statistics that the recipe needs: made, found, or from the file it names."""
    quant = config.quant
    if quant.format.weight_only:
        return None
    attention = _attention(chosen)
    if not quant.statistics:
        return tables.load(calibrate.get(config, attention, report).path / calibrate.FILE)
    found = tables.load(store.resolve(quant.statistics))
    model = calibrate.model_settings(open_source(config.model, config.seed), config)
    theirs = found.settings.get("model")
    if content_key.plain(theirs) != content_key.plain(model):
        raise UserError(
            "the statistics are of another model",
            f"{quant.statistics}: {(theirs or {}).get('name', 'unknown')}, other weights",
            f"statistics of model={config.model.name} with these weights",
            "quant.statistics=null   # calibrates this model",
        )
    needed = calibrate.settings_of(config, attention).get("shortcut")
    if found.settings.get("shortcut") != needed:
        raise UserError(
            "the statistics are of other UNet calls: ranges differ by what a call computes",
            f"{quant.statistics}: {'another shortcut' if needed else 'a shortcut'}",
            f"statistics made under shortcut={config.shortcut.name}",
            "quant.statistics=null   # calibrates under this shortcut",
        )
    found.check()
    return found


def keys(config: Config) -> dict[str, str]:
    """Content keys of the statistics, where the recipe collects any, and of the checkpoint."""
    key, parent, _ = _identity(config, selection(config))
    made = {} if config.quant.statistics or not parent else {calibrate.KIND: parent}
    return {**made, KIND: key}


def plan(config: Config) -> list[dict[str, Any]]:
    """The level table of this recipe for this model, and which parts are already in the store.

    Shares are of all parameters and of all multiply-accumulates. `statistics` and `checkpoint` are
    True, False, or None where weights or prompts are missing, so that no key can be computed.
    """
    quant = config.quant
    if quant.format is Format.none:
        return []
    shapes = _shapes(config)
    macs = levels.count_macs(shapes, config.model.height, config.model.width)
    every = levels.layers_of(shapes, macs)
    parameters = sum(parameter.numel() for parameter in shapes.parameters())
    rows = []
    for row in levels.table(every, quant, parameters):
        at = dataclasses.replace(config, quant=dataclasses.replace(quant, level=row.level))
        known: dict[str, bool | None] = {"statistics": None, "checkpoint": None}
        try:
            key, parent, _ = _identity(at, levels.select(every, at.quant))
            known["checkpoint"] = store.find(KIND, key) is not None
            if parent and not quant.statistics:
                known["statistics"] = store.find(calibrate.KIND, parent) is not None
        except UserError:
            pass
        rows.append({**dataclasses.asdict(row), "chosen": row.level == quant.level, **known})
    return rows


def _quantized(
    config: Config, chosen: list[Layer], folder: Path | None, report: Report
) -> tuple[Any, list[Layer], dict[str, Format] | None]:
    """The quantized UNet, its quantized layers, and their formats where the recipe mixes them.

    A mixed recipe leaves the frontier it saw in `folder`.
    """

    statistics = statistics_of(config, chosen, report)
    formats = None
    if config.quant.format is Format.auto_mixed:
        assert statistics
        macs = levels.count_macs(_shapes(config), config.model.height, config.model.width)
        counted = [dataclasses.replace(x, macs=macs[x.name]) for x in chosen]
        formats, frontier = mixed.formats(config, counted, statistics, sum(macs.values()), report)
        chosen = [layer for layer in chosen if layer.name in formats]
        if folder:
            store.write_json(folder / FRONTIER, frontier)
    gc.collect()  # the calibration's model, before the next one is loaded
    memory.give_back()
    source = open_source(config.model, config.seed)
    where = torch_device(config.model.device)
    unet = source.component("unet", torch_dtype(config.precision.unet), where)
    return apply.quantize(unet, chosen, statistics, config.quant, formats), chosen, formats


def _counts(chosen: list[Layer]) -> dict[str, Any]:
    return {
        "layers": {kind.value: sum(x.kind is kind for x in chosen) for kind in Kind},
        "weights": sum(layer.weights for layer in chosen),
    }


def _identity(config: Config, chosen: list[Layer]) -> tuple[str, str | None, dict[str, Any]]:
    """Content key, the statistics' key if any, and the manifest's settings."""
    quant = config.quant
    model = calibrate.model_settings(open_source(config.model, config.seed), config)
    parent = None
    if quant.tuned:
        parent = store.sha256(_existing(store.resolve(quant.tuned) / checkpoint.WEIGHTS))
    elif quant.statistics:
        parent = store.sha256(_existing(store.resolve(quant.statistics)))
    elif not quant.format.weight_only:
        needed = calibrate.settings_of(config, _attention(chosen))
        parent = calibrate.key_of(needed, calibrate.calibration_prompts(quant))
    settings = {
        "version": VERSION,
        "model": config.model.name,
        "quant": effective(config),
        "dtype": config.precision.unet.value,
        **_counts(chosen),
    }
    return content_key.key(settings, model, parent), parent, settings


def key_of(config: Config) -> str:
    """The key of the quantized checkpoint of `config`; nothing is made."""
    return _identity(config, selection(config))[0]


def _start_of(config: Config) -> str:
    """The key of the checkpoint that the tuned one began with.

    Raises `UserError` if it is not the one that the other settings of `config` make.
    """
    quant = config.quant
    assert quant.tuned
    folder = store.resolve(quant.tuned)
    try:
        facts = json_file.read_object(folder / checkpoint.TUNED)
        began, settings = facts["checkpoint"], facts["settings"]
        quantized = {**settings.get("quant", {}), "dtype": settings.get("dtype")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "`quant.tuned` is no trained checkpoint", f"{folder}: {error}",
            "the folder `model` of a finished `train=qat`", "python train.py train=qat quant=int8",
        ) from error  # fmt: skip
    wanted = key_of(dataclasses.replace(config, quant=dataclasses.replace(quant, tuned=None)))
    if began != wanted:
        raise UserError(
            "`quant.tuned` began with another checkpoint: another model, or other settings",
            json.dumps(quantized),
            json.dumps({**effective(config), "dtype": config.precision.unet.value}),
        )
    return str(began)


def _copy_tuned(trained: Path, folder: Path) -> None:
    """The trained checkpoint's files into `folder`; `UserError` if they are not whole."""
    try:
        checkpoint.Checkpoint(trained)
    except SdxlError as error:
        raise UserError(
            "the checkpoint of `quant.tuned` is damaged", f"{trained}: {error.problems[0].got}",
            "the folder `model` of a finished `train=qat`", "quant.tuned=FOLDER",
        ) from error  # fmt: skip
    for name in (checkpoint.WEIGHTS, checkpoint.LAYERS):
        shutil.copyfile(trained / name, folder / name)


def _attention(chosen: list[Layer]) -> bool:
    return any(layer.kind is Kind.attention for layer in chosen)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError("a file that the recipe names is not there", str(path))
    return path


def _shapes(config: Config) -> Any:
    """The UNet without numbers; for a plan SDXL's published shapes where the weights are not."""
    source = (shapes_source if config.plan else open_source)(config.model, config.seed)
    return source.component("unet", torch_dtype(config.precision.unet), torch.device("meta"))


def _facts(seconds: float, where: torch.device) -> dict[str, Any]:
    """Manifest fields of something built in this process."""
    return {
        "seconds": round(seconds, 3),
        "peak_bytes": environment.peak_rss_bytes(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "diffusers", "nvidia-modelopt")
        },
        "device": {"name": str(where)},
    }
