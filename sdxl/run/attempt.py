"""One measurement and its end: whatever happens becomes a record."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sdxl.config.plugins import quality_of
from sdxl.config.schema import Config, Rerun
from sdxl.core import isolate, records, terminal
from sdxl.core.command import Outcome
from sdxl.core.errors import FAILED, INVALID, OK, SdxlError, one_line, show
from sdxl.core.progress import Say
from sdxl.core.record import Comparison, Paired, Record
from sdxl.core.store import disk_error
from sdxl.model.images import baseline_sheet
from sdxl.model.pictures import load
from sdxl.quality import per_prompt
from sdxl.quality.baseline import compare
from sdxl.quality.paired import between, unpaired
from sdxl.run import identity, ledger, outcomes
from sdxl.run.measure import SHEET_IMAGES, measure
from sdxl.run.shared import Shared


@dataclass(frozen=True)
class Context:
    """What the measurements of a cell share: which records may stand for them, its sweep, and who
    is told how far they are in place of the terminal.
    """

    policy: Rerun
    sweep: Shared | None = None
    say: Say | None = None


@contextmanager
def turn(
    key: str, context: Context, pictures: bool = False
) -> Iterator[tuple[Path, Record] | None]:
    """The record that stands for a measurement; None: it is this process's turn to make one.

    pictures: not one whose pictures are gone.
    """
    if found := recall(key, context, pictures):
        yield found
    elif context.sweep:
        with ledger.turn(key):
            yield recall(key, context, pictures)
    else:
        yield None


def recall(key: str, context: Context, pictures: bool = False) -> tuple[Path, Record] | None:
    """The record that may stand for a measurement, if there is one; `pictures`: with its files."""
    found = ledger.recall(key, context.policy, context.sweep.started if context.sweep else "")
    if found and pictures:
        path, record = found
        there = all((path.parent / image.file).is_file() for image in record.images)
        return found if there else None
    return found


def other_run(
    config: Config, folder: Path, command: str, context: Context, pictures: bool = False
) -> Path | Outcome:
    """The record of a run that this cell needs, measured now unless there is one; or why not.

    pictures: those of the run are needed, too.
    """
    record = identity.new(config)
    with turn(record.key, context, pictures) as found:
        if found and found[0].parent.resolve() == folder.parent.resolve():
            # It lies in this cell's own folder, which is about to be cleared: it moves.
            outcomes.take_over(folder, *found, config.cost)
            ledger.remember(found[1], folder / "record.json")
            return folder / "record.json"
        if found:
            return found[0]
        record.command = command
        outcome = measure_one(config, folder, record, context)
    if outcome.record and outcome.exit_code in (OK, INVALID):
        return Path(outcome.record)
    return outcome


def _paired(record: Record, folder: Path, baseline: Record, baseline_path: Path) -> list[Paired]:
    """Our figures beside the baseline's, prompt by prompt, where both have some."""
    if unpaired(record, baseline):
        return []
    places = ((folder, record), (baseline_path.parent, baseline))
    files = [place / each.quality.per_prompt.file for place, each in places]
    return between(*map(per_prompt.read, files)) if all(map(Path.is_file, files)) else []


def without(command: str, *keys: str) -> list[str]:
    """The command's words but those that set one of `keys`, a group's or a single setting's."""
    words = [(word, word.split("=")[0]) for word in shlex.split(command)]
    return [word for word, key in words if not {key, key.split(".")[0]} & {*keys}]


def measure_one(
    config: Config,
    folder: Path,
    record: Record,
    context: Context,
    judge: Callable[[], None] | None = None,
) -> Outcome:
    """Measure, `judge` beside other runs, write, show, track."""
    exit_code = FAILED
    error: BaseException | None = None
    try:
        measure(config, folder, record, context.say)
        if judge:
            judge()
        exit_code = outcomes.EXIT_CODES[record.status]
    except (SdxlError, OSError) as found:
        if isinstance(found, OSError):
            said, trace = disk_error(found, folder, "hydra.run.dir=FOLDER"), traceback.format_exc()
        else:
            said, trace = found, getattr(found, "trace", "")
        error, exit_code = said, said.exit_code
        record.status = "timeout" if isinstance(said, isolate.WorkerStalled) else "failed"
        record.reason = one_line(said.problems)
        if trace:
            record.environment.traceback = trace
        show(said)
    except KeyboardInterrupt as found:
        error = found
        record.status, record.reason = "failed", "interrupted"
    except Exception as found:  # ours to fix, but the record comes first
        terminal.say(traceback.format_exc().rstrip())
        exit_code = FAILED
        record.status, record.reason = "failed", f"{type(found).__name__}: {found}"
        record.environment.traceback = traceback.format_exc()
    interrupted = isinstance(error, KeyboardInterrupt)
    outcome = outcomes.finish(config, folder, record, exit_code, context.sweep, interrupted)
    if interrupted:
        raise outcomes.Interrupted(outcome)
    return outcome


def end_without(
    config: Config, folder: Path, record: Record, context: Context, other: Outcome, because: str
) -> Outcome:
    """A cell that cannot be measured, since a run that it needs came to nothing: `other`."""
    outcomes.clear(folder)
    record.status = "timeout" if other.status == "timeout" else "failed"
    record.reason = because
    return outcomes.finish(config, folder, record, other.exit_code or FAILED, context.sweep)


def beside_baseline(config: Config, record: Record, folder: Path, baseline_path: Path) -> None:
    """Speed and pictures beside the unquantized baseline's."""
    baseline = records.read(baseline_path)
    theirs = {image.index: image for image in baseline.images}
    pairs = [(theirs[image.index], image) for image in record.images if image.index in theirs]
    files = [(baseline_path.parent / one.file, folder / other.file) for one, other in pairs]
    pictures = [load(one) for one, _ in files], [load(other) for _, other in files]
    found = compare(*pictures)
    option = quality_of(config)
    if option and option.beside_baseline:
        found |= option.beside_baseline(config, *pictures)
    shown = slice(SHEET_IMAGES)
    captions = [image.caption for image, _ in pairs]
    baseline_sheet(files[shown], captions[shown], folder / "baseline.png")
    record.quality.baseline = Comparison.from_json({"record": str(baseline_path), **found})
    record.quality.baseline.paired = _paired(record, folder, baseline, baseline_path)
    ours, base = (run.performance.images_per_second for run in (record, baseline))
    if ours and base:
        record.performance.baseline_images_per_second = base
        record.performance.speed_up = ours / base
