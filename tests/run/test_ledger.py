"""What stands for a measurement that is asked for again: where and how it was made decides."""

import pytest

from sdxl.config.schema import Rerun
from sdxl.run import ledger


def test_what_stands_behind_an_address_is_measured_again(load):
    """The same address may be another server tomorrow; who says `rerun=failed` means it."""
    server = ("backend=http", "backend.url=http://127.0.0.1:9")
    assert ledger.policy_of(load("backend=fake"), multirun=True) is Rerun.failed
    assert ledger.policy_of(load("backend=fake"), multirun=False) is Rerun.all
    assert ledger.policy_of(load(*server), multirun=True) is Rerun.all
    assert ledger.policy_of(load(*server, "rerun=failed"), multirun=True) is Rerun.failed


@pytest.fixture
def place(monkeypatch):
    """The place of these variables and cores, computed anew."""

    def of(cores=range(4), **variables):
        for name in ledger.THREADS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("os.cpu_count", lambda: 4)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {*cores}, raising=False)
        return ledger.place.__wrapped__()

    return of


def test_fewer_threads_or_cores_are_another_place(place):
    usual = place()
    found = [usual, place(OMP_NUM_THREADS="1"), place(OMP_NUM_THREADS="2"), place(cores=[0, 1])]
    assert len({*found}) == 4 and place() == usual
