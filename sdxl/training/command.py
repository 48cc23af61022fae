"""What `train.py` does: the plan, or one stage with its log, curves and pictures."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdxl.config import rules_train
from sdxl.config.content_key import plain
from sdxl.config.plugins import TrainingStage, training_stage
from sdxl.config.schema.train import TrainConfig, Training
from sdxl.core import collector, disk, json_file, store, terminal
from sdxl.core.command import Outcome
from sdxl.core.progress import Say
from sdxl.model import checkout
from sdxl.report.mlflow.curves import Curves
from sdxl.training import alone, checkpoint, kept, launch, loop, machine, mllog, put, seeds, speed
from sdxl.training.series import asked, evaluate, weights

SHOW_EVERY_S = 5.0
"""Seconds between two lines on the terminal, and between two points of a curve."""


_first = [mllog.now_ms()]
"""When this program began, near enough; until its first job has taken it."""


@machine.loss_told()
def run(config: Any, _out_dir: Path, say: Say | None = None) -> Outcome:
    """Train as `config.train` says; what it is doing goes to standard error."""
    assert isinstance(config, TrainConfig)
    start_ms = _first.pop() if _first else mllog.now_ms()
    settings = config.train
    checkout.use(config.model)
    if config.evaluate:
        return evaluate.run(config, _typed(), say)
    rules_train.check(settings)  # of typed words `load` has said it
    machine.use(config.model.device, config.plan)
    chosen = training_stage(settings.name)
    folder = chosen.folder_of(config)
    if config.plan:
        disk.store_ready(0)
        return _plan(config, chosen, folder)
    machine.by_first(lambda: disk.store_ready(disk.SMALL_BYTES))
    collector.settle()
    with alone.held(folder, "train.run=ANOTHER_NAME"):
        machine.by_first(lambda: put.sweep(folder, folder / weights.FOLDER))
        seeds.settle(config, chosen, _typed())
        return _train(config, chosen, folder, start_ms)


def _plan(config: TrainConfig, chosen: TrainingStage, folder: Path) -> Outcome:
    """What would be trained."""
    settings, done = config.train, _steps_done(config.train, folder)
    plan = {
        "stage": settings.name,
        "folder": str(folder),
        "steps_done": done,
        "steps": settings.steps,
        "samples": settings.steps * settings.batch,
    }
    plan |= chosen.plan(config)
    launch.say(f"{settings.name}: {done:,} of {settings.steps:,} steps done, {folder}")
    return Outcome(figures={"plan": plan})


def _steps_done(settings: Training, folder: Path) -> int:
    return 0 if settings.restart else checkpoint.steps_done(folder / loop.FILE)


def _train(config: TrainConfig, chosen: TrainingStage, folder: Path, start_ms: int) -> Outcome:
    """The steps that are left, with all that is told of them; `start_ms`: when the job began."""
    settings, began_ms = config.train, mllog.now_ms()
    done = checkpoint.alike(_steps_done(settings, folder), folder)
    stage = chosen.open(config)
    identity = getattr(stage, "identity", None) or {}
    if done:  # before anything is written beside the checkpoint
        fixed = loop.fixed(settings, config.seed, identity)
        checkpoint.refuse_others(folder / loop.FILE, fixed)
    machine.check(settings)
    if done >= settings.steps and (finished := machine.by_first(lambda: _finished(folder, done))):
        launch.say(f"{settings.name}: all {done:,} steps were done before, {folder}")
        return _outcome(config, chosen, folder, str(folder / kept.FILE), finished)
    if done < settings.steps:
        given = (stage.module, settings.ema is not None, settings.restart)
        machine.by_first(
            lambda: disk.store_ready(checkpoint.room_needed(folder / loop.FILE, *given))
        )
    meter = speed.Meter(settings)
    made: list[_Reporter] = []  # by the first process, whose failure ends all
    machine.by_first(
        lambda: made.append(_begun(config, stage, folder, done, meter, (start_ms, began_ms)))
    )
    reporter = next(iter(made), None)
    began = time.perf_counter()
    if settings.compile:
        launch.say(f"{settings.name}: the first step compiles, which can take minutes")
    status = "FAILED"
    try:
        figures = loop.train(
            stage, settings, config.seed, folder, reporter or _silent, identity, meter
        )
        status = "FINISHED" if figures["step"] >= settings.steps else "KILLED"  # by max_s
    finally:
        if reporter:
            reporter.close(status)
    seconds = time.perf_counter() - began
    record = kept.write(config, folder, figures, meter, seconds, _typed()) if reporter else None
    figures = {"seconds": round(seconds, 1), **figures, **meter.whole()}
    return _outcome(config, chosen, folder, str(record) if record else None, figures)


def _begun(
    config: TrainConfig, stage: Any, folder: Path, done: int, meter: speed.Meter,
    since_ms: tuple[int, int],
) -> _Reporter:  # fmt: skip
    """Logs and series as they stand after `done` steps; when job and training began."""
    if not done:
        (folder / kept.FILE).unlink(missing_ok=True)  # of a training that is gone
    elif done >= config.train.steps:
        (folder / loop.FILE).touch()  # killed before its record: evaluated again
    reporter = _Reporter(config, folder, done, meter)
    facts = {"stage": config.train.name, "words": asked.words(_typed()),
             "parts": getattr(stage, "parts_identity", None)}  # fmt: skip
    weights.begin(folder, facts, done)
    reporter.mllog.begin(config.train, _told(stage, config), *since_ms)
    return reporter


def _finished(folder: Path, done: int) -> dict[str, float] | None:
    """The figures of a training that is over, all of it written; None for any other."""
    figures = kept.figures(folder, done)
    return {"seconds": 0.0, **figures} if figures and loop.exported(folder) else None


def _outcome(
    config: TrainConfig, chosen: TrainingStage, folder: Path, record: str | None,
    figures: Mapping[str, float],
) -> Outcome:  # fmt: skip
    told = {"stage": config.train.name, "folder": str(folder)}
    rounded = {name: round(value, 6) for name, value in figures.items()}
    made = chosen.outcome(config, folder / "model")
    return Outcome(record=record, figures={**told, **rounded, **made})


def _told(stage: Any, config: TrainConfig) -> mllog.Told:
    """For MLPerf's log; a stage of MLPerf's own says its benchmark itself."""
    return mllog.Told(
        stage.count, getattr(stage, "eval_count", 0), config.seed,
        getattr(stage, "benchmark", f"scenes_{config.train.name}"),
    )  # fmt: skip


def _typed() -> list[str]:
    """The words of the command line, such as `train.lr=1e-4`."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _silent(*_: Any) -> None:
    """The other processes say nothing."""


def _forget(log: Path, done: int) -> None:
    """Drop the lines of steps that come again, as they are later than the checkpoint."""
    if not log.is_file():
        return
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step(line) <= done]
    beside = log.with_name(f".{log.name}.{os.getpid()}")
    beside.write_text("".join(kept))
    beside.replace(log)


def _step(line: str) -> float:
    """The step of a line in the log; infinite for a damaged one, which is dropped."""
    try:
        return float(json_file.parse(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


class _Reporter:
    """The log beside the checkpoint, the terminal, MLflow's curves and MLPerf's log lines."""

    def __init__(self, config: TrainConfig, folder: Path, done: int, meter: speed.Meter) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = config.train
        self.folder, self.settings, self.meter = folder, settings, meter
        again = done > 0
        self.mllog = mllog.Log(folder / "mllog.txt", done * settings.batch if again else None)
        self.log = folder / "log.jsonl"
        _forget(self.log, done if again else 0)
        name = f"train {settings.run} {settings.name}"
        kept = folder / "mlflow_run"
        known = kept.read_text().strip() if again and kept.is_file() else None
        self.curves = Curves(config.tracking, name, plain(settings), known)
        if self.curves.run_id:
            kept.write_text(self.curves.run_id + "\n")
        self.shown = 0.0

    def __call__(self, kind: str, samples: int, figures: dict[str, float], picture: Any) -> None:
        step = samples // self.settings.batch
        with store.fullness_said(self.folder, loop.AGAIN):
            self._write(kind, samples, figures, picture)
        if kind in ("kept", "evaluating"):
            return
        if picture is not None:
            self.curves.picture(step, self.settings.name, picture)
        now = time.monotonic()
        if kind == "evaluation" or now - self.shown > SHOW_EVERY_S:
            self.shown = now
            figures = figures | self.meter.now()
            self.curves.log(step, figures)
            words = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            place = f"{self.settings.name} {step:,}/{self.settings.steps:,}"
            terminal.say(f"{place}  {words}")

    def _write(self, kind: str, samples: int, figures: dict[str, float], picture: Any) -> None:
        """Into the training's own folder."""
        if kind in ("kept", "evaluating"):
            getattr(self.mllog, kind)(samples, self.meter.block())
            return
        step = samples // self.settings.batch
        with self.log.open("a") as stream:
            stream.write(json.dumps({"kind": kind, "step": step, **figures}) + "\n")
        if picture is not None:
            from PIL import Image

            Image.fromarray(picture).save(self.folder / f"evaluation-{samples:09d}.png")
        if kind == "step":
            self.mllog.step(samples)
        else:
            self.mllog.evaluation(samples, figures)

    def close(self, status: str) -> None:
        """End MLflow's run and MLPerf's log."""
        self.mllog.end(status)
        self.curves.close(status)
