"""One cell from the command line to its record: real LoadGen, a backend without a model."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from sdxl.core import records
from sdxl.core.errors import SdxlError
from sdxl.model import images
from sdxl.run import attempt, cell, identity
from tests.conftest import ROOT

FAST = ("backend=fake", "scenario.min_duration_ms=0", "backend.sample_ms=0.2", "limit=16")


def read(path):
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.mark.parametrize(
    ("scenario", "metric"),
    [
        ("Offline", "samples_per_second"),
        ("Server", "completed_samples_per_second"),
        ("SingleStream", "early_stopping_latency_ss"),
        ("MultiStream", "early_stopping_latency_ms"),
    ],
)
def test_every_scenario_is_valid_and_recorded(cli, scenario, metric):
    done = cli("backend=fake", "backend.sample_ms=0.2", f"scenario={scenario}",
               "scenario.min_duration_ms=100", "limit=16")  # fmt: skip
    assert done.code == 0, done.err
    record, found = done.record, done.record["performance"]
    assert record["schema"] == 1 and record["status"] == "ok" and record["reason"] == ""
    assert found["scenario"] == scenario and found["metric"] == metric
    assert found["loadgen"]["detail"]["result_validity"] == "VALID"
    assert found["loadgen"]["detail"]["effective_scenario"] == scenario
    assert found["counts"]["issued"] == found["counts"]["done"] > 0
    assert found["images_per_second"] > 0 and found["value"] > 0
    assert found["latency_ms"]["mean"] <= found["latency_ms"]["max"]
    assert done.json["value"] == found["value"]
    assert record["comparable"] is False and "16 prompts of builtin" in record["comparable_reason"]
    seeds = (found["settings"][f"{name}_rng_seed"] for name in ("qsl", "sample_index", "schedule"))
    assert list(seeds) == [2085463073848966840, 2747215439041700203, 16159082839903944936]
    for name in ("mlperf_log_summary.txt", "mlperf_log_detail.txt"):
        assert (done.dir / "loadgen" / name).is_file()


def test_the_seeds_of_every_round_reach_loadgen(cli, data):
    done = cli(*FAST, "round=v5.1")
    settings = done.record["performance"]["settings"]
    assert settings["qsl_rng_seed"] == 1780908523862526354
    # And v6.1's, which the scenarios above saw, are the published ones.
    from sdxl.bench.mlperf.rounds import ROUNDS
    from sdxl.config.schema import Round

    text = (data / "mlperf/mlperf_v6.1.conf").read_text()
    ours = vars(ROUNDS[Round("v6.1")].seeds)
    for name, seed in ours.items():
        assert f"*.*.{name}_rng_seed = {seed}" in text
    assert set(ROUNDS) == set(Round) - {Round("custom")}


def test_pictures_are_named_by_query_sample_and_are_the_generators(cli, load):
    done = cli(*FAST, "quality.keep_images=5", "seed=3")
    entries = done.record["images"]
    assert [entry["index"] for entry in entries] == list(range(5))
    from sdxl.backends import fake

    generator = fake.BACKEND.open(load("backend=fake", "backend.sample_ms=0", "seed=3"), {})
    for entry in entries:
        pixels = read(done.dir / entry["file"])
        assert entry["file"] == f"images/{entry['index']:06d}.png"
        assert np.array_equal(pixels, generator.generate([entry["index"]])[0])
        assert entry["sha256"] == images.pixel_hash(pixels)
    assert read(done.dir / "images.png").std() > 0


@pytest.mark.parametrize("submission", [False, True])
def test_accuracy_mode_sends_every_prompt_once_and_keeps_every_picture(cli, submission):
    done = cli("backend=fake", "limit=20", "backend.sample_ms=0", "mode=accuracy",
               f"submission={submission}")  # fmt: skip
    assert done.code == 0, done.err
    record = done.record
    assert [entry["index"] for entry in record["images"]] == list(range(20))
    assert record["performance"]["counts"]["done"] == 20
    assert record["performance"].get("images_per_second") is None
    logged = json.loads((done.dir / "loadgen/mlperf_log_accuracy.json").read_text())
    assert sorted(entry["qsl_idx"] for entry in logged) == list(range(20))
    for entry in logged:
        kept = read(done.dir / f"images/{entry['qsl_idx']:06d}.png")
        answer = bytes.fromhex(entry["data"])
        assert answer == (kept.tobytes() if submission else hashlib.sha256(kept).digest())


def test_real_captions_run_through_loadgen(cli, data):
    path = data / "mlperf/captions_source.tsv"
    done = cli("backend=fake", "dataset=coco", f"dataset.path={path}", "limit=64",
               "dataset.shuffle=true", "scenario.min_duration_ms=0")  # fmt: skip
    assert done.code == 0, done.err
    rows = [entry["row"] for entry in done.record["images"]]
    assert rows == sorted(rows) and rows[-1] > 8
    assert all(entry["source_id"].isdigit() for entry in done.record["images"])


def test_the_command_and_the_environment_are_recorded(cli):
    done = cli(*FAST, "seed=5")
    record = done.record
    assert (
        record["command"].startswith("python run.py backend=fake") and "seed=5" in record["command"]
    )
    assert record["config"]["seed"] == 5
    environment = record["environment"]
    assert {"python", "cpu", "cores", "memory_bytes", "packages", "git"} <= environment.keys()
    assert environment["packages"]["mlcommons-loadgen"]
    assert record["durations"]["total_s"] >= record["durations"]["measure_s"]
    assert record["resources"]["peak_rss_bytes"] > 2**20


def test_the_key_ignores_where_a_run_is_tracked_but_not_what_it_measures(cli, load):
    from sdxl.run.identity import identity

    same = [identity(load(*words)) for words in ([], ["tracking=off"], ["build=never"])]
    assert len(set(same)) == 1
    other = [["seed=1"], ["limit=5"], ["precision=bf16"], ["scenario=Server"], ["round=v5.1"]]
    assert len({identity(load(*words)) for words in [[], *other]}) == 6


def test_an_audit_config_in_the_working_directory_changes_nothing(cli, tmp_path):
    """LoadGen would read it in silence, and run another test."""
    (tmp_path / "audit.config").write_text("*.*.accuracy_log_probability = 1\n")
    done = cli(*FAST, cwd=tmp_path)
    assert done.code == 0
    assert done.record["performance"]["loadgen"]["detail"]["errors"] == []
    logged = (done.dir / "loadgen/mlperf_log_accuracy.json").read_text()
    assert json.loads(logged) == []


def test_a_run_writes_nothing_outside_its_folders(cli, tmp_path):
    before = {path.name for path in ROOT.iterdir()}
    done = cli(*FAST)
    assert done.code == 0
    assert {path.name for path in ROOT.iterdir()} - before <= {"__pycache__"}
    assert {path.name for path in tmp_path.iterdir()} <= {done.dir.name, "store"}


def test_server_pauses_between_rare_queries_are_no_stall(cli):
    """At 1.5 queries a second pauses of more than a second are common."""
    done = cli("backend=fake", "scenario=Server", "scenario.target_qps=1.5", "limit=8",
               "scenario.min_query_count=6", "scenario.stall_s=0.7",
               "scenario.min_duration_ms=0")  # fmt: skip
    assert done.json["status"] == "invalid", done.err  # six queries are too few, not a stall
    assert "early stopping" in done.json["reason"]


@pytest.mark.slow
def test_tiny_runs_on_torch(cli):
    done = cli(
        "model=tiny_random",
        "rules=open",
        "model.steps=2",
        "limit=5",
        "backend.batch_size=2",
        "scenario.min_duration_ms=0",
        "model.height=64",
        "model.width=64",
    )
    assert done.code == 0, done.err
    record = done.record
    facts = record["performance"]["generator"]
    assert facts["backend"] == "torch" and facts["device"] == "cpu"
    assert set(facts["precision"].values()) == {"float32"}
    assert record["performance"]["tflops"] > 0
    assert record["environment"]["diffusers"]["version"]
    assert read(done.dir / "images/000000.png").shape == (64, 64, 3)
    assert "rules=open" in record["comparable_reason"]


def test_a_cell_without_its_baseline_has_a_record_that_says_why(load, tmp_path, monkeypatch):
    """Where another process measured it, its record is all that the sweep sees of it."""

    def fail(*_):
        raise SdxlError("the worker died: SIGKILL")

    monkeypatch.setattr(attempt, "measure", fail)
    config = load("quant=int8", "calib_size=2", "tracking=off")
    outcome = cell.run(config, tmp_path / "0")
    because = "the unquantized baseline: the worker died: SIGKILL"
    assert (outcome.status, outcome.exit_code, outcome.reason) == ("failed", 1, because)
    record = records.read(tmp_path / "0/record.json")
    assert record.key == identity.identity(config) and record.reason == because
    assert outcome.record == str(tmp_path / "0/record.json")
    assert records.read(tmp_path / "0/baseline/record.json").status == "failed"
