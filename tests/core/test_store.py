"""The store: whole artifacts or none, built once, whatever dies on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from sdxl.core import store
from sdxl.core.errors import SdxlError, UserError
from sdxl.core.types import Build
from tests.conftest import ROOT

KEY = "0123456789abcdef"


def build(folder):
    (folder / "deep").mkdir()
    (folder / "a.txt").write_text("hello")
    (folder / "deep/b.bin").write_bytes(b"\0" * 10)
    return {"versions": {"torch": "2"}}


def get(make=build, **options):
    return store.get("statistics", KEY, make, settings={"level": 2}, **options)


def test_an_artifact_lists_its_files_with_hash_and_size():
    found = get(parents=["parent"])
    stored = json.loads((found.path / "manifest.json").read_text())
    assert found.path == store.root() / "statistics" / KEY
    assert stored["settings"] == {"level": 2} and stored["parents"] == ["parent"]
    assert stored["versions"] == {"torch": "2"} and stored["seconds"] >= 0
    assert set(stored["files"]) == {"a.txt", "deep/b.bin"}
    assert stored["files"]["a.txt"] == {
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "bytes": 5,
    }


def test_the_second_asker_gets_the_first_ones_work():
    first = get()
    assert get(lambda _: pytest.fail("built twice")) == first


def test_never_build_names_the_command():
    with pytest.raises(UserError) as caught:
        get(allow=Build.never, otherwise="quantize.py first")
    (problem,) = caught.value.problems
    assert problem.fix == "build=auto, or quantize.py first"
    get()
    assert get(allow=Build.never).manifest.key == KEY


def test_a_build_that_fails_leaves_nothing():
    def half(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        get(half)
    assert store.find("statistics", KEY) is None
    assert not list((store.root() / "tmp").iterdir())
    assert get().manifest.key == KEY


PROCESS = """
import sys, time
from pathlib import Path
from sdxl.core import store

def build(folder):
    (folder / "big").write_text("half")
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(float(sys.argv[2]))
    return {}

store.get("statistics", "0123456789abcdef", build, settings={})
"""


def start(log, seconds):
    line = [sys.executable, "-c", PROCESS, str(log), str(seconds)]
    return subprocess.Popen(line, cwd=ROOT)


def wait_for(path, timeout=100):
    until = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)


def test_a_killed_build_leaves_nothing_behind(tmp_path):
    process = start(tmp_path / "log", 60)
    wait_for(tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert store.find("statistics", KEY) is None
    assert get().manifest.files.keys() == {"a.txt", "deep/b.bin"}
    assert not list((store.root() / "tmp").iterdir()), "the dead build's files are cleared away"


def test_two_processes_build_once(tmp_path):
    processes = [start(tmp_path / "log", 0.5) for _ in range(2)]
    assert [process.wait(100) for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "a.txt").write_text("hell"), "a.txt is missing or truncated"),
        (lambda p: (p / "deep/b.bin").unlink(), "deep/b.bin is missing or truncated"),
        (lambda p: (p / "manifest.json").write_text('{"ki'), "manifest.json cannot be read"),
        (lambda p: (p / "manifest.json").write_text("{}"), "manifest.json cannot be read"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    ],
    ids=["truncated", "missing", "half manifest", "empty manifest", "no manifest"],
)
def test_damage_is_named_with_the_way_out(damage, said):
    path = get().path
    damage(path)
    with pytest.raises(SdxlError) as caught:
        get()
    assert said in str(caught.value) and f"rm -r {path}" in str(caught.value)


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed, in order."""
    names, plain = [], store.sha256
    monkeypatch.setattr(store, "sha256", lambda path: names.append(path.name) or plain(path))
    return names


def linked(parent, key):
    """A child of `parent` with a hard link to its file, a copy of it, and a file of its own."""

    def make(folder):
        os.link(parent.path / "a.txt", folder / "link.txt")
        shutil.copy2(parent.path / "a.txt", folder / "copy.txt")
        (folder / "own.txt").write_text("own")
        return {}

    return store.get("qdq", key, make, settings={}, parents=[parent.manifest.key, "foreign"])


def test_what_is_linked_from_a_parent_is_hashed_once(hashed):
    parent = get()
    assert hashed == ["a.txt", "b.bin"]
    children = [linked(parent, f"{n}" * 16) for n in (1, 2)]
    assert hashed[2:] == ["copy.txt", "own.txt"] * 2
    for child in children:
        for name in ("link.txt", "copy.txt"):
            assert child.manifest.files[name] == parent.manifest.files["a.txt"]


def test_a_parents_file_that_changed_since_is_hashed_again(hashed):
    parent = get()
    file = parent.path / "a.txt"
    file.write_text("HELLO")
    later = (parent.path / "manifest.json").stat().st_mtime_ns + 1
    os.utime(file, ns=(later, later))
    child = linked(parent, "1" * 16)
    assert "link.txt" in hashed
    assert child.manifest.files["link.txt"]["sha256"] == store.sha256(file)


def test_an_unwritable_store_is_said_plainly(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SDXL_STORE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        get()


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


def test_store_paths_point_into_the_store(tmp_path):
    assert store.resolve("store:sdxl/unet") == tmp_path / "store/sdxl/unet"
    assert store.resolve("/data/sdxl").as_posix() == "/data/sdxl"


@pytest.mark.parametrize(
    ("path", "is_there"),
    [("org/name", True), ("store:org/name", False), ("./x/y", False), ("a/b/c", False),
     ("models/sdxl", False)],
)  # fmt: skip
def test_a_path_on_the_hub_is_no_folder_here(tmp_path, monkeypatch, path, is_there):
    (tmp_path / "models/sdxl").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert store.on_hub(path) is is_there


def test_a_folder_that_nobody_means_is_refused(tmp_path, monkeypatch):
    """`model.path=/`: neither an hour of hashing nor a traceback."""
    monkeypatch.setattr(store, "MOST_FILES", 3)
    for name in "abcd":
        (tmp_path / name).write_text(name)
    assert store.fingerprint(tmp_path / "a")
    assert store.fingerprint(tmp_path)
    (tmp_path / "e").write_text("e")
    with pytest.raises(UserError, match="holds too much"):
        store.fingerprint(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/proc/1/cwd")

    monkeypatch.setattr(store.Path, "rglob", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        store.fingerprint(tmp_path)
