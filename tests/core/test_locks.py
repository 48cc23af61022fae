"""A lock that another holds: whoever waits says so, again and again, and then has it."""

import threading

from sdxl.core import locks


def test_a_process_that_waits_is_heard(tmp_path, monkeypatch):
    """A watched child that said nothing would be killed as stalled."""
    heard, twice = [], threading.Event()

    def hear(message):
        heard.append(message)
        if len(heard) == 2:
            twice.set()

    def first():
        with locks.held(tmp_path / "x.lock", "the engine x"):
            taken.set()
            assert twice.wait(20)

    taken = threading.Event()
    monkeypatch.setattr(locks, "HEARD_EVERY_S", 0.2)
    monkeypatch.setattr(locks, "hear", hear)
    holder = threading.Thread(target=first)
    holder.start()
    assert taken.wait(20)
    with locks.held(tmp_path / "x.lock", "the engine x"):
        assert twice.is_set()
    holder.join()
    assert heard[0]["phase"] == "waiting for the engine x, which another process makes"
    assert heard[0] != heard[1], "a report that changes is a sign of life"


def test_nobody_need_listen(tmp_path):
    with locks.held(tmp_path / "x.lock", "x"), locks.held(tmp_path / "y.lock", "y"):
        assert {path.name for path in tmp_path.glob("*.lock")} == {"x.lock", "y.lock"}
