"""Writing the tree: every file of every scenario where the round wants it."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from sdxl.bench.mlperf import compliance, rounds
from sdxl.bench.mlperf.submission import describe
from sdxl.bench.mlperf.submission.check_runs import DETAIL, SUMMARY
from sdxl.bench.mlperf.submission.gather import STRICT_ONLY, Asked, Result, Run
from sdxl.bench.mlperf.submission.truncate import truncate
from sdxl.config.schema import Compliance
from sdxl.core.errors import ConfigError, Problem, SdxlError, UserError
from sdxl.core.paths import CONF, CONSTRAINTS, PACKAGE, ROOT
from sdxl.core.store import disk_error, write_json

ACCURACY = "mlperf_log_accuracy.json"
SOURCES = ("sdxl", "conf", "run.py", "quantize.py", "export.py", "train.py", "pyproject.toml",
           "constraints.txt", "Makefile", "README.md", "LICENSE")  # fmt: skip
"""What of the project goes into a submission's source folder, if it is there."""


def build(results: list[Result], asked: Asked, system: dict[str, object], out: Path) -> Path:
    """Write `out`/division/submitter, whole or not at all; returns that folder.

    Audits are verified anew.
    """
    top = out / asked.division / asked.submitter
    if top.exists():
        raise UserError("the submission is there already", top, "a new folder", "--out DIR")
    unfinished = top.with_name(f".{top.name}.{uuid.uuid4().hex[:8]}")
    try:
        _write(results, asked, system, unfinished)
        unfinished.rename(top)
    except FileNotFoundError as error:
        raise UserError(
            "a run has lost a file", error.filename, "every file as the run left it"
        ) from error
    except OSError as error:
        raise disk_error(error, out, "--out DIR") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return top


def _write(results: list[Result], asked: Asked, system: dict[str, object], top: Path) -> None:
    rules = rounds.rules_of(asked.round)
    layout = rules.layout
    (top / "systems").mkdir(parents=True)
    write_json(top / "systems" / f"{asked.system}.json", system)
    _sources(top / layout.source / rounds.MODEL)
    documents = top / "documentation"
    documents.mkdir()
    (documents / "calibration.md").write_text(describe.calibration(results))
    for result in results:
        words = {"system": asked.system, "scenario": result.scenario}
        place = top / layout.results.format(**words)
        _performance(result.performance, place / "performance" / "run_1")
        _accuracy(result.accuracy, place / "accuracy", rules)
        notes = top / layout.notes.format(**words)
        _notes(result, notes, layout.measurement.format(**words))
        if layout.rule_file:
            (notes / layout.rule_file).write_text(describe.rule_file(rules))
        for name in rounds.CLOSED_TESTS:
            if name in result.runs:
                audits = top / layout.compliance.format(**words) / name
                _audit(Compliance(name.lower()), result, audits, asked.rounding)


def _performance(run: Run, place: Path) -> None:
    place.mkdir(parents=True)
    for name in (DETAIL, SUMMARY):
        shutil.copyfile(run.folder / "loadgen" / name, place / name)


def _accuracy(run: Run, place: Path, rules: rounds.Rules) -> None:
    """Scores and hash, the truncated log, the pictures that some rounds ask for."""
    _performance(run, place)
    scores = run.record.quality.scores.metrics
    named = {"FID_SCORE": scores.get("fid"), "CLIP_SCORE": scores.get("clip_score")}
    told = {name: f"{value}" if rules.quoted else value
            for name, value in named.items() if value is not None}  # fmt: skip
    digest = truncate(_whole_log(run), place / ACCURACY)
    (place / "accuracy.txt").write_text(f"Accuracy Results: {told}\nhash={digest}\n")
    if rules.images:
        _images(run, place / "images", rules.image_ids)


def _whole_log(run: Run) -> Path:
    """The accuracy log, which must hold whole pictures."""
    log = run.folder / "loadgen" / ACCURACY
    model = run.record.config["model"]
    size = 3 * model["height"] * model["width"]
    _, answer = next(compliance.responses(log), (0, b""))
    if len(answer) != size:
        raise SdxlError(f"{log} does not hold pictures", f"{len(answer)} bytes", f"{size} bytes")
    return log


def _images(run: Run, place: Path, wanted: tuple[int, ...]) -> None:
    """The round's pictures by their index, and their captions."""
    place.mkdir()
    known = {image.index: image for image in run.record.images}
    captions = []
    for index in wanted:
        if image := known.get(index):
            shutil.copyfile(run.folder / image.file, place / f"{index}.png")
            captions.append(f"{index}  {image.caption}\n")
    (place / "captions.txt").write_text("".join(captions))


def _notes(result: Result, place: Path, measurement: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    record = result.performance.record
    write_json(place / measurement, describe.measurements(record))
    (place / "user.conf").write_text(describe.user_conf(record))
    (place / "README.md").write_text(describe.readme(result))


def _audit(test: Compliance, result: Result, place: Path, rounding: bool) -> None:
    """Verified against the very runs that are submitted; the log cut as the accuracy log is."""
    run = result.runs[compliance.name_of(test)]
    speed, accuracy = result.performance.path, result.accuracy.path
    gates = compliance.verify(test, run.record, run.folder, speed, accuracy, place)
    failing = [g for g in gates if g.own and not g.passed]
    failing = [g for g in failing if not (rounding and g.gate == STRICT_ONLY)]
    if failing:
        raise ConfigError(
            [Problem(f"{run.path}: {g.gate}", g.measured, g.required) for g in failing]
        )
    _performance(run, place / "performance" / "run_1")
    if test is Compliance.test01:
        (place / "accuracy").mkdir()
        digest = truncate(run.folder / "loadgen" / ACCURACY, place / "accuracy" / ACCURACY)
        (place / "accuracy" / "accuracy.txt").write_text(f"hash={digest}\n")


def _sources(place: Path) -> None:
    """The project itself, without what it generates."""
    places = {"sdxl": PACKAGE, "conf": CONF, "constraints.txt": CONSTRAINTS}
    place.mkdir(parents=True)
    for name in SOURCES:
        source = places.get(name, ROOT / name)
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copyfile(source, place / name)
