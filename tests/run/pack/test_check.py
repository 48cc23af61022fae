"""How near the other tool's pictures must be: to fp noise, or to that of the quantization."""

import pytest

from sdxl.core.record import Comparison, Record
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


def test_an_outcome_in_words():
    assert check.Outcome(False, "no tool").said() == "not verified: no tool"
    told = check.Outcome(True, "", 2, None, 0, 30.0, {"onnxruntime": "1"}).said()
    assert "2 of the record's pictures drawn by onnxruntime 1: equal" in told
