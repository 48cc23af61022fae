"""The check of a submission's tree: every way to spoil one is noticed."""

import json
import shutil

import pytest

from sdxl.bench.mlperf.submission import command
from sdxl.bench.mlperf.submission.check import check
from tests.bench.mlperf.submission.official import V61, words_only

RESULTS = "closed/Us/results/box/stable-diffusion-xl"
DETAIL = "performance/run_1/mlperf_log_detail.txt"


def replace(old, new):
    def change(path):
        text = path.read_text()
        assert old in text, path
        path.write_text(text.replace(old, new))

    return change


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


SPOILED = [  # what, how, what the check says of it
    (f"{RESULTS}/Offline/README.md", remove, "missing"),
    (f"{RESULTS}/Offline/user.conf", remove, "missing"),
    (f"{RESULTS}/Offline/user.conf", lambda p: p.write_text(""), "empty"),
    (f"{RESULTS}/Offline/measurements.json", remove, "missing or not a JSON object"),
    (f"{RESULTS}/Offline/measurements.json", replace('"No"', '""'), "retraining"),
    (f"{RESULTS}/Offline/accuracy/mlperf_log_accuracy.json", remove, "missing"),
    (f"{RESULTS}/Offline/accuracy/mlperf_log_accuracy.json",
     lambda p: p.write_text("x" * 10241), "not truncated"),
    (f"{RESULTS}/Offline/accuracy/accuracy.txt", replace("hash=", "md5="), "no line hash"),
    (f"{RESULTS}/Offline/accuracy/accuracy.txt", replace("23.5", "23.96"), "FID_SCORE 23.96"),
    (f"{RESULTS}/Offline/accuracy/accuracy.txt", replace("23.5", "22.9"), "FID_SCORE 22.9"),
    (f"{RESULTS}/Offline/accuracy/accuracy.txt", replace("31.75", "31.82"), "CLIP_SCORE 31.82"),
    (f"{RESULTS}/Offline/accuracy/accuracy.txt", replace("31.75", "31.60"), "CLIP_SCORE 31.60"),
    (f"{RESULTS}/Offline/accuracy/mlperf_log_detail.txt",
     replace('"effective_accuracy_sample_count", "value": 5000',
             '"effective_accuracy_sample_count", "value": 4999'), "accuracy samples"),
    (f"{RESULTS}/Offline/TEST01", remove, "missing"),
    (f"{RESULTS}/Offline/TEST04", remove, "missing"),
    (f"{RESULTS}/Offline/TEST01/verify_accuracy.txt", replace("PASS", "FAIL"), "TEST PASS"),
    (f"{RESULTS}/Offline/TEST04/performance/run_1/more.txt", lambda p: p.write_text("x"),
     "has no place here"),
    (f"{RESULTS}/Offline/TEST04/{DETAIL}", replace(': "VALID"', ': "INVALID"'), "INVALID"),
    (f"{RESULTS}/Offline/{DETAIL}", replace(': "VALID"', ': "INVALID"'), "INVALID"),
    (f"{RESULTS}/Offline/{DETAIL}", replace(": 600000", ": 60000"), "min_duration_ms"),
    (f"{RESULTS}/Offline/{DETAIL}", replace("2085463073848966840", "1"), "seeds"),
    (f"{RESULTS}/Offline/{DETAIL}",
     replace('"effective_performance_sample_count", "value": 5000',
             '"effective_performance_sample_count", "value": 64'), "performance_sample_count"),
    (f"{RESULTS}/Offline/{DETAIL}",
     replace('"effective_samples_per_query", "value": 5000',
             '"effective_samples_per_query", "value": 500'), "samples per query"),
    (f"{RESULTS}/Offline/{DETAIL}", lambda p: p.write_text(p.read_text()[:3000]), "stops half-way"),
    (f"{RESULTS}/SingleStream/{DETAIL}",
     replace('"early_stopping_met", "value": true', '"early_stopping_met", "value": false'),
     "early stopping"),
    (f"{RESULTS}/SingleStream", remove, "must have it"),
    (f"{RESULTS}/MultiStream", lambda p: p.mkdir(), "unknown scenario"),
    (f"{RESULTS}/Offline/performance/power", lambda p: p.mkdir(), "empty"),
    ("closed/Us/src", remove, "missing"),
    ("closed/Us/systems/box.json", remove, "missing or not a JSON object"),
    ("closed/Us/systems/box.json", replace('"Us"', '"You"'), "submitter is You"),
    ("closed/Us/systems/box.json", replace('"available"', '"soon"'), "status is soon"),
    ("closed/Us/systems/box.json", replace('"cooling": "told"', '"cooling": ""'), "cooling"),
    ("closed/Us/systems/box.json", replace('"cooling"', '"colling"'), "no field cooling"),
    ("half-open", lambda p: p.mkdir(), "a division is one of"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "what"), SPOILED, ids=words_only)
def test_a_spoiled_tree_is_noticed(tree, tmp_path, name, change, what):
    """The first ones fail the official checker too; it lets INVALID results pass."""
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("sdxl", "conf"))
    assert not check(copy, V61)
    change(copy / name)
    found = check(copy, V61)
    assert any(what in each.text for each in found), found


def test_the_check_is_a_command_of_its_own(tree, tmp_path, capsys):
    assert command.main(["check", str(tree)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "ok"
    assert command.main(["check", str(tree), "--round", "v6.0"]) == 1
    assert "seeds" in capsys.readouterr().err
    assert command.main(["check", str(tmp_path)]) == 1
    assert command.main(["check", str(tmp_path / "nowhere")]) == 2
