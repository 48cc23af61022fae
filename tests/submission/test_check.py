"""Submissions: two whole trees from runs of the fake backend, and every way to spoil them."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from sdxl.bench import rounds
from sdxl.bench.submission import __main__ as command
from sdxl.bench.submission import describe, systems
from sdxl.bench.submission.check import check
from sdxl.bench.submission.truncate import truncate
from sdxl.schema import Round
from sdxl.types import Record
from tests.official import edit, measure, officialise

V61, V51 = Round("v6.1"), Round("v5.1")
EDGE, DATACENTER = ("Offline", "SingleStream"), ("Offline", "Server")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def edge(runs, tmp_path_factory):
    return officialise(runs, tmp_path_factory.mktemp("edge") / "runs", V61, EDGE)


@pytest.fixture(scope="session")
def datacenter(runs, tmp_path_factory):
    return officialise(runs, tmp_path_factory.mktemp("datacenter") / "runs", V51, DATACENTER)


@pytest.fixture
def system(tmp_path):
    """A complete description."""
    path = tmp_path / "box.json"
    assert command.main(["describe", str(path)]) == 0
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**dict.fromkeys(found, "told"), **{k: v for k, v in found.items()
                                                                   if v}}))  # fmt: skip
    return path


def build(places, system, out, *words):
    return command.main(["build", str(places), "--system", str(system), "--submitter", "Us",
                         "--out", str(out), *words])  # fmt: skip


@pytest.fixture(scope="session")
def tree(edge, tmp_path_factory):
    """The v6.1 edge tree, to copy and spoil."""
    folder = tmp_path_factory.mktemp("tree")
    path = folder / "box.json"
    facts = systems.describe()
    path.write_text(json.dumps({name: value or "told" for name, value in facts.items()}))
    assert build(edge, path, folder / "out") == 0
    return folder / "out"


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
    assert (top / "src/stable-diffusion-xl/sdxl/sampler.py").is_file()
    conf = (model / "SingleStream/user.conf").read_text()
    assert "stable-diffusion-xl.SingleStream.target_latency = " in conf
    notes = json.loads((model / "Offline/measurements.json").read_text())
    assert notes["weight_data_types"] == "fp32" and all(notes.values())
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


def words_only(value):
    """Functions have no name that two test processes agree on; pytest numbers them."""
    return value if isinstance(value, str) else None


REFUSED = [
    ("Offline/performance", lambda r: vars(r).update(status="invalid", reason="too slow"),
     "is invalid"),
    ("Offline/accuracy", lambda r: r.config.update(submission=False), "did not log its pictures"),
    ("Offline/test01", lambda r: r.performance.update(artifact_key="x"), "of other work"),
    ("Offline/accuracy", lambda r: r.performance.update(artifact_key="x"), "same artifact"),
    ("SingleStream/accuracy", lambda r: r.images[0].update(sha256="x"), "same images"),
    ("SingleStream/accuracy", lambda r: r.environment["packages"].update(numpy="9"),
     "same software"),
    ("Offline/accuracy", lambda r: r.quality["scores"]["metrics"].update(fid=23.96), "FID"),
    ("Offline/accuracy", lambda r: r.quality["scores"]["metrics"].update(clip_score=31.82), "CLIP"),
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


def copy_records(source, target):
    """Records only: what is refused is refused before a log is read."""
    shutil.copytree(source, target, ignore=lambda _, names: [
        n for n in names if n.endswith((".png", ".json")) and n != "record.json"])  # fmt: skip
    return target


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
         lambda r: r.quality["scores"]["metrics"].update(fid=99.0))  # fmt: skip
    assert build(places, system, tmp_path / "out", "--draft") == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["status"] == "draft" and "FID_SCORE 99.0" in last["complaints"][0]
    edit(places / "Offline/test04/record.json", lambda r: vars(r).update(status="invalid"))
    assert build(places, system, tmp_path / "two", "--draft") == 2


def test_a_description_must_say_something(edge, tmp_path, capsys):
    path = tmp_path / "box.json"
    command.main(["describe", str(path)])
    assert command.main(["describe", str(path)]) == 2, "never overwritten"
    assert build(edge, path, tmp_path / "out") == 2
    assert "cooling says nothing" in capsys.readouterr().err
    assert build(edge, tmp_path / "none.json", tmp_path / "out") == 2


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
