"""Disks that cannot take what a command makes are found before it begins."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from sdxl.core import disk, store
from sdxl.core.errors import SdxlError, UserError
from tests.conftest import ROOT

FAST = ("backend=fake", "limit=8", "scenario.min_duration_ms=0", "backend.sample_ms=0")
USAGE = namedtuple("USAGE", "total used free")
POWERS = "-dac_override,-dac_read_search,-fowner,-chown"


@pytest.fixture
def powerless():
    """A command line without root's right to ignore permissions."""
    if os.getuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root, and no setpriv")
    return ["setpriv", f"--bounding-set={POWERS}", f"--inh-caps={POWERS}"]


def test_a_folder_that_can_be_written_has_room_and_nothing_is_left(tmp_path):
    assert disk.room(tmp_path / "not" / "there", 1 << 20, "fix") == []
    assert not list(tmp_path.iterdir())


def test_a_full_disk_and_one_with_a_quota(tmp_path, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    (problem,) = disk.room(tmp_path, 1 << 60, "x=FOLDER")
    assert "too full" in problem.what and problem.fix == "x=FOLDER"
    with pytest.raises(SdxlError) as full:
        disk.store_ready(1 << 60)
    assert full.value.exit_code == 1 and "SDXL_STORE=" in str(full.value)

    def over_quota(**_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", over_quota)
    assert "too full" in disk.room(tmp_path, 1, "")[0].what


def test_a_disk_that_never_answers_is_not_waited_for(tmp_path, monkeypatch):
    """As a network disk whose server is gone: every question about it hangs."""
    never = threading.Event()
    monkeypatch.setattr(disk, "PATIENCE_S", 0.1)
    monkeypatch.setattr(disk, "existing", lambda _: never.wait())
    (problem,) = disk.room(tmp_path, 0, "fix")
    never.set()
    assert "does not answer" in problem.what


def test_a_library_that_finds_the_disk_full_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))

    def build(folder):
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(SdxlError, match="no space left"):
        store.get("kind", "key", build, settings={})
    assert not list((tmp_path / "tmp").iterdir())


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(powerless, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    environment = os.environ | {"SDXL_STORE": str(closed / "store"), "PYTHONPATH": str(ROOT)}
    quick = ["quality=none", "tracking=off", "model=tiny_random"]
    for number, (script, words) in enumerate(
        [
            ("run.py", [*FAST, *quick]),
            ("run.py", ["-m", *FAST, *quick, "seed=1,2"]),
            ("quantize.py", ["quant=int8", "calib_size=1", "model=tiny_random"]),
            ("export.py", ["backend=ort", "model=tiny_random"]),
            ("train.py", ["train=smoke", "tracking=off"]),
        ]
    ):
        out = tmp_path / f"out{number}"
        folders = [f"hydra.run.dir={out}", f"hydra.sweep.dir={out}"]
        line = [*powerless, sys.executable, str(ROOT / script), *words, *folders]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode, said["exit_code"], said["status"]) == (2, 2, "failed"), script
        assert f"{closed} cannot be written" in done.stderr and "SDXL_STORE=" in done.stderr
        assert "Traceback" not in done.stderr and done.stderr.count("--- error") == 1
        assert not list(out.rglob("record.json")) and not list(out.rglob("worker.log"))


def test_existing_is_the_nearest_folder(tmp_path):
    assert disk.existing(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").write_text("")
    assert disk.existing(tmp_path / "file" / "x") == tmp_path
    assert disk.existing(Path("/nowhere/at/all")) == Path("/")


def test_a_user_can_fix_what_cannot_be_written(powerless, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.os, "access", lambda *_: False)
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    with pytest.raises(UserError, match="cannot be written"):
        disk.store_ready()
    assert shutil.disk_usage(tmp_path).free > 0
