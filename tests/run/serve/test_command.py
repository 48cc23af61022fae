"""The command: what is served, how it ends, what is refused before anything is loaded."""

import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from sdxl.bench import generators
from sdxl.core import ends, isolate, records
from sdxl.core.errors import UserError
from sdxl.core.record import Record
from sdxl.run.serve import command
from sdxl.run.serve.engine import Engine
from tests.run.serve import odd
from tests.run.serve.conftest import configured, odd_pool

import _serve  # isort: skip


@pytest.fixture
def refused(capsys):
    """Run the command in this process, which must refuse; its reason and what it showed."""

    def run(*words):
        assert command.main([*words]) == 2
        out, err = capsys.readouterr()
        return json.loads(out.splitlines()[-1])["reason"], err

    return run


def test_a_signal_ends_it_when_what_was_accepted_is_drawn():
    """Loaded, asked, told to end in the middle: the answer comes, new clients do not."""
    codes = []
    with _serve.Served("backend=fake", "backend.latency_ms=1500", "--batch", "2") as served:

        def one():
            codes.append(_serve.ask(_serve.connect(served.url), {"prompt": "x", "n": 4})[0])

        client = threading.Thread(target=one)
        client.start()
        time.sleep(0.5)
        served.stop()
        client.join(60)
        assert _serve.status(served.url, "/health") == 0
    assert codes == [200] and served.code == 0
    assert served.line["status"] == "ok" and served.line["images"] == 4
    assert served.line["requests"] == {"200": 1} and "Traceback" not in served.said()


def test_workers_that_load_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(isolate, "before_leaving", [])
    monkeypatch.setattr(ends, "again", lambda: None)
    monkeypatch.setattr(odd, "open_odd", odd.open_late)
    monkeypatch.setattr(generators, "open_pool", odd_pool)
    loading = command.Loading(Engine(configured(), {}, 8), SimpleNamespace(should_exit=True))
    loading.start()
    while not isolate.before_leaving:
        time.sleep(0.01)
    loading.end(False)
    assert not loading._thread.is_alive()


def test_what_cannot_be_loaded_ends_it_with_one_panel():
    with (
        pytest.raises(SystemExit, match="failed") as stop,
        _serve.Served("backend=fake", "backend.fail=raises", "backend.fail_at=1"),
    ):
        pass
    assert "the fake backend was asked to fail" in str(stop.value)


def test_the_setting_is_that_of_the_record_with_words_on_top(tmp_path):
    said = "python run.py backend=fake backend.sample_ms=7 scenario=Server scenario.max_wait_ms=9"
    records.write(Record(key="k", config={}, command=f"{said} limit=3"), tmp_path)
    given = command._parser().parse_intermixed_args([str(tmp_path), "seed=4", "--devices", "0,2"])
    config = command.configure(given)
    assert config.backend.sample_ms == 7 and config.seed == 4 and config.backend.devices == [0, 2]
    assert config.scenario.max_wait_ms == 50.0, "how it was measured is not what draws"
    assert config.backend.batch_size == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limit=3",), "`limit=3` would be ignored"),
        (("one", "two"), "one record can be served"),
        (("nowhere",), "no such record"),
        (("model.stps=3",), "model.stps"),
        (("--port", "70000"), "70000 is not from 0 to 65535"),
        (("--devices", "0,0"), "does not name each device once"),
        (("--batch", "x"), "invalid number value"),
        (("--devices", "x"), "invalid list of devices value"),
        (("--max-wait-ms", "-1"), "-1 is not at least 0"),
        (("--replicas", "2", "backend=fake"), "`--replicas` would be ignored"),
        (("--ray", "--devices", "0", "backend=fake"), "`--devices` would be ignored"),
        (("--ray", "backend=fake", "backend.devices=[0,1]"), "`backend.devices` would be ignored"),
        (("--host", "192.0.2.1", "backend=fake"), "other machines could draw without a token"),
        (("backend=fake", "backend.batch_size=2", "--batch", "4"), "`--batch` and `backend.batch"),
        (("++backend.devices=[0]", "--devices", "0,1"), "`--devices` and `backend.devices` say"),
    ],
)
def test_mistakes_are_refused(refused, monkeypatch, words, said):
    monkeypatch.delenv(command.SERVE_TOKEN, raising=False)
    assert said in refused(*words)[0]


def test_a_taken_port_is_named(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        reason, err = refused("backend=fake", "--port", str(taken.getsockname()[1]))
    assert "cannot listen" in reason and "--port 0" in err


def test_other_machines_are_let_in_with_a_token_only(monkeypatch):
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        command._guarded(host, None)
    for host in ("::", "example.org", "10.0.0.1"):
        command._guarded(host, "token")
        with pytest.raises(UserError, match="without a token"):
            command._guarded(host, None)


def test_names_would_be_ignored_where_anybody_with_a_token_may_ask(refused, monkeypatch):
    monkeypatch.setenv(command.SERVE_TOKEN, "word-1")
    words = ("backend=fake", "--host", "0.0.0.0", "--allow-host", "lab")
    assert "`--allow-host` would be ignored" in refused(*words)[0]
    names = command.hosts.names
    assert names("127.0.0.1", ["Lab"]) == {"lab"} and names("127.0.0.1", ["*"]) is None
    assert names("0.0.0.0", []) is None


def test_a_token_that_no_header_carries_is_refused(refused, monkeypatch):
    monkeypatch.setenv(command.SERVE_TOKEN, " word-1\n")
    assert command.serve_token() == "word-1"
    monkeypatch.setenv(command.SERVE_TOKEN, "two\nlines")
    assert "is no bearer token" in refused("backend=fake")[0]


def test_missing_packages_are_one_message(monkeypatch):
    monkeypatch.setattr(command, "installed", lambda name: name != "uvicorn")
    with pytest.raises(UserError, match="uvicorn") as found:
        command.needs(command.PACKAGES, "serve")
    assert found.value.problems[0].fix.endswith("-e '.[serve]'")
