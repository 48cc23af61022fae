"""Trees from a local folder of known weights, in the open division, and of the oldest round."""

import dataclasses
import json
import shutil
from functools import partial

import pytest

from sdxl.bench.mlperf.submission import describe
from sdxl.bench.mlperf.submission.check import check
from sdxl.config.schema import Round
from sdxl.core import records
from sdxl.run.figures import incomparable
from tests.bench.mlperf.submission.official import (
    EDGE,
    V51,
    V61,
    build,
    copy_records,
    edit,
    officialise,
)  # fmt: skip


def test_weights_that_no_checksum_knows_are_refused(edge, benchmark_runs, system, tmp_path, capsys):
    """The runs say themselves what they measured: another file, another word in the record."""
    record = json.loads((edge / "Offline/performance/record.json").read_text())
    assert record["comparable"] and record["config"]["model"]["path"] == str(benchmark_runs.model)
    stranger = tmp_path / "sdxl"
    shutil.copytree(benchmark_runs.model, stranger)
    (stranger / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"another VAE")
    other = dataclasses.replace(benchmark_runs, model=stranger)
    config = other.load(*other.words("Offline", "performance", V61))
    places = copy_records(edge, tmp_path / "runs")
    reasons = incomparable(config, 5000)
    said = {"comparable": not reasons, "comparable_reason": "; ".join(reasons)}
    edit(places / "Offline/performance/record.json", lambda r: vars(r).update(said))
    assert build(places, system, tmp_path / "out") == 2
    assert "of vae is no published file of SDXL base 1.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quant=int8", "quant.calib_dataset=builtin"], "prompts of builtin, not of coco_cal"),
        (["quant=int8", "quant.calib_dataset={own}"], "calibration_captions.tsv are not the pub"),
        (["quant=int8", "quant.statistics={own}"], "whose captions are not known"),
        (["quant=int8", "quant.tuned={own}"], "trained weights: "),
        (["dataset.path={own}"], "calibration_captions.tsv are not the published ones: ids_sha256"),
        (["dataset.path=nowhere.tsv"], "captions of nowhere.tsv are not"),
        (["quant=int8_weight_only"], None),
    ],
)
def test_what_the_closed_division_forbids_is_said(benchmark_runs, tmp_path, words, said):
    """Other captions, ranges of other captions, trained weights: each by what the files hold."""
    own = tmp_path / "calibration_captions.tsv"
    own.write_text("id\tcaption\n7\ta blue sphere\n")
    words = [word.format(own=own) for word in words]
    config = benchmark_runs.load(*benchmark_runs.words("Offline", "performance", V61), *words)
    reasons = incomparable(config, 5000)
    assert reasons == [] if said is None else len(reasons) == 1 and said in reasons[0], reasons


@pytest.mark.parametrize(
    ("changed", "retrained", "how"),
    [
        ({}, "No", "post-training quantization of the UNet to int8; recipe int8, level 3; "
         "calibrated on 8 prompts of coco_calibration"),
        ({"tuned": "/x/qat"}, "Yes", "quantization-aware training of the UNet"),
        ({"statistics": "/x/mine.safetensors"}, "No", "by the statistics in mine.safetensors"),
        ({"format": "int8_weight_only"}, "No", "int8_weight_only; recipe int8, level 3"),
    ],
)  # fmt: skip
def test_measurements_say_how_weights_were_made(edge, changed, retrained, how):
    record = records.read(edge / "Offline/performance/record.json")
    record.config["quant"] = {"format": "int8", "name": "int8", "level": 3, "calib_size": 8,
                              "calib_dataset": "coco_calibration", **changed}  # fmt: skip
    said = describe.measurements(record)
    assert said["retraining"] == retrained and how in said["weight_transformations"]
    assert ("calibrated" in said["weight_transformations"]) is ("format" not in changed)


def test_the_open_division_needs_no_draft(opened, edge, system, tmp_path, capsys):
    """One scenario, 500 samples, any score, no audit; the accuracy run is still of 5,000."""
    words = ("--round", "v5.1", "--system-type", "datacenter")
    edit(opened / "Offline/accuracy/record.json",
         lambda r: r.quality.scores.metrics.update(fid=30.0))  # fmt: skip
    assert build(opened, system, tmp_path / "open", *words, "--division", "open") == 0
    top = tmp_path / "open/open/Us"
    assert [p.name for p in (top / "results/box/stable-diffusion-xl").iterdir()] == ["Offline"]
    assert not (top / "compliance").exists()
    facts = json.loads((top / "systems/box.json").read_text())
    assert facts["division"] == "open" and not check(tmp_path / "open", V51)
    assert build(opened, system, tmp_path / "closed", *words) == 2
    said = capsys.readouterr().err
    assert "division rules" in said and "samples per query" in said and "must submit" in said
    anywhere = ("--division", "open", "--system-type", "datacenter")
    assert build(edge, system, tmp_path / "edge", *anywhere) == 0, "a closed run may be open"
    assert not check(tmp_path / "edge", V61)


def test_too_few_samples_are_refused_in_the_open_division_too(opened, system, tmp_path, capsys):
    places = copy_records(opened, tmp_path / "runs")
    for role, few in (("performance", {"effective_samples_per_query": 499}),
                      ("accuracy", {"effective_accuracy_sample_count": 4999})):  # fmt: skip
        logged = partial(lambda few, r: r.performance.loadgen.detail.update(few), few)
        edit(places / f"Offline/{role}/record.json", logged)
    words = ("--round", "v5.1", "--system-type", "edge", "--division", "open")
    assert build(places, system, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert "at least 500" in said and "accuracy samples" in said


def test_v41_has_its_rule_file_and_its_numbers(runs, benchmark_runs, system, tmp_path):
    which = Round("v4.1")
    places = officialise(runs, tmp_path / "runs", which, EDGE, benchmark_runs)
    out = tmp_path / "out"
    assert build(places, system, out, "--round", "v4.1") == 0
    top = out / "closed/Us"
    conf = (top / "measurements/box/stable-diffusion-xl/Offline/mlperf.conf").read_text()
    assert "*.*.qsl_rng_seed = 3066443479025735752" in conf
    assert "stable-diffusion-xl.Server.target_latency = 20000" in conf
    assert "stable-diffusion-xl.Offline.min_query_count = 5000" in conf
    told = top / "results/box/stable-diffusion-xl/Offline/accuracy/accuracy.txt"
    assert told.read_text().startswith("Accuracy Results: {'FID_SCORE': 23.5, 'CLIP_SCORE': 31.75}")
    assert not check(out, which)
    told.write_text(told.read_text().replace("23.5", "'23.5'"))
    assert [each.text for each in check(out, which)] == ["no FID_SCORE"]
