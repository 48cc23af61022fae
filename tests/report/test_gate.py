"""A gate for the CI of a model: what passes, what fails, and what was never measured."""

import json
from xml.etree import ElementTree

import pytest

from sdxl.report import gate
from tests import sweep_of_records as planted


@pytest.fixture
def place(tmp_path):
    """Write a planted record into a folder of its own."""

    def write(name, speed=2.0, psnr=None, accuracy=None, **changes):
        whole = planted.record(speed, **changes)
        if psnr:
            whole["config"]["quant"] |= {"format": "int8", "name": "int8"}
            whole["quality"] = {"baseline": {"record": "x", "images": 4, "psnr_db": psnr}}
        if accuracy:
            scores = {"metrics": {"attribute_accuracy": accuracy}, "images": 4}
            whole.setdefault("quality", {})["scores"] = scores
        folder = tmp_path / name
        folder.mkdir()
        (folder / "record.json").write_text(json.dumps(whole))
        return folder

    return write


@pytest.fixture
def run(capsys):
    def run(*words):
        code = gate.main([*map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def failing(line):
    return {each["check"] for each in line["checks"] if not each["passed"]}


def test_limits_pass_and_fail(place, run):
    good, bad = place("good", psnr=44.0, accuracy=0.9), place("bad", psnr=31.0, accuracy=0.5)
    asked = ("--min-psnr", 40, "--min-accuracy", 0.8, "--min-rate", 1.5)
    code, line = run(good, *asked)
    assert (code, line["status"], line["failing"], len(line["checks"])) == (0, "ok", 0, 4)
    code, line = run(good, bad, *asked)
    assert (code, line["status"], line["failing"]) == (1, "failed", 2)
    assert failing(line) == {"PSNR", "attribute accuracy"}
    assert "31.0 dB" in line["reason"]


def test_what_was_not_measured_does_not_pass(place, run):
    code, line = run(place("none"), "--max-joules", 5)
    assert code == 1 and failing(line) == {"energy"} and "not measured" in line["reason"]


def test_an_invalid_record_fails(place, run):
    folder = place("invalid", psnr=44.0, status="invalid", reason="too short")
    code, line = run(folder, "--min-psnr", 40)
    assert code == 1 and failing(line) == {"valid"} and "too short" in line["reason"]


@pytest.mark.parametrize(
    ("speed", "psnr", "accuracy", "words", "fails"),
    [
        (1.97, 43.5, 0.89, (), set()),
        (1.80, 43.5, 0.89, (), {"speed"}),
        (1.80, 43.5, 0.89, ("--max-slowdown", 0.2), set()),
        (2.50, 42.0, 0.89, (), {"PSNR"}),
        (2.50, 42.0, 0.80, ("--max-psnr-drop", 3), {"attribute accuracy"}),
    ],
)
def test_beside_another_record(place, run, speed, psnr, accuracy, words, fails):
    before = place("before", 2.0, 44.0, 0.9)
    code, line = run(place("now", speed, psnr, accuracy), "--against", before, *words)
    assert failing(line) == fails and code == (1 if fails else 0)


def test_nothing_to_check_is_no_pass(place, run):
    code, line = run(place("training", training={"name": "lora"}), "--min-rate", 1)
    assert code == 2 and "nothing to check" in line["reason"]


def test_a_cell_that_repeats_another_is_left_out(place, run, tmp_path):
    place("0", psnr=44.0)
    performance = {"equal_to": str(tmp_path / "0" / "record.json")}
    place("1", status="skipped", reason="the same work as 0", performance=performance)
    code, line = run(tmp_path, "--min-psnr", 40)
    assert (code, line["records"], line["failing"]) == (0, 1, 0)


def test_identical_pictures_are_kept_up_with(place, run, tmp_path):
    def same(name):
        found = {"record": "x", "images": 4, "identical": 4}
        return place(name, psnr=None, quality={"baseline": found})

    before, far = same("before"), place("far", psnr=30.0)
    code, line = run(far, "--against", before)
    assert code == 1 and failing(line) == {"PSNR"} and "57.9 dB (there" in line["reason"]
    assert run(same("now"), "--against", before)[0] == 0


def test_a_distance_to_the_reference_asks_for_one(place, run):
    quality = {"reference": {"images": 4, "psnr_db": 40.0}}
    before = place("before", quality=quality)
    code, line = run(place("now", psnr=60.0), "--against", before)
    assert code == 1 and failing(line) == {"PSNR"} and "not measured" in line["reason"]


def test_simulated_speed_never_passes(place, run):
    folder = place("simulated", psnr=44.0)
    file = folder / "record.json"
    whole = json.loads(file.read_text())
    whole["performance"]["generator"] = {"simulated": True}
    file.write_text(json.dumps(whole))
    code, line = run(folder, "--min-rate", 0.1)
    assert code == 1 and "simulated" in line["reason"]


def test_junit_names_every_check(place, run, tmp_path):
    target = tmp_path / "gate.xml"
    run(place("bad", psnr=31.0), "--min-psnr", 40, "--junit", target)
    suite = ElementTree.parse(target).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["PSNR"]


@pytest.mark.parametrize("words", [(), ("--against", "nowhere")])
def test_mistakes_are_refused(place, run, words):
    code, line = run(place("good"), *words)
    assert code in (1, 2) and line["status"] == "failed"


@pytest.mark.slow
def test_four_bits_fail_where_eight_pass(cli, run):
    words = ("model=tiny", "quality=none", "model.steps=2", "model.height=64", "model.width=64",
             "rules=open", "limit=2", "scenario.min_duration_ms=0",
             "quant.report_prompts=0")  # fmt: skip
    done = cli("-m", *words, "quant=int8_weight_only,int4_weight_only", timeout=280)
    levels = [record["quality"]["baseline"]["psnr_db"] for record in done.records()]
    between = sum(levels) / 2
    assert levels[0] > levels[1] + 2
    good, bad = done.dir / "0", done.dir / "1"
    assert run(good, "--min-psnr", between)[0] == 0
    code, line = run(bad, "--min-psnr", between)
    assert code == 1 and failing(line) == {"PSNR"}
