"""An official audit asks for what it will be judged by before hours are spent."""

import shlex
from pathlib import Path

import pytest

from sdxl.bench.mlperf import verdict
from sdxl.config.schema import Mode, Rerun
from sdxl.core.errors import UserError
from sdxl.core.record import Record
from sdxl.run import audit, ledger
from sdxl.run.attempt import Context

OFFICIAL = ("backend=fake", "model=tiny_random", "rules=closed", "compliance=test01",
            f"scenario.min_duration_ms={verdict.OFFICIAL_MS}")  # fmt: skip


@pytest.fixture
def known(monkeypatch):
    """The accuracy run that the ledger knows of."""

    def set_to(record):
        found = (Path("accuracy/record.json"), record) if record else None
        monkeypatch.setattr(
            ledger, "partner", lambda _, mode: found if mode is Mode.accuracy else 1
        )

    return set_to


def accuracy(submission, status="ok"):
    return Record("key", {"submission": submission}, "", status)


def test_an_official_test01_wants_the_pictures_first(load, known):
    config = load(*OFFICIAL)
    record = Record("key", {}, "python run.py backend=fake compliance=test01 quality=fast")
    for there in (None, accuracy(False), accuracy(True, "failed")):
        known(there)
        with pytest.raises(UserError, match="accuracy run of this work first") as error:
            audit.audit(config, Path("nowhere"), record, None)
        (problem,) = error.value.problems
        fix = "python run.py backend=fake mode=accuracy quality=mlperf submission=true"
        assert problem.fix == fix
    known(accuracy(True))
    assert audit._pictures_first(config, record)


TIMED = ("quality.keep_images=4", "cost.per_hour=2")


def test_the_accuracy_run_has_nothing_that_only_a_timed_one_takes(load, known, monkeypatch):
    """The line to type, and the recorded command of one made on the way, are taken as they are."""
    known(None)
    words = [*OFFICIAL, *TIMED, "scenario=Offline", "scenario.target_qps=3"]
    record = Record("key", {}, " ".join(["python run.py", *words]))
    with pytest.raises(UserError) as error:
        audit.audit(load(*words), Path("nowhere"), record, None)
    fix = error.value.problems[0].fix
    assert fix and load(*shlex.split(fix)[2:]).mode is Mode.accuracy

    made = {}

    def other(config, folder, command, context):
        made[config.mode] = config, shlex.split(command)[2:]
        return Path("record.json")

    monkeypatch.setattr(audit, "other_run", other)
    monkeypatch.setattr(audit, "measure_one", lambda *_: None)
    quick = [*words, "rules=open", "scenario.min_duration_ms=0"]
    record = Record("key", {}, " ".join(["python run.py", *quick]))
    audit.audit(load(*quick), Path("nowhere"), record, Context(Rerun.failed))
    accuracy, line = made[Mode.accuracy]
    assert load(*line) == accuracy
    assert {*TIMED, "scenario.target_qps=3"} <= {*made[Mode.performance][1]}


def test_what_an_overlay_sets_for_a_timed_run_is_taken_back(load):
    config = load("backend=fake", "quality.keep_images=4")
    assert audit._untimed(["+experiment=mine"], config) == [
        "+experiment=mine", "quality.keep_images=null",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [("scenario.min_duration_ms=0",), ("rules=open",)])
def test_a_quick_or_open_one_makes_what_it_needs(load, known, words):
    known(None)
    assert not audit._pictures_first(load(*OFFICIAL, *words), Record("key", {}, ""))
