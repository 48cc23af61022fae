"""The README of a pack, which is its model card, and the licences of what it holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config import loras, schema
from sdxl.config.schema import Config
from sdxl.core import store
from sdxl.core.paths import DISTRIBUTION
from sdxl.report.cell import Cell
from sdxl.run.pack.formats import Format

LICENCES = "LICENCES.md"
SDXL_LICENCE = "CreativeML Open RAIL++-M"
_OURS = (schema.TinyModel, schema.ScenesModel, schema.RandomModel)


@dataclass(frozen=True)
class Card:
    """What a README says: of the setting, the record, the files and their check."""

    config: Config
    cell: Cell
    form: Format
    told: Mapping[str, Any]  # the manifest
    checked: str

    def write(self, folder: Path) -> None:
        """README.md with the front matter of the Hugging Face hub, and LICENCES.md beside it."""
        (folder / "README.md").write_text("\n".join(self._lines()) + "\n")
        (folder / LICENCES).write_text("\n".join(_licences(self.config, folder)) + "\n")

    def _lines(self) -> Iterator[str]:
        yield from _front(self.config, self.form)
        yield f"# {self.config.model.name}, {numbers(self.config)}"
        yield f"\nPacked by {DISTRIBUTION} from a measured record; {self.checked}."
        yield f"\n## Use\n{self.form.use}\n\n```text"
        if self.form.draw:
            versions = self.told["versions"]
            needs = [_pinned(name, versions.get(name)) for name in self.told["needs"]]
            yield f"python -m pip install {' '.join(needs)} pillow"
            yield 'python draw.py "a red cube left of a blue sphere" picture.png'
        if self.form.draw and self.told["check"]:
            yield "python verify.py               # the record's pictures again"
        yield "sha256sum --check SHA256SUMS\n```"
        if lines := self.told.get("trtexec"):
            yield "\nEngines of TensorRT, for one to four pictures:\n\n```text"
            yield "\n".join([*lines, "```"])
        yield "\n## What it holds"
        yield from (f"- {line}" for line in self.told["holds"])
        yield "\n## Figures of the record\n| figure | value |\n|---|---|"
        yield from (f"| {name} | {value} |" for name, value in _figures(self.cell))
        yield f"\nLicences: [{LICENCES}]({LICENCES}). Settings, versions, the check: `pack.json`."


def _pinned(name: str, version: str | None) -> str:
    """A package as pip takes it, without the mark of a build of its own."""
    return f"{name}=={version.partition('+')[0]}" if version else name


def numbers(config: Config) -> str:
    """The UNet's number formats in words."""
    quant, unet = config.quant, config.precision.unet.value
    if quant.format is schema.Format.none:
        return unet
    return f"{quant.format.value} level {quant.level:g} in {unet}"


def _front(config: Config, form: Format) -> Iterator[str]:
    """The model card's metadata."""
    ours = isinstance(config.model, _OURS)
    yield "---"
    yield f"license: {'apache-2.0' if ours else 'other'}"
    if not ours:
        yield f"license_link: {LICENCES}"
    if form.library:
        yield f"library_name: {form.library}"
    yield "pipeline_tag: text-to-image\ntags:"
    yield from (f"- {tag}" for tag in ("stable-diffusion-xl", *form.tags))
    path = str(getattr(config.model, "path", ""))
    if store.on_hub(path):
        yield f"base_model: {path}"
    yield "---"


def _figures(cell: Cell) -> Iterator[tuple[str, str]]:
    """What was measured; figures that the record lacks are left out."""
    record, config = cell.record, cell.setting
    yield "command", f"`{record.command}`"
    yield "measured", f"{record.started}, {record.status}, backend {config('backend.name')}"
    device = record.performance.generator.device_name or record.environment.cpu
    yield "on", str(device)
    if cell.speed and not cell.meaningless:
        yield "images per second", f"{cell.speed:.4g} ({record.performance.scenario})"
        yield "latency p99", f"{cell.latency.get('p99', 0):,.1f} ms"
    if cell.meaningless:
        yield "images per second", f"none: {cell.meaningless}"
    if theirs := record.quality.baseline:
        psnr = "equal" if theirs.psnr_db is None else f"{theirs.psnr_db:.2f} dB"
        yield "PSNR to the unquantized model", psnr
        if theirs.ssim is not None:
            yield "SSIM to the unquantized model", f"{theirs.ssim:.4f}"
    if cell.memory_gib:
        yield f"peak memory ({cell.memory_kind})", f"{cell.memory_gib:.2f} GiB"
    for name, value in record.quality.scores.metrics.items():
        yield name, f"{value:.5g}"


def _licences(config: Config, folder: Path) -> Iterator[str]:
    """Of the weights, the LoRAs, the vocabularies and the scripts; the model's own text is copied.

    folder: the pack.
    """
    yield "# Licences\n"
    yield "- scripts, this text, `pack.json`: Apache-2.0."
    if isinstance(config.model, _OURS):
        yield "- weights and vocabularies: made by this project, Apache-2.0."
        return
    texts = _texts(config)
    for text in texts:
        (folder / "licences").mkdir(exist_ok=True)
        shutil.copyfile(text, folder / "licences" / text.name)
    found = ", ".join(f"`licences/{text.name}`" for text in texts)
    yield f"- weights: {found or 'the model that was packed came without a licence text'}; "
    yield f"  those of SDXL base 1.0 and what is derived of it are under {SDXL_LICENCE}."
    yield "- vocabularies of CLIP: MIT (OpenAI)."
    for name in ("unet", "vae"):
        if other := getattr(config.model, name):
            yield f"- {name}: its own, see where `{Path(other).name}` came from."
    for lora in loras.of(config.model):
        yield f"- LoRA `{Path(lora.path).name}`, fused at {lora.scale:g}: its own."


def _texts(config: Config) -> list[Path]:
    """Licence files that lie beside the weights."""
    path = store.resolve(str(getattr(config.model, "path", "")))
    place = path if path.is_dir() else path.parent
    if not place.is_dir() or not path.exists():
        return []
    return sorted(p for p in place.iterdir() if p.is_file() and p.stem.upper().startswith("LICEN"))
