"""LoadGen's own logs: every sample set, the verdict with its reasons, damaged files."""

import json
import shutil

import pytest

from sdxl.bench import logs
from sdxl.core.errors import SdxlError

SETS = [  # folder, scenario, accuracy mode, valid, part of the reason
    ("out_Offline", "Offline", False, True, ""),
    ("out_Server", "Server", False, True, ""),
    ("out_SingleStream", "SingleStream", False, False, "Ran out of generated queries"),
    ("out_MultiStream", "MultiStream", False, True, ""),
    ("acc_Offline", "Offline", True, True, ""),
    ("inv_off", "Offline", False, False, "Increase expected QPS"),
    ("srv_bad", "Server", False, False, "Reduce target QPS to improve latency"),
    ("ss_few", "SingleStream", False, False, "Need to process at least 64 queries"),
    # LoadGen itself prints VALID here, in spite of an error that it counts: we do not.
    ("t04_ct1", "Offline", False, False, "Multiple conf files"),
    ("t04_ct2", "Offline", False, True, ""),
]


@pytest.fixture
def samples(data):
    return data / "loadgen_samples"


@pytest.mark.parametrize(("name", "scenario", "accuracy", "valid", "reason"), SETS)
def test_every_sample_set_gets_loadgens_verdict(samples, name, scenario, accuracy, valid, reason):
    found = logs.read(samples / name)
    ours, why = logs.verdict(found["detail"], accuracy)
    assert ours is valid, why
    assert reason in why and bool(why) is not ours
    assert found["detail"]["effective_scenario"] == scenario
    if not accuracy:
        assert found["summary"]["Scenario"] == scenario
        loadgens = found["summary"]["Result is"]
        assert loadgens == ("VALID" if ours or name == "t04_ct1" else "INVALID")


def test_no_sample_set_is_left_out(samples):
    folders = {path.name for path in samples.iterdir() if path.is_dir()}
    assert folders == {name for name, *_ in SETS}


def test_names_and_values_are_loadgens_own(samples):
    found = logs.read(samples / "out_Server")
    detail, summary = found["detail"], found["summary"]
    assert detail["result_validity"] == "VALID"
    rate = "Completed samples per second"
    assert float(summary[rate]) == pytest.approx(detail["result_completed_samples_per_sec"], 1e-2)
    assert isinstance(detail["result_99.00_percentile_latency_ns"], int)
    assert detail["errors"] == []


def test_errors_make_a_valid_result_invalid():
    detail = {"result_validity": "VALID", "errors": ["lost: 3 samples"], "warnings": ["w"]}
    assert logs.verdict(detail, accuracy=False) == (False, "LoadGen error: lost: 3 samples")
    assert logs.verdict(detail, accuracy=True)[0] is False


def test_no_verdict_at_all_is_invalid():
    valid, reason = logs.verdict({"errors": []}, accuracy=False)
    assert not valid and "None" in reason


def test_every_prefix_of_a_log_is_read_or_refused(samples, tmp_path):
    """A killed process stops anywhere, also inside a line or a character."""
    whole = (samples / "out_Offline/mlperf_log_detail.txt").read_bytes()
    reference = logs.parse_detail(samples / "out_Offline/mlperf_log_detail.txt")
    path = tmp_path / "mlperf_log_detail.txt"
    for end in [*range(0, len(whole), 997), len(whole) - 2]:
        path.write_bytes(whole[:end])
        found = logs.parse_detail(path)
        assert found.keys() <= reference.keys()
    for number, line in enumerate(whole.splitlines()):
        assert b":::MLLOG " in line, number


def test_a_half_written_test_is_refused(samples, tmp_path):
    with pytest.raises(SdxlError, match="left no logs"):
        logs.read(tmp_path)
    shutil.copytree(samples / "out_Offline", tmp_path / "half")
    detail = tmp_path / "half/mlperf_log_detail.txt"
    text = detail.read_text()
    detail.write_text(text[: len(text) // 2])
    with pytest.raises(SdxlError, match="stops half-way"):
        logs.read(tmp_path / "half")


def test_lines_that_are_not_loadgens_are_passed_over(tmp_path):
    path = tmp_path / "mlperf_log_detail.txt"
    entry = {"key": "a", "value": 1, "metadata": {"is_error": False, "is_warning": False}}
    good = f":::MLLOG {json.dumps(entry)}"
    bad = [":::MLLOG {", ':::MLLOG {"key": "b"}', "hello", ":::MLLOG 7", ":::MLLOG null", ""]
    path.write_text("\n".join([*bad, good, good[:30]]))
    assert logs.parse_detail(path) == {"a": 1, "errors": [], "warnings": []}


def test_errors_and_warnings_are_kept_apart(tmp_path):
    def line(key, **metadata):
        entry = {"key": key, "value": "v", "metadata": metadata}
        return f":::MLLOG {json.dumps(entry)}\n"

    path = tmp_path / "mlperf_log_detail.txt"
    path.write_text(line("e", is_error=True) + line("w", is_error=False, is_warning=True))
    assert logs.parse_detail(path) == {"errors": ["e: v"], "warnings": ["w: v"]}
