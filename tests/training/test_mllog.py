"""The log of a training as MLPerf's own checker reads it."""

import contextlib
import dataclasses
import json

import pytest
from mlperf_logging.compliance_checker import mlp_compliance, mlp_parser

from sdxl.config.schema.train import Training
from sdxl.training.mllog import Log, Told

TOLD = Told(train_samples=9, eval_samples=4, seed=3, benchmark="stable_diffusion")
RECIPE = Training(name="sd2", lr=0.5, batch=64, beta2=0.999)
NEEDED = (
    "submission_benchmark", "submission_division", "cache_clear", "init_start", "init_stop",
    "run_start", "run_stop", "block_start", "eval_accuracy", "train_samples",
    "eval_samples", "gradient_accumulation_steps",
)  # fmt: skip
OF_THE_BENCHMARK = (
    "global_batch_size", "opt_name", "opt_adamw_beta_1", "opt_adamw_beta_2", "opt_adamw_epsilon",
    "opt_adamw_weight_decay", "opt_base_learning_rate", "opt_learning_rate_warmup_steps",
)  # fmt: skip


def accepted(file, ruleset="5.0.0"):
    """Whether MLCommons' checker takes the file."""
    checker = mlp_compliance.make_checker("training", ruleset, quiet=True, werror=False)
    with contextlib.redirect_stdout(None):
        valid, *_ = mlp_compliance.main(str(file), f"training_{ruleset}/common.yaml", checker)
    return valid


def keys(file):
    with contextlib.redirect_stdout(None):
        lines, failed = mlp_parser.parse_file(str(file), ruleset="5.0.0")
    assert not failed
    return [line.key for line in lines]


def evaluated(log, samples, fid):
    log.step(samples)
    log.evaluating(samples, {"samples_per_s": 10.0, "step_ms": 5.0, "peak_memory_gib": 2.0})
    log.evaluation(samples, {"FID": fid, "CLIP": 0.16})


def training(file, told=TOLD, stopped=True):
    """A training with two evaluations, stopped between them and resumed, or unbroken."""
    log = Log(file)
    log.begin(RECIPE, told, 1000, 2000)
    evaluated(log, 128, 200.0)
    log.step(192)
    if stopped:
        log.step(256)  # after the last checkpoint: these steps come again
        log.evaluating(256, {})  # and this evaluation
        log.end("KILLED")
        log = Log(file, resumed=192)
        log.begin(RECIPE, told, 3000, 4000)
        log.step(256)
    evaluated(log, 256, 80.0)
    log.end("FINISHED")
    return file


@pytest.mark.parametrize("division", ["open", "closed"])
def test_the_official_checker_accepts_it_also_when_it_was_resumed(tmp_path, division):
    told = dataclasses.replace(TOLD, division=division)
    whole = training(tmp_path / "whole.txt", told, stopped=False)
    parts = training(tmp_path / "parts.txt", told)
    for ruleset in ("4.0.0", "4.1.0", "5.0.0"):
        assert accepted(whole, ruleset) and accepted(parts, ruleset)
    assert keys(whole) == keys(parts), "a resumed training tells the same"
    assert keys(parts).count("run_stop") == keys(parts).count("seed") == 1
    last = json.loads(parts.read_text().splitlines()[-1].removeprefix(":::MLLOG "))
    assert last["metadata"]["status"] == "success"
    seeds = [line for line in parts.read_text().splitlines() if '"seed"' in line]
    said = json.loads(seeds[0].removeprefix(":::MLLOG "))
    assert said["metadata"]["file"].endswith(".py") and said["metadata"]["lineno"] > 0
    assert said["value"] == 3


def test_a_block_begins_where_what_came_before_it_had_ended(tmp_path):
    lines = training(tmp_path / "log.txt").read_text().splitlines()
    told = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    starts, stops, tracked, evaluated = (
        [each for each in told if each["key"] == name]
        for name in ("block_start", "block_stop", "tracked_stats", "eval_stop")
    )
    assert [each["metadata"]["samples_count"] for each in starts] == [0, 128]
    assert [each["metadata"]["samples_count"] for each in stops] == [128, 256]
    assert starts[0]["time_ms"] == 2000, "with the run, not after its first step"
    assert starts[1]["time_ms"] >= evaluated[0]["time_ms"]
    assert tracked[0]["value"] == {
        "throughput": 10.0, "train_step_time": 0.005, "max_memory_usage": 2.0
    }  # fmt: skip


@pytest.mark.parametrize("left_out", [*NEEDED, *OF_THE_BENCHMARK])
def test_a_log_with_a_key_left_out_fails(tmp_path, left_out):
    told = dataclasses.replace(TOLD, division="closed")
    file = training(tmp_path / "log.txt", told)
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if f'"key": "{left_out}"' not in line]
    assert len(kept) < len(lines)
    if left_out == "block_start":  # or epochs, or evaluations: any of the three is enough
        kept = [line for line in kept if '"eval_start"' not in line]
    file.write_text("".join(kept))
    assert not accepted(file)


def test_other_recipes_and_targets_are_not_accepted_as_closed(tmp_path):
    told = dataclasses.replace(TOLD, division="closed")
    file = training(tmp_path / "log.txt", told)
    good = file.read_text()
    for old, new in (("0.999", "0.99"), ("80.0", "95.0"), ("stable_diffusion", "scenes_unet")):
        file.write_text(good.replace(old, new))
        with contextlib.suppress(FileNotFoundError):  # rules of a benchmark that is none
            assert not accepted(file), new


def test_a_half_written_line_and_a_lost_log_are_no_obstacle(tmp_path):
    file = tmp_path / "log.txt"
    log = Log(file, resumed=64)
    log.begin(RECIPE, TOLD, 1000, 2000)
    log.step(128)
    with file.open("a") as stream:
        stream.write(':::MLLOG {"namespace": "", "ti')
    log = Log(file, resumed=128)
    log.begin(RECIPE, TOLD, 3000, 4000)
    log.step(192)
    log.end("FINISHED")
    assert keys(file).count("block_start") == keys(file).count("run_start") == 1
