"""An official audit asks for what it will be judged by before hours are spent."""

from pathlib import Path

import pytest

from sdxl.bench.mlperf import verdict
from sdxl.config.schema import Mode
from sdxl.core.errors import UserError
from sdxl.core.record import Record
from sdxl.run import audit, ledger

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


@pytest.mark.parametrize("words", [("scenario.min_duration_ms=0",), ("rules=open",)])
def test_a_quick_or_open_one_makes_what_it_needs(load, known, words):
    known(None)
    assert not audit._pictures_first(load(*OFFICIAL, *words), Record("key", {}, ""))
