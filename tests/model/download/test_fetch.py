"""Files over HTTP: resumed, checked, refused with the way out."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdxl.core.errors import FAILED, OK, USER
from sdxl.model.download import http
from tests.model.download.conftest import CONTENT, left, offered


def test_a_file_is_fetched_and_then_recognised(server, command, root):
    run = command([offered(server)])
    code, outcome, told = run()
    assert code == OK
    assert outcome["files"] == [
        {"path": str(root / "things/a.bin"), "state": "fetched", "bytes": len(CONTENT)}
    ]
    assert (root / "things/a.bin").read_bytes() == CONTENT
    assert left(root) == ["a.bin"]
    assert "licence: none" in told

    code, outcome, _ = run()
    assert code == OK
    assert outcome["files"][0]["state"] == "there"
    assert len(server.asked) == 1


def test_a_damaged_file_in_the_store_is_replaced(server, command, root):
    run = command([offered(server)])
    (root / "things").mkdir(parents=True)
    (root / "things/a.bin").write_bytes(CONTENT[:-1] + b"x")
    code, outcome, told = run()
    assert code == OK
    assert outcome["files"][0]["state"] == "fetched"
    assert "is replaced: sha256" in told


def test_cut_connections_are_resumed_where_they_broke(server, command, root):
    server.cuts = [100_000, 0, 300_000]
    code, _, _ = command([offered(server)])()
    assert code == OK
    assert (root / "things/a.bin").read_bytes() == CONTENT
    ranges = [asked.get("Range") for asked in server.asked]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]
    assert server.asked[1]["If-Range"] == '"one"'


def test_a_connection_that_never_gets_on_is_resumed_by_the_next_call(server, command, root):
    run = command([offered(server)])
    server.cuts = [1000, *[0] * http.ATTEMPTS]
    code, outcome, told = run()
    assert code == FAILED
    assert "keeps breaking off" in outcome["reason"]
    assert "1,000 bytes" in told
    assert left(root) == ["a.bin.part", "a.bin.part.etag"]

    server.cuts = []
    assert run()[0] == OK
    assert server.asked[-1]["Range"] == "bytes=1000-"
    assert left(root) == ["a.bin"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server, command, root):
    run = command([offered(server)])
    (root / "things").mkdir(parents=True)
    (root / "things/a.bin.part").write_bytes(b"of an older file")
    (root / "things/a.bin.part.etag").write_text('"zero"')
    assert run()[0] == OK
    assert server.asked[0]["If-Range"] == '"zero"'
    assert (root / "things/a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it(server, command, root):
    server.ranges, server.etag, server.cuts = False, 'W/"weak"', [5000]
    assert command([offered(server)])()[0] == OK
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=5000-"]
    assert "If-Range" not in server.asked[1]
    assert (root / "things/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_of_full_length_or_longer(server, command, root, extra):
    entry = offered(server)
    del entry["bytes"]  # as for a file of unknown size
    run = command([entry])
    (root / "things").mkdir(parents=True)
    (root / "things/a.bin.part").write_bytes(CONTENT + extra)
    assert run()[0] == OK
    assert len(server.asked) == (2 if extra else 1)
    assert (root / "things/a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_removes_the_part(server, command, root):
    entry = offered(server)
    server.files["/a.bin"] = CONTENT[::-1]
    code, outcome, told = command([entry])()
    assert code == FAILED
    assert "is not the file" in outcome["reason"]
    assert entry["sha256"] in told
    assert f"copy the thing to {root}/things" in told
    assert left(root) == []


def test_a_file_of_another_size_is_not_even_fetched(server, command, root):
    entry = offered(server)
    server.files["/a.bin"] = b"<html>sign in to the network</html>"
    code, _, told = command([entry])()
    assert code == FAILED
    assert "35 bytes are offered, the file has 1,048,576" in told
    assert left(root) == []


def test_a_missing_file_names_the_address_and_the_way_out(server, command, root):
    entry = offered(server)
    server.files.clear()
    code, outcome, told = command([entry])()
    assert code == FAILED
    assert f"{server.url}/a.bin: HTTP 404" in told
    assert f"copy the thing to {root}/things" in told
    assert "python -m sdxl download thing --from PATH" in told
    assert len(server.asked) == 1
    assert outcome["files"] == []


def test_the_second_address_is_tried(server, command):
    entry = offered(server)
    entry["urls"].insert(0, f"{server.url}/moved.bin")
    assert command([entry])()[0] == OK
    assert [asked["path"] for asked in server.asked] == ["/moved.bin", "/a.bin"]


def test_a_busy_server_is_asked_again(server, command):
    server.errors = [503, 429]
    assert command([offered(server)])()[0] == OK
    server.errors = [500] * http.ATTEMPTS
    code, _, told = command([offered(server, "b.bin")])()
    assert code == FAILED
    assert "HTTP 500" in told


def test_offline_is_one_message_that_says_what_to_copy_where(command, root):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [
        {"path": f"things/{name}", "urls": [f"http://127.0.0.1:{port}/{name}"]} for name in "abcde"
    ]
    code, outcome, told = command(files)()
    assert code == USER
    assert told.count("cannot be reached") == 1
    assert f"127.0.0.1:{port} cannot be reached: Connection refused" in told
    assert f"copy the thing to {root}/things" in told
    assert f"http://127.0.0.1:{port}/a" in told
    assert "and 2 more files" in told
    assert told.count("fetching") == 1  # a silent host is waited for once
    assert outcome["reason"].startswith("127.0.0.1")


def test_a_host_that_swallows_everything_is_not_waited_for(command, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_S", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/a"
        code, _, told = command([{"path": "things/a", "urls": [url]}])()
    assert code == USER
    assert "no answer for 0.2 s" in told


def test_the_other_files_are_fetched_when_one_fails(server, command, root):
    files = [offered(server, "a.bin"), offered(server, "b.bin")]
    del server.files["/a.bin"]
    code, outcome, _ = command(files)()
    assert code == FAILED
    assert [Path(file["path"]).name for file in outcome["files"]] == ["b.bin"]
    assert left(root) == ["b.bin"]


def test_interrupted_leaves_a_part_to_resume(server, command, root, monkeypatch):
    run = command([offered(server)])
    blocks = [b"x" * 10]

    def read(answer: Any) -> bytes:
        if blocks:
            return blocks.pop()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(http, "_read", read)
        code, outcome, told = run()
    assert (code, outcome["reason"]) == (FAILED, "interrupted")
    assert "goes on from here" in told
    assert (root / "things/a.bin.part").read_bytes() == b"x" * 10


def test_a_disk_too_small_is_said_before_the_download(server, command, root, monkeypatch):
    usage = shutil.disk_usage(root.parent)._replace(free=1000)
    monkeypatch.setattr(http.shutil, "disk_usage", lambda path: usage)
    code, _, told = command([offered(server)])()
    assert code == FAILED
    assert "no space left on the disk" in told
    assert left(root) == []


def test_a_disk_that_fills_up(server, command, monkeypatch):
    def full(answer: Any) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(http, "_read", full)
    code, outcome, _ = command([offered(server)])()
    assert code == FAILED
    assert "no space left" in outcome["reason"]


def test_a_store_that_cannot_be_written(server, command, root):
    root.write_text("a file in the way")
    code, _, told = command([offered(server)])()
    assert code == USER
    assert "cannot be written" in told
    assert "SDXL_STORE=FOLDER" in told


def test_two_processes_take_turns(server, command, root):
    lock = root / "tmp" / "download-thing.lock"
    lock.parent.mkdir(parents=True)
    hold = f"import filelock, time; held = filelock.FileLock({str(lock)!r}); held.acquire()"
    wait = "print(1, flush=True); time.sleep(0.5)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; {wait}"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        code, _, told = command([offered(server)])()
    assert code == OK
    assert "another process is at it" in told
