"""Submissions: two whole trees from runs of the fake backend, and the runs that are refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from sdxl.bench.mlperf import rounds
from sdxl.bench.mlperf.submission import command, describe, systems
from sdxl.bench.mlperf.submission import tree as tree_of
from sdxl.bench.mlperf.submission.check import check
from sdxl.bench.mlperf.submission.truncate import truncate
from sdxl.core.record import Record
from tests.bench.mlperf.submission.official import (
    DATACENTER,
    EDGE,
    V51,
    V61,
    build,
    copy_records,
    edit,
    words_only,
)  # fmt: skip

RUN = {"mlperf_log_detail.txt", "mlperf_log_summary.txt"}
SCENARIO_V6 = {
    "README.md", "user.conf", "measurements.json",
    *(f"performance/run_1/{name}" for name in RUN),
    *(f"accuracy/{name}" for name in {*RUN, "accuracy.txt", "mlperf_log_accuracy.json"}),
    *(f"TEST01/performance/run_1/{name}" for name in RUN),
    *(f"TEST04/performance/run_1/{name}" for name in RUN),
    "TEST01/verify_accuracy.txt", "TEST01/verify_performance.txt", "TEST04/verify_performance.txt",
    "TEST01/accuracy/mlperf_log_accuracy.json", "TEST01/accuracy/accuracy.txt",
}  # fmt: skip


def below(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_the_v61_edge_tree_is_whole(tree, edge):
    top = tree / "closed/Us"
    assert {p.name for p in top.iterdir()} == {"systems", "src", "documentation", "results"}
    model = top / "results/box/stable-diffusion-xl"
    assert {p.name for p in model.iterdir()} == set(EDGE)
    for scenario in EDGE:
        assert below(model / scenario) == SCENARIO_V6
        check_accuracy(model / scenario / "accuracy", edge / scenario / "accuracy")
    facts = json.loads((top / "systems/box.json").read_text())
    assert set(systems.FIELDS) <= set(facts) and not systems.complaints(facts)
    assert (facts["system_type"], facts["submitter"]) == ("edge", "Us")
    assert (top / "src/stable-diffusion-xl/sdxl/model/sampler.py").is_file()
    conf = (model / "SingleStream/user.conf").read_text()
    assert "stable-diffusion-xl.SingleStream.target_latency = " in conf
    notes = json.loads((model / "Offline/measurements.json").read_text())
    assert notes["weight_data_types"] == "fp32" and all(notes.values())
    assert notes["starting_weights_filename"].endswith(
        "base-1.0: sdxl, known by its files' published checksums"
    )
    assert not check(tree, V61)


def check_accuracy(place, run):
    """Scores where the checker looks for them; the log's hash, and its two ends."""
    log = run / "loadgen/mlperf_log_accuracy.json"
    whole = log.read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    assert (place / "accuracy.txt").read_text() == (
        f"Accuracy Results: {{'FID_SCORE': '23.5', 'CLIP_SCORE': '31.75'}}\nhash={digest}\n"
    )
    short = (place / "mlperf_log_accuracy.json").read_bytes()
    assert len(whole) > 100_000 and len(short) == 8199
    assert short == whole[:4096] + b"\n\n...\n\n" + whole[-4096:]


def test_the_v51_datacenter_tree_is_whole(datacenter, system, tmp_path):
    out = tmp_path / "out"
    words = ("--round", "v5.1", "--system-type", "datacenter")
    assert build(datacenter, system, out, *words) == 0
    top = out / "closed/Us"
    assert {p.name for p in top.iterdir()} == {
        "systems", "code", "documentation", "results", "measurements", "compliance"
    }  # fmt: skip
    where = "box/stable-diffusion-xl"
    for scenario in DATACENTER:
        results = top / "results" / where / scenario
        pictures = {f"accuracy/images/{index}.png" for index in rounds.ROUNDS[V51].image_ids}
        assert below(results) == {
            *(f"performance/run_1/{name}" for name in RUN),
            *(f"accuracy/{n}" for n in {*RUN, "accuracy.txt", "mlperf_log_accuracy.json"}),
            *pictures, "accuracy/images/captions.txt",
        }  # fmt: skip
        notes = top / "measurements" / where / scenario
        assert below(notes) == {f"box_{scenario}.json", "README.md", "user.conf"}
        audits = below(top / "compliance" / where / scenario)
        assert audits == {n for n in SCENARIO_V6 if n.startswith("TEST")}
    captions = (top / "results" / where / "Offline/accuracy/images/captions.txt").read_text()
    assert captions.splitlines()[0].startswith("2747  ") and len(captions.splitlines()) == 10
    conf = (top / "measurements" / where / "Server/user.conf").read_text()
    assert "stable-diffusion-xl.Server.target_qps = " in conf
    assert not check(out, V51)
    assert check(out, V61), "another round's layout and seeds"


def test_a_round_takes_only_what_it_has(datacenter, edge, system, tmp_path, capsys):
    assert build(datacenter, system, tmp_path / "a", "--system-type", "datacenter") == 2
    said = capsys.readouterr().err
    assert "v6.1 takes no SDXL from datacenter systems" in said and "another round" in said
    assert build(edge, system, tmp_path / "b", "--round", "v5.1") == 2
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


REFUSED = [
    ("Offline/performance", lambda r: vars(r).update(status="invalid", reason="too slow"),
     "is invalid"),
    ("Offline/accuracy", lambda r: r.config.update(submission=False), "did not log its pictures"),
    ("Offline/test01", lambda r: vars(r.performance).update(artifact_key="x"), "of other work"),
    ("Offline/accuracy", lambda r: vars(r.performance).update(artifact_key="x"), "same artifact"),
    ("SingleStream/accuracy", lambda r: vars(r.images[0]).update(sha256="x"), "same images"),
    ("SingleStream/accuracy", lambda r: r.environment.packages.update(numpy="9"),
     "same software"),
    ("Offline/accuracy", lambda r: r.quality.scores.metrics.update(fid=23.96), "FID"),
    ("Offline/accuracy", lambda r: r.quality.scores.metrics.update(clip_score=31.82), "CLIP"),
    ("Offline/performance", lambda r: vars(r).update(comparable=False, comparable_reason="tiny"),
     "is not the benchmark"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "what"), REFUSED, ids=words_only)
def test_a_run_that_does_not_fit_is_refused_by_name(
    edge, system, tmp_path, capsys, name, change, what
):
    places = copy_records(edge, tmp_path / "runs")
    edit(places / name / "record.json", change)
    assert build(places, system, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert what in said and f"{name}/record.json" in said
    assert not (tmp_path / "out").exists()


def test_everything_missing_is_said_at_once(edge, system, tmp_path, capsys):
    places = copy_records(edge, tmp_path / "runs")
    shutil.rmtree(places / "Offline/test01")
    shutil.rmtree(places / "Offline/accuracy")
    shutil.copytree(places / "Offline/performance", places / "again")
    shutil.rmtree(places / "SingleStream")
    assert build(places, system, tmp_path / "out") == 2
    said = capsys.readouterr().err
    for text in ("Offline has no TEST01 run", "Offline has no accuracy run",
                 "two performance runs of Offline", "edge systems must submit"):  # fmt: skip
        assert text in said


def test_a_draft_lets_short_runs_in_but_no_invalid_ones(edge, system, tmp_path, capsys):
    places = tmp_path / "runs"
    shutil.copytree(edge, places)
    edit(places / "Offline/accuracy/record.json",
         lambda r: r.quality.scores.metrics.update(fid=99.0))  # fmt: skip
    assert build(places, system, tmp_path / "out", "--draft") == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["status"] == "draft" and "FID_SCORE 99.0" in last["complaints"][0]
    edit(places / "Offline/test04/record.json", lambda r: vars(r).update(status="invalid"))
    assert build(places, system, tmp_path / "two", "--draft") == 2


def hashes_only(runs):
    log = runs / "Offline/accuracy/loadgen/mlperf_log_accuracy.json"
    log.write_text('[\n{ "seq_id" : 0, "qsl_idx" : 0, "data" : "00ff" }\n]\n')


def twice_as_fast(runs):
    def change(record):
        record.performance.loadgen.detail["result_samples_per_second"] *= 2

    edit(runs / "Offline/test04/record.json", change)


UNFINISHED = [  # what is wrong with a run, what is said of it, the exit code
    (lambda runs: (runs / "SingleStream/test01/loadgen/mlperf_log_summary.txt").unlink(),
     "a run has lost a file", 2),
    (hashes_only, "does not hold pictures", 1),
    (twice_as_fast, "TEST04 score", 2),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said", "code"), UNFINISHED, ids=words_only)
def test_a_tree_is_whole_or_not_there(edge, system, tmp_path, capsys, spoil, said, code):
    places = tmp_path / "runs"
    shutil.copytree(edge, places)
    spoil(places)
    assert build(places, system, tmp_path / "out") == code
    out, err = capsys.readouterr()
    assert said in err and "Traceback" not in err and json.loads(out.splitlines()[-1])
    assert not below(tmp_path / "out")
    assert build(edge, system, tmp_path / "out") == 0, "mended, the same command works"
    assert {p.name for p in (tmp_path / "out/closed").iterdir()} == {"Us"}
    assert build(edge, system, tmp_path / "out") == 2
    assert "there already" in capsys.readouterr().err


def test_a_full_disk_leaves_no_tree(edge, system, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree_of, "truncate", full)
    assert build(edge, system, tmp_path / "out") == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert not below(tmp_path / "out")


def test_a_description_must_say_something(edge, tmp_path, capsys):
    path = tmp_path / "box.json"
    command.main(["describe", str(path)])
    assert command.main(["describe", str(path)]) == 2, "never overwritten"
    assert build(edge, path, tmp_path / "out") == 2
    assert "cooling says nothing" in capsys.readouterr().err
    assert build(edge, tmp_path / "none.json", tmp_path / "out") == 2


@pytest.mark.parametrize("size", [0, 100, 10_240, 10_241, 2_000_003])
def test_a_log_is_cut_as_the_official_tool_cuts_it(tmp_path, size):
    data = np.random.default_rng(size).integers(32, 127, size, np.uint8).tobytes()
    log, target = tmp_path / "log.json", tmp_path / "short.json"
    log.write_bytes(data)
    assert truncate(log, target) == hashlib.sha256(data).hexdigest()
    short = target.read_bytes()
    if size <= 10_240:
        assert short == data
    else:
        assert short == data[:4096] + b"\n\n...\n\n" + data[-4096:]


def test_weight_types_come_from_the_manifests():
    precision = {"text_encoder": "fp16", "unet": "fp16", "vae": "fp32"}
    record = Record("key", {"precision": precision}, "")
    assert describe.weight_types(record) == ["fp16", "fp32"]
    record.artifacts = [{"kind": "checkpoint", "settings": {"quant": {"format": "fp8"}}}]
    assert describe.weight_types(record) == ["fp16", "fp32", "fp8"]
    record.artifacts.append({"settings": {"layers": [{"format": "int8_weight_only"}]}})
    assert describe.weight_types(record) == ["fp16", "fp32", "fp8", "int8"]
