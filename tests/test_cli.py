"""The command line as a user meets it: panels, the JSON line, exit codes, fast information."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FAST = ("backend=fake", "limit=8", "scenario.min_duration_ms=0", "backend.sample_ms=0")


def refused(done, *expected):
    """A user error: exit 2, one panel, no traceback, no record, JSON as the last line."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.err + done.out
    assert done.err.count("--- error") == 1
    assert done.json["status"] == "failed" and done.json["exit_code"] == 2
    assert done.json["record"] is None
    for text in expected:
        assert text in done.err


def test_a_good_run_ends_with_one_json_line(cli):
    done = cli(*FAST)
    assert done.code == 0, done.err
    assert done.json["status"] == "ok" and done.json["exit_code"] == 0
    assert done.json["record"] == str(done.dir / "record.json")
    assert done.json["images_per_second"] > 0
    lines = done.out.splitlines()
    assert sum(line.startswith("{") for line in lines) == 1
    assert "ok (VALID)" in done.out and str(done.dir / "images.png") in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["scenaro=Server"], ["there is no key `scenaro`", "did you mean"]),
        (["model.stpes=20"], ["there is no key `model.stpes`", "did you mean `model.steps`?"]),
        (["+quant.foo=1"], ["there is no key `quant.foo`"]),
        (["+nonsense=1"], ["there is no key `nonsense`"]),
        (["scenario=server"], ["has no option `server`", "Offline", "scenario=Server"]),
        (["backend=tensort"], ["`backend` has no option `tensort`", "one of: fake"]),
        (["limit=many"], ["`limit` has the wrong type", "got      many", "Integer"]),
        (["model.steps=2.5"], ["`model.steps` has the wrong type", "2.5", "Integer"]),
        (["precision.unet=fp31"], ["`precision.unet` has the wrong type", "fp32, fp16, bf16"]),
        (["mode=fast"], ["`mode` has the wrong type", "performance, accuracy"]),
        (["seed="], ["`seed`"]),
        (["limit=1]"], ["`limit=1]` cannot be read"]),
        (["+experiment=mlperf_ofline"], ["mlperf_ofline", "mlperf_offline"]),
        (["limit=0"], ["`limit` is too small", "at least 1"]),
        (["quant=none", "quant_level=2"], ["quant_level=2 would be ignored", "quant=int8"]),
        (["rules=closed", "model.steps=4"], ["closed division", "rules=open"]),
        (["model=sdxl", "model.steps=4"], ["closed division", "rules=open"]),
        (["limit=${nowhere}"], ["nowhere"]),
        (["scenario.target_qps=nan"], ["scenario.target_qps"]),
        (["model.device=meta"], ["plan=true"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_mistake_is_one_panel_and_exit_2(cli, words, expected):
    refused(cli("backend=fake" if "backend" not in words[0] else "limit=8", *words), *expected)


def test_all_mistakes_are_in_one_panel(cli):
    done = cli(
        "backend=fake", "scenario=server", "limit=x", "model.stpes=3", "quality.keep_images=0"
    )
    refused(done, "4 problems", "scenario=Server", "`limit` has", "model.steps", "keep_images")


def test_broken_rules_are_reported_together(cli):
    done = cli(
        "backend=fake", "limit=-1", "rules=closed", "model.guidance=7", "dataset.shuffle=true",
        "seed=-3",
    )  # fmt: skip
    refused(done, "`limit`", "`model.guidance`", "`seed`", "3 problems")


def test_a_mistake_in_the_data_is_recorded_too(cli):
    done = cli("backend=fake", "limit=65")
    assert done.code == 2
    assert "`limit` is larger than dataset=builtin" in done.err and "limit=64" in done.err
    assert done.record["status"] == "failed" and "limit" in done.record["reason"]
    assert done.json["record"] == str(done.dir / "record.json")


def test_a_failed_run_ends_with_json_and_exit_1(cli):
    done = cli(*FAST, "backend.fail=raises", "backend.fail_at=3")
    assert done.code == 1
    assert done.json["status"] == "failed" and "asked to fail" in done.json["reason"]


def test_a_multirun_ends_with_one_summary(cli):
    done = cli("-m", *FAST, "backend.fail_at=3", "backend.fail=none,raises", "seed=1,2")
    assert done.code == 1, done.err
    counts = {name: done.json[name] for name in ("cells", "ok", "failed", "invalid", "skipped")}
    assert counts == {"cells": 4, "ok": 2, "failed": 2, "invalid": 0, "skipped": 0}
    assert done.json["records"] == [str(done.dir / f"{n}/record.json") for n in range(4)]
    statuses = [record["status"] for record in done.records()]
    assert statuses == ["ok", "ok", "failed", "failed"]
    assert sum(line.startswith("{") for line in done.out.splitlines()) == 1


def test_a_multirun_with_a_bad_choice_names_it(cli):
    done = cli("-m", *FAST, "scenario=Offline,Nowhere")
    assert done.code == 2
    assert "`scenario` has no option `Nowhere`" in done.err
    assert done.json["exit_code"] == 2


def test_a_broken_rule_in_one_cell_leaves_the_others(cli):
    done = cli("-m", "rules=closed", *FAST, "model.steps=19,20")
    assert done.code == 2
    assert (done.json["ok"], done.json["failed"]) == (1, 1)


def test_plan_measures_nothing(cli):
    done = cli(*FAST, "plan=true")
    assert done.code == 0 and done.json["status"] == "ok"
    assert done.json["plan"]["images"] == 8
    assert not (done.dir / "record.json").exists() and not (done.dir / "loadgen").exists()


@pytest.mark.parametrize("words", [("-sc",), ("-sc", "install=no"), ("--resolve",)])
def test_what_hydra_cannot_answer_is_refused(cli, words):
    done = cli(*words)
    assert done.code == 2 and "Hydra cannot answer that" in done.json["reason"]
    assert "Traceback" not in done.err and "--hydra-help" in done.err


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["--info", "config"]])
def test_information_imports_no_framework(words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = {['run.py', *words]!r}\n"
        "try:\n"
        "    runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "print('HEAVY', *sorted({'torch', 'diffusers', 'transformers', 'mlflow', 'numpy',"
        " 'PIL', 'mlperf_loadgen', 'modelopt'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]
    assert "scenario" in done.stdout


def test_help_shows_groups_examples_and_exit_codes(cli):
    done = cli("--help")
    assert done.code == 0
    scenarios = "scenario: LoadCurve, MultiStream, Offline, Server, SingleStream"
    for text in (scenarios, "Examples", "Exit codes"):
        assert text in done.out


def test_help_names_a_mistake(cli):
    refused(cli("--help", "model=tny"), "`model` has no option `tny`")


def test_help_shows_the_first_of_values_to_sweep_over(cli):
    done = cli("-m", "quant_level=2.5,3", "--help")
    assert done.code == 0, done.err
    assert "quant_level=2.5" in done.out


def test_cfg_job_prints_what_would_run(cli):
    done = cli("--cfg", "job", "scenario=Server", "seed=7")
    assert done.code == 0
    assert "name: Server" in done.out and "seed: 7" in done.out


def test_completion_offers_the_options_of_a_group():
    env = {"COMP_LINE": "python run.py scenario=", "COMP_POINT": "23", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "run.py", "-sc", "query=bash"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert {"scenario=Offline", "scenario=Server"} <= set(done.stdout.split())


def test_the_json_line_is_strict_json(cli):
    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    done = cli(*FAST, "mode=accuracy")
    json.loads(done.out.splitlines()[-1], parse_constant=no_constant)
    json.loads((done.dir / "record.json").read_text(), parse_constant=no_constant)


def test_a_command_and_a_worker_without_a_model_import_no_framework():
    """Torch comes to the workers that need it, from the server that they are forked from."""
    code = (
        "import sys, sdxl.run.cell, sdxl.run.worker\n"
        "print(*sorted({'torch', 'diffusers', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and done.stdout == "\n", done.stdout + done.stderr
