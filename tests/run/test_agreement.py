"""Record, JSON line and exit code say the same, whatever goes wrong after a measurement."""

import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdxl.core import record as records_of
from sdxl.core import records, store
from sdxl.core.command import summary
from sdxl.core.errors import FAILED, INVALID, OK, USER, SdxlError
from sdxl.report.mlflow import client
from sdxl.report.terminal import table
from sdxl.run import identity, ledger, outcomes

CODES = {"ok": (OK,), "invalid": (INVALID,), "failed": (FAILED, USER), "timeout": (FAILED,),
         "skipped": (OK,)}  # fmt: skip
FAULTS = {
    "none": None,
    "full": OSError(28, "No space left on device"),
    "closed": OSError(13, "Permission denied"),
    "ours": SdxlError("a failure of ours"),
    "bug": ValueError("a bug"),
    "stop": KeyboardInterrupt(),
}


def raising(fault, real=None):
    """A function that fails so, or does what it always does."""

    def call(*words, **named):
        if fault:
            raise fault
        return real(*words, **named) if real else {"mlflow_run": "r"}

    return call


@pytest.fixture(scope="module")
def config(load):
    return load("backend=fake", "tracking=mlflow")


def drawn(*names):
    return st.sampled_from([*names]).map(FAULTS.get)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ended=st.sampled_from([(status, code) for status, codes in CODES.items() for code in codes]),
    writing=drawn("none", "none", "full", "closed"),
    noting=drawn("none", "full", "closed", "stop"),
    showing=drawn("none", "bug", "closed", "stop"),
    tracking=drawn("none", "ours", "stop"),
    interrupted=st.booleans(),
)
def test_they_agree(config, ended, writing, noting, showing, tracking, interrupted):
    status, code = ended
    record = identity.new(config)
    record.status, record.reason = status, "" if status == "ok" else "because"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with (
            patch.object(records, "write_json", raising(writing, store.write_json)),
            patch.object(ledger.store, "write_json", raising(noting, store.write_json)),
            patch.object(table, "show", raising(showing, lambda *_: None)),
            patch.object(client, "asked", raising(tracking, lambda *_, **__: "r")),
        ):
            try:
                outcome = outcomes.finish(config, folder, record, code, None, interrupted)
            except outcomes.Interrupted as stop:
                outcome = stop.outcome
        line = json.loads(json.dumps(outcome.line(), default=str))
        assert line["exit_code"] in CODES[line["status"]]
        path = folder / "record.json"
        assert line["record"] == (str(path) if path.is_file() else None)
        if path.is_file():
            assert json.loads(path.read_text())["status"] == line["status"] == status
            assert line["exit_code"] == code
        else:
            assert writing and line["status"] == "failed" and line["exit_code"] == FAILED
        whole = summary([outcome])
        assert (whole["exit_code"] == OK) == (line["exit_code"] == OK) == (whole["status"] == "ok")
    assert records_of.Record.from_json(record.to_json()).status == line["status"]
