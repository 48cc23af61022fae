"""Checksums are remembered by path, size and time, and computed again when these change."""

import hashlib
import os

from sdxl.core import digests


def expected(file):
    content = file.read_bytes()
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
    }


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one" * 1000)
    reads = []
    read = digests._read
    monkeypatch.setattr(digests, "_read", lambda path: reads.append(path) or read(path))
    assert digests.of(file) == expected(file) == digests.of(file)
    assert len(reads) == 1
    facts = file.stat()
    file.write_bytes(b"two" * 1000)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert digests.of(file) == expected(file)
    assert len(reads) == 2


def test_a_damaged_memory_and_an_unwritable_store_cost_only_time(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"x")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/digests.json").write_text("{")
    assert digests.of(file) == expected(file)
    monkeypatch.setenv("SDXL_STORE", str(file / "no folder"))
    assert digests.of(file) == expected(file)
