"""The winner as another tool's files.   python -m sdxl pack RECORD --to FOLDER --as diffusers

The setting of a record, written so that diffusers, ONNX Runtime or another tool opens it without
this package, and checked by that tool: it draws the record's pictures again, in a process of its
own.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sdxl
from sdxl.backends.openvino import rules as openvino_rules
from sdxl.config.schema import Config, Format
from sdxl.core import gpu, gpu_locks, records, store, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.paths import ASSETS, DISTRIBUTION
from sdxl.core.progress import Progress
from sdxl.core.record import Record
from sdxl.core.types import now
from sdxl.export.pack import carried
from sdxl.report.cell import Cell
from sdxl.run import jobs, setting
from sdxl.run.doctor.preflight import preflight
from sdxl.run.pack import check, folder, formats
from sdxl.run.pack.card import Card, numbers
from sdxl.run.pack.check import Outcome
from sdxl.run.pack.formats import FORMATS

MANIFEST = "pack.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    given = _parser().parse_args(argv)
    if given.check < 0:
        raise UserError("`--check` is negative", str(given.check), "a number of pictures, or 0")
    path = setting.record_of(given.record)
    record, config = records.read(path), _config(path, given.kind)
    carried.check(config, given.kind)
    if given.kind == "openvino" and (absent := openvino_rules.not_installed(config)):
        raise ConfigError(absent)
    python = check.interpreter(given.python)
    target = given.to.expanduser().resolve()
    folder.check(target)
    with folder.writing(target) as work:
        if problems := preflight(config, work, runs=False):
            raise ConfigError(problems)
        pack = Pack(path, record, config, given.kind, work)
        pack.write(given.check)
        outcome = pack.check(python)
        pack.describe(outcome)
    terminal.say(f"{target}: {numbers(config)}, {outcome.said()}")
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return {"folder": str(target), "as": given.kind, "bytes": size, **check.told(outcome)}


class Pack:
    """One pack while it is made, in `work/pack`."""

    def __init__(self, path: Path, record: Record, config: Config, kind: str, work: Path) -> None:
        self.path, self.record, self.config, self.kind = path, record, config, kind
        self.form, self.work, self.folder = FORMATS[kind], work, work / "pack"
        self.told: dict[str, Any] = {}

    def write(self, most: int) -> None:
        """The model's files, the pictures that are compared, and the scripts."""
        images = check.chosen(self.record, self.path.parent, most)
        title = f"{self.config.model.name} {self.kind}"
        devices = self.config.backend.devices
        with Progress(title) as progress, gpu_locks.reserve(progress.say, devices) as env:
            child = functools.partial(jobs.child, self.config, self.work, progress.report, env)
            loads = formats.prepare(self.config, self.kind, child)
            rows = [image.row or 0 for image in images]
            facts = child(formats.write, self.kind, loads, self.folder, rows)
        seeds = facts.pop("seeds")
        pictures = check.copy(images, self.path.parent, self.folder, seeds)
        shutil.move(self.work / formats.NOISE, self.folder / check.FOLDER / formats.NOISE)
        scripts = dict(zip(("draw.py", "runtime.py"), self.form.draw, strict=False))
        if scripts and pictures:
            scripts[check.SCRIPT] = check.SCRIPT
        for name, asset in scripts.items():
            shutil.copyfile(ASSETS / "pack" / asset, self.folder / name)
        needs = [*self.form.needs, *facts.pop("also_needs", ())]
        self.told = {
            "kind": self.kind,
            "made_by": f"{DISTRIBUTION} {sdxl.__version__}, {now()}",
            "record": {name: getattr(self.record, name) for name in ("id", "key", "command")},
            "settings": _settings(self.config),
            "needs": needs,
            "versions": {name: found for name in needs if (found := _version(name))},
            "check": [dataclasses.asdict(picture) for picture in pictures],
            **facts,
        }
        store.write_json(self.folder / MANIFEST, self.told)

    def check(self, python: str) -> Outcome:
        """Have the other tool draw the record's pictures; raises `SdxlError` if it cannot."""
        if self.form.unchecked:
            return Outcome(False, self.form.unchecked)
        if not self.told["check"]:
            return Outcome(False, "no picture of the record was compared")
        if self.form.gpu and not gpu.find()[0]:
            return Outcome(False, "it draws on an NVIDIA GPU alone; there: python verify.py")
        if isinstance(why := self.told.get("schedule"), str):
            return Outcome(False, f"{why}; draw with the tool's own pipeline")
        quantized = self.config.quant.format is not Format.none
        install = f"python -m pip install {' '.join(self.told['needs'])}"
        with Progress(f"{self.config.model.name} {self.kind}") as progress:
            progress.report({"phase": f"{self.kind} alone draws the record's pictures"})
            least = check.least_db(self.record, quantized)
            return check.verify(self.folder, python, least, install)

    def describe(self, outcome: Outcome) -> None:
        """The manifest with the outcome, the README and the licences."""
        self.told["verified"] = check.told(outcome)
        self.told["versions"] |= outcome.versions or {}
        store.write_json(self.folder / MANIFEST, self.told)
        cell = Cell(self.path, self.record)
        Card(self.config, cell, self.form, self.told, outcome.said()).write(self.folder)


def _config(path: Path, kind: str) -> Config:
    """The record's setting; engines are built as `backend=trt` builds them, whoever measured."""
    config = setting.compose(str(path), [])
    if kind != "tensorrt" or config.backend.name in ("trt", "fake"):
        return config
    known = [word for word in setting.words_of(path) if not word.startswith("backend")]
    return setting.compose(None, [*known, "backend=trt"])


def _settings(config: Config) -> dict[str, Any]:
    """What draws, by diffusers' names of it."""
    model = config.model
    return {
        "height": model.height,
        "width": model.width,
        "steps": model.steps,
        "guidance": model.guidance,
        "negative_prompt": model.negative_prompt,
        "eta": getattr(config.scheduler, "eta", 0.0),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _parser() -> Parser:
    parser = Parser(prog="python -m sdxl pack", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("record", help="a record.json or its folder, `last` or `best`")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="new or empty")
    parser.add_argument("--as", dest="kind", choices=FORMATS, required=True, help="what opens it")
    parser.add_argument(
        "--check",
        type=int,
        default=2,
        metavar="N",
        help="pictures of the record that the other tool draws again (default 2; 0: none)",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="the interpreter that has the other tool (default: this one)",
    )
    return parser
