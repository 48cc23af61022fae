"""`train.py evaluate=FOLDER`: the scores of a training's series of weights, off the clock.

Every process draws the prompts `rank::world` that are not scored yet, each from noise of the
prompt's number, and keeps its moments and cosines beside the scores; the first one adds them up. So
the scores do not depend on the number of processes, and a killed evaluation goes on, with as many
processes as it is then given.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config import content_key, plugins
from sdxl.config.content_key import plain
from sdxl.config.schema import TsvDataset
from sdxl.config.schema.train import TrainConfig
from sdxl.core import json_file, store
from sdxl.core.command import Outcome
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.progress import Count, Progress, Say
from sdxl.core.types import Prompt
from sdxl.model import caption_files
from sdxl.quality import fast_scorer, needs, settings
from sdxl.quality.frechet import Statistics
from sdxl.training import alone, launch, machine, use
from sdxl.training.series import asked, earlier, joined_log, parts, weights
from sdxl.training.series.parts import Examiner, Tally
from sdxl.training.series.weights import Kept

FOLDER, SCORES, LOG = "evaluations", "scores.json", "mllog.txt"
KEEP_S = 60.0
"""Seconds between two writes of a process's part."""


@dataclass
class Job:
    """What is scored, and how."""

    config: TrainConfig
    series: list[Kept]
    prompts: list[Prompt]
    pictures: Any
    examiner: Examiner
    folder: Path
    """Where the scores go."""

    @property
    def reference(self) -> Statistics:
        """What the features of real pictures are like."""
        assert self.examiner.reference
        return self.examiner.reference

    @property
    def width(self) -> int:
        """Of the features."""
        return len(self.reference.mu)

    @property
    def targets(self) -> dict[str, float] | None:
        """Of the official scores: at most this FID, at least this CLIP score."""
        quality = self.config.quality
        if not isinstance(quality, settings.MlperfTraining):
            return None
        return {"FID": quality.target_fid, "CLIP": quality.target_clip}

    def passes(self, scores: Mapping[str, float]) -> bool:
        """Whether a checkpoint comes up to the targets; never where there are none."""
        targets = self.targets
        return targets is not None and (
            scores["FID"] <= targets["FID"] and scores["CLIP"] >= targets["CLIP"]
        )


def run(config: TrainConfig, typed: Sequence[str], say: Say | None = None) -> Outcome:
    """Score the series of `config.evaluate` and join its log; `typed`: the words of the command."""
    assert config.evaluate
    training, began = store.resolve(config.evaluate), time.perf_counter()
    series, facts = weights.found(training)
    asked.refuse_ignored(typed, facts["stage"])
    config = asked.composed(config, facts, typed)
    machine.use(config.model.device, config.plan)
    if config.plan:
        return _plan(config, series, training)
    job = opened(config, training, series, facts)
    rank, world = machine.rank(), machine.processes()
    scores: dict[int, dict[str, float]] = {}
    again = "the same command again, once that one has ended"
    held, say = alone.held(job.folder, again), say if rank == 0 else _silent
    with held, Progress("evaluate", say) as progress:
        machine.by_first(lambda: _take_over(job))
        for kept in series:
            found = _scored(job, kept, rank, world, progress)
            scores[kept.samples] = found
            shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
            launch.say(f"step {kept.step:,}, {kept.samples:,} samples: {shown}")
            # The benchmark's log has at least two; further ones say nothing about its end.
            if len(scores) > 1 and any(job.passes(each) for each in scores.values()):
                break
        seconds = time.perf_counter() - began
        figures = _told(job, training, scores, seconds) if rank == 0 else {}
    return Outcome(figures=figures)


def _silent(_: Any) -> None:
    """Only the first process shows how far it is."""


def opened(
    config: TrainConfig, training: Path, series: list[Kept], facts: Mapping[str, Any]
) -> Job:
    """Networks loaded; raises `UserError` for what cannot be drawn or scored."""
    stage = plugins.training_stage(config.train.name)
    if config.train.name != facts["stage"]:
        raise UserError(
            f"{training} is of another stage", f"train={config.train.name}",
            f"train={facts['stage']}", f"train={facts['stage']}",
        )  # fmt: skip
    if stage.pictures is None:
        raise use.elsewhere(config, training, [kept.folder for kept in series], facts["words"])
    pictures = stage.pictures(config)
    if pictures.identity != facts["parts"]:
        raise UserError(
            f"{training} was trained with other parts beside its UNet",
            f"model={config.model.name}: {pictures.identity}", str(facts["parts"]),
            "model= as the training had it",
        )  # fmt: skip
    examiner = _examiner(config, pictures.prompts)
    out = training / FOLDER / _key(config, _held(examiner, pictures.prompts))
    return Job(config, series, pictures.prompts, pictures, examiner, out)


def _examiner(config: TrainConfig, prompts: list[Prompt]) -> Any:
    quality = plugins.quality_of(config)
    if isinstance(config.quality, settings.MlperfTraining) and quality:
        if problems := quality.missing(config):
            raise ConfigError(problems)
        return quality.open(config, prompts)
    if config.quality.name != "none":
        raise UserError(
            "`quality` has no scores of a training benchmark", f"quality={config.quality.name}",
            "none (our own scores of scenes), or mlperf_training", "quality=mlperf_training",
        )  # fmt: skip
    if config.dataset.name != needs.SCENES:
        raise UserError(
            "our own scores know captions of scenes only", f"dataset={config.dataset.name}",
            "dataset=scenes, or the official scores", "quality=mlperf_training",
        )  # fmt: skip
    return fast_scorer.Scenes(config, prompts)


def _key(config: TrainConfig, held: Sequence[Any]) -> str:
    """Of a way of scoring, for a folder of its own: settings, and what the files they name hold."""
    train: Any = config.train
    quality = {k: v for k, v in plain(config.quality).items() if not k.startswith("target_")}
    how = (config.dataset, config.model)
    own = {name: getattr(train, name) for name in ("eval_prompts", "eval_steps", "guidance")}
    return content_key.key(*map(plain, how), quality, own, *held)[:8]


def _held(examiner: Any, prompts: list[Prompt]) -> list[Any]:
    """What the files hold; our own scores come with the code, and have none."""
    files = {name: facts["sha256"] for name, facts in getattr(examiner, "files", {}).items()}
    return [files, [prompt.text for prompt in prompts]] if files else []


def _take_over(job: Job) -> None:
    """The scores of before their key told what files hold."""
    files = [Path(facts["path"]) for facts in getattr(job.examiner, "files", {}).values()]
    captions = getattr(job.config.dataset, "path", None)
    if files:
        files += [store.resolve(captions)] if captions else []
        earlier.take_over(job.folder.with_name(_key(job.config, [])), job.folder, files)


def _scored(job: Job, kept: Kept, rank: int, world: int, progress: Progress) -> dict[str, float]:
    """The scores of a checkpoint, by all processes together."""
    known = machine.by_first(lambda: _known(job.folder / kept.folder.name, kept))
    done = drawn(job, kept)
    machine.meet()  # everybody has seen what is there
    if known is None:
        draw(job, kept, done, (rank, world), progress)
        machine.meet()
        known = machine.by_first(lambda: added_up(job, kept))
    return known


def _known(folder: Path, kept: Kept) -> dict[str, float] | None:
    """The scores that an earlier command has left of these very weights."""
    try:
        found = json_file.read_object(folder / SCORES)
        if found["weights"] == store.fingerprint(kept.folder):
            return {name: float(found[name]) for name in ("FID", "CLIP")}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def drawn(job: Job, kept: Kept) -> set[int]:
    """The prompts whose pictures are scored already."""
    return set(parts.read(_of_weights(job, kept), job.width).cosines)


def draw(job: Job, kept: Kept, done: set[int], place: tuple[int, int], progress: Progress) -> None:
    """The share of process `place` (rank, world) of what is not done, into a part of its own."""
    own = parts.share(len(job.prompts), done, *place)
    if not own:
        return
    job.pictures.load(kept.folder)
    tally, size, written = Tally.empty(job.width), job.pictures.at_once, time.monotonic()
    count = Count(f"step {kept.step:,}", len(own), progress.report)
    file = _of_weights(job, kept) / f"part-{len(done):06d}-{place[0]:04d}.npz"
    for start in range(0, len(own), size):
        numbers = own[start : start + size]
        images = job.pictures.draw([job.prompts[number] for number in numbers])
        tally.add(numbers, *job.examiner.examined(numbers, images))
        for _ in numbers:
            count.advance()
        if time.monotonic() - written > KEEP_S:
            written = time.monotonic()
            tally.write(file)
    tally.write(file)


def _of_weights(job: Job, kept: Kept) -> Path:
    """Where the parts of these very weights lie."""
    return job.folder / kept.folder.name / store.fingerprint(kept.folder)


def added_up(job: Job, kept: Kept) -> dict[str, float]:
    """The scores of all pictures of a checkpoint, kept beside the others."""
    folder = _of_weights(job, kept)
    whole = parts.read(folder, job.width)
    if len(whole.cosines) != len(job.prompts):
        raise UserError(
            f"{folder} has not all pictures", f"{len(whole.cosines)} of {len(job.prompts)}",
            "those of all processes, on a disk that they share", "the same command again",
        )  # fmt: skip
    found = whole.scores(job.reference)
    facts = {"weights": folder.name, "pictures": len(whole.cosines), "step": kept.step}
    store.write_json(job.folder / kept.folder.name / SCORES, {**found, **facts})
    shutil.rmtree(folder, ignore_errors=True)  # with what a killed process has left of a part
    return found


def _told(
    job: Job, training: Path, scores: Mapping[int, Mapping[str, float]], seconds: float
) -> dict[str, Any]:
    """For the JSON line, its log written."""
    passed = next((samples for samples, each in scores.items() if job.passes(each)), None)
    log = job.folder / LOG
    unjoined = joined_log.write(training / LOG, log, scores, passed, len(job.prompts))
    steps = {kept.samples: kept.step for kept in job.series}
    result = getattr(job.examiner, "files", None)
    return {
        "stage": job.config.train.name,
        "folder": str(training),
        "pictures": len(job.prompts),
        "fillers": _fillers(job.config),
        "scored": [{"step": steps[n], "samples": n, **each} for n, each in scores.items()],
        "not_scored": len(job.series) - len(scores),
        "targets": job.targets,
        "passed": None if passed is None else {"step": steps[passed], "samples": passed},
        "minutes_to_target": None if passed is None or unjoined else joined_log.minutes(log),
        "files": result,
        "comparable": False,
        "log": None if unjoined else str(log),
        **({"no_log": unjoined} if unjoined else {}),
        "seconds": round(seconds, 1),
    }


def _fillers(config: TrainConfig) -> int:
    """Rows of the caption file that are no samples."""
    dataset = config.dataset
    if not isinstance(dataset, TsvDataset) or not dataset.padded:
        return 0
    return caption_files.read_padded(store.resolve(dataset.path))[1]


def _plan(config: TrainConfig, series: list[Kept], training: Path) -> Outcome:
    """What would be scored."""
    train: Any = config.train
    plan = {
        "stage": config.train.name,
        "folder": str(training),
        "steps": [kept.step for kept in series],
        "samples": [kept.samples for kept in series],
        "pictures": train.eval_prompts,
    }
    launch.say(f"{config.train.name}: {len(series)} weights kept, {training}")
    return Outcome(figures={"plan": plan})
