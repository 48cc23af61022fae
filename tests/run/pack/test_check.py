"""How near the other tool's pictures must be: to fp noise, or to that of the quantization."""

import shutil
import sys

import pytest

from sdxl.core.errors import SdxlError
from sdxl.core.paths import ASSETS
from sdxl.core.record import Comparison, Image, Record
from sdxl.run.pack import check


def record(**compared):
    made = Record(key="k", config={}, command="", status="ok")
    if compared:
        made.quality.baseline = Comparison(**compared)
    return made


@pytest.mark.parametrize(
    ("compared", "quantized", "least"),
    [
        ({}, False, 30),
        ({"psnr_db": 25.0, "images": 4}, False, 30),
        ({"psnr_db": 25.0, "images": 4}, True, 19),
        ({"psnr_db": 45.0, "images": 4}, True, 30),
        ({}, True, 20),
    ],
)
def test_the_least_psnr_follows_the_record(compared, quantized, least):
    assert check.least_db(record(**compared), quantized) == least


@pytest.mark.parametrize(
    ("line", "missing"),
    [("import no_such_tool", True), ("from json import no_such_name", False)],
)
def test_a_tool_that_is_broken_is_not_called_absent(tmp_path, line, missing):
    shutil.copyfile(ASSETS / "pack/verify.py", tmp_path / "verify.py")
    (tmp_path / "draw.py").write_text(line + "\n")
    if missing:
        found = check.verify(tmp_path, sys.executable, 30, "pip install it")
        assert found.reason.startswith("no_such_tool is not installed; pip install it")
    else:
        with pytest.raises(SdxlError, match="cannot draw with the pack") as refused:
            check.verify(tmp_path, sys.executable, 30, "")
        assert "no_such_name" in str(refused.value)


def test_a_picture_that_is_gone_is_missed_before_anything_is_made(tmp_path):
    made = record()
    made.images = [Image(0, "0.png", "", "a cube", 0), Image(1, "1.png", "", "a cone", 1)]
    (tmp_path / "0.png").touch()
    assert check.chosen(made, tmp_path, 1) == made.images[:1]
    with pytest.raises(SdxlError, match="is gone"):
        check.chosen(made, tmp_path, 2)


def test_an_outcome_in_words():
    assert check.Outcome(False, "no tool").said() == "not verified: no tool"
    told = check.Outcome(True, "", 2, None, 0, 30.0, {"onnxruntime": "1"}).said()
    assert "2 of the record's pictures drawn by onnxruntime 1: equal" in told


def test_a_tool_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "LIMIT_S", 0.2)
    (tmp_path / "verify.py").write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(SdxlError, match="the other tool does not end") as refused:
        check.verify(tmp_path, sys.executable, 30, "")
    assert "--check" in str(refused.value)
