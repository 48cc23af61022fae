"""What a cell is called in a report: the settings in which the cells differ, in words."""

from __future__ import annotations

from typing import Any

from sdxl.config.schema import QUANT_KEYS
from sdxl.report.values import flatten

_QUIET = {"plan", "build", "limit", "mode", *QUANT_KEYS}
"""Settings that never name a cell: they say how it was asked for, or stand in another one."""
_SHORT = {"quant.level": "level", "quant.alpha": "alpha", "quant.percentile": "percentile",
          "quant.calib_size": "calib", "quant.name": "recipe"}  # fmt: skip
_OF_QUANTIZED = {"backend.execution", "backend.fusion"}
"""Settings of a backend that say nothing of an unquantized cell."""


def label(cells: list[Any]) -> None:
    """Label each cell by the settings in which the cells differ; a published one by whose it is."""
    _by_setting([cell for cell in cells if not cell.published])
    for cell in cells:
        if cell.published:
            cell.label = _whose(cell)
    alike = [cell for cell in cells if _several(cell, cells)]
    for cell in alike:
        cell.label += f" (#{cell.number})"


def _several(cell: Any, cells: list[Any]) -> bool:
    """Whether others are called so, too; a published one beside those of its group."""
    near = [each for each in cells if not cell.published or each.group == cell.group]
    return sum(other.label == cell.label for other in near) > 1


def _whose(cell: Any) -> str:
    """`Dell: 8 x NVIDIA L40S, fp8`: who published it, of what."""
    backend = cell.record.config["backend"]
    of = f"{backend.get('accelerators')} x {backend.get('accelerator')}"
    if backend.get("of") == "accelerator":
        of = f"each {backend.get('accelerator')}"
    return f"{backend.get('submitter')}: {of}, {cell.setting('precision.unet')}"


def _by_setting(cells: list[Any]) -> None:
    """Labels of measured cells."""
    flat = [flatten(cell.record.config) for cell in cells]
    keys = sorted({key for each in flat for key in each} - _QUIET)
    ours = [k for k in keys if not k.startswith(("tracking.", "quant.", "quality."))]
    varying = {k: owners for k in ours if (owners := _owners(k, cells, flat))}
    whole = [i for i, cell in enumerate(cells) if cell.quantized]
    recipe = [k for k in keys if k.startswith("quant.") and k != "quant.format"]
    recipe.sort(key=lambda k: [*_SHORT, k].index(k))
    tuned = [k for k in recipe if len({str(flat[i].get(k)) for i in whole}) > 1]
    if "quant.format" in keys and len({flat[i].get("quant.format") for i in whole}) > 1:
        tuned = [k for k in tuned if k in ("quant.level", "quant.alpha", "quant.calib_size")]
    for cell, settings in zip(cells, flat, strict=True):
        cell.label = _label(cell, settings, varying, tuned)


def _owners(key: str, cells: list[Any], flat: list[dict[str, Any]]) -> set[str]:
    """Where a setting differs: the backends among whose own cells it does, or `all`."""
    seen: dict[str, set[str]] = {}
    own = key.startswith("backend.") and key != "backend.name"
    for cell, each in zip(cells, flat, strict=True):
        if key in each and (cell.quantized or key not in _OF_QUANTIZED):
            owner = str(each.get("backend.name")) if own else "all"
            seen.setdefault(owner, set()).add(str(each[key]))
    return {owner for owner, values in seen.items() if len(values) > 1}


def _label(
    cell: Any, settings: dict[str, Any], varying: dict[str, set[str]], tuned: list[str]
) -> str:
    words = [str(settings[k]) for k in ("model.name", "backend.name") if k in varying]
    dtype = str(settings.get("precision.unet", "unquantized"))
    if cell.quantized:
        words += [str(settings.get("quant.format"))]
        words += [f"{_SHORT.get(k, k)} {_short(settings.get(k))}" for k in tuned]
        words += [f"over {dtype}"] if "precision.unet" in varying else []
    else:
        words.append(dtype)
    words += [str(settings[k]) for k in ("scenario.name",) if k in varying]
    if "model.steps" in varying and settings.get("quality.reference_steps"):  # in one group
        words.append(f"{settings.get('model.steps')} steps")
    groups = ("precision.", "scenario.", "model.", "dataset.")
    here = {"all", str(settings.get("backend.name"))}
    rest = [k for k in varying if not k.startswith(groups) and varying[k] & here]
    rest = [k for k in rest if k != "backend.name" and (cell.quantized or k not in _OF_QUANTIZED)]
    words += [f"{_called(k)} {_short(settings[k])}" for k in rest if k in settings]
    return " ".join(words)


def _called(key: str) -> str:
    return key.removeprefix("backend.").removesuffix(".name")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
