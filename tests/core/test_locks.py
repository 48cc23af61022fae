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


def test_where_nobody_listens_the_terminal_is_told_once(tmp_path, monkeypatch, capsys):
    file, waiting = tmp_path / "x.lock", threading.Event()

    def second():
        with locks.held(file, "the tar x"):
            pass

    monkeypatch.setattr(locks, "HEARD_EVERY_S", 0.05)
    say = locks.terminal.say
    monkeypatch.setattr(locks.terminal, "say", lambda text: (say(text), waiting.set()))
    with locks.held(file, "the tar x"):
        other = threading.Thread(target=second)
        other.start()
        assert waiting.wait(20)
        other.join(0.3)
        assert other.is_alive()
    other.join(20)
    said = "waiting for the tar x, which another process makes\n"
    assert capsys.readouterr().err == said
