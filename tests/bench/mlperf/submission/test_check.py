"""The check of a submission's tree: every way to spoil one is noticed."""

import contextlib
import json
import shutil

import pytest

from sdxl.bench.mlperf.submission import command
from sdxl.bench.mlperf.submission.check import check
from tests.bench.mlperf.submission.official import V51, V61, words_only

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


def write(text):
    return lambda path: path.write_text(text)


def change(**facts):
    """Fields of a JSON file; None takes one away."""

    def edit(path):
        found = {**json.loads(path.read_text()), **facts}
        path.write_text(json.dumps({name: v for name, v in found.items() if v is not None}))

    return edit


def value(key, old, new):
    """Of a key in LoadGen's log."""
    return replace(f'"{key}", "value": {old}', f'"{key}", "value": {new}')


def again(key, new):
    """A key told once more, with another value."""

    def edit(path):
        line = next(each for each in path.read_text().splitlines() if f'"{key}"' in each)
        entry = {**json.loads(line.partition(":::MLLOG ")[2]), "value": new}
        path.write_text(path.read_text() + f":::MLLOG {json.dumps(entry)}\n")

    return edit


def an_error(path):
    path.write_text(path.read_text().replace('"is_error": false', '"is_error": true', 1))


def unequal(before, after, verdict="TEST FAIL"):
    """TEST01's third part: other bytes, and these scores."""

    def edit(path):
        (path / "verify_accuracy.txt").write_text(f"{verdict}\n")
        for name, score in (("baseline", before), ("compliance", after)):
            told = f"{{'FID_SCORE': '{score}', 'CLIP_SCORE': '31.75'}}\n"
            (path / f"accuracy/{name}_accuracy.txt").write_text(told)

    return edit


BOX = "closed/Us/systems/box.json"
OFFLINE, SINGLE = f"{RESULTS}/Offline", f"{RESULTS}/SingleStream"
SPOILED = [  # what, how, what the check says of it; the tree of v6.1
    ("closed/Us/src", remove, "missing"),
    ("closed/Us/results", remove, "no system has results"),
    ("closed/Us/documentation/calibration.md", remove, "how numbers were made smaller"),
    (BOX, remove, "missing or not a JSON object"),
    (OFFLINE, remove, "must have it"),
    (SINGLE, remove, "must have it"),
    (f"{OFFLINE}/README.md", remove, "missing"),
    (f"{OFFLINE}/user.conf", remove, "missing"),
    (f"{OFFLINE}/measurements.json", remove, "missing or not a JSON object"),
    (f"{OFFLINE}/performance", remove, "missing"),
    (f"{OFFLINE}/{DETAIL}", remove, "missing"),
    (f"{OFFLINE}/performance/run_1/mlperf_log_summary.txt", remove, "missing"),
    (f"{OFFLINE}/accuracy", remove, "missing"),
    (f"{OFFLINE}/accuracy/mlperf_log_detail.txt", remove, "missing"),
    (f"{OFFLINE}/accuracy/mlperf_log_summary.txt", remove, "missing"),
    (f"{OFFLINE}/accuracy/mlperf_log_accuracy.json", remove, "missing"),
    (f"{OFFLINE}/accuracy/accuracy.txt", remove, "no line hash"),
    (f"{OFFLINE}/TEST01", remove, "missing"),
    (f"{OFFLINE}/TEST01/verify_accuracy.txt", remove, "missing or empty"),
    (f"{OFFLINE}/TEST01/verify_performance.txt", remove, "missing or empty"),
    (f"{OFFLINE}/TEST01/{DETAIL}", remove, "missing"),
    (f"{OFFLINE}/TEST01/accuracy/mlperf_log_accuracy.json", remove, "missing"),
    (f"{OFFLINE}/TEST04", remove, "missing"),
    (f"{OFFLINE}/TEST04/verify_performance.txt", remove, "missing or empty"),
    (f"{OFFLINE}/TEST04/{DETAIL}", remove, "missing"),
    # files that say nothing, or have no place
    (f"{OFFLINE}/README.md", write(""), "empty"),
    (f"{OFFLINE}/user.conf", write(""), "empty"),
    (f"{OFFLINE}/measurements.json", write("["), "missing or not a JSON object"),
    (BOX, write("[1]"), "missing or not a JSON object"),
    (f"{OFFLINE}/TEST04/verify_performance.txt", write(""), "missing or empty"),
    (f"{OFFLINE}/performance/power", lambda p: p.mkdir(), "empty"),
    (f"{OFFLINE}/TEST04/performance/run_1/more.txt", write("x"), "has no place here"),
    (f"{RESULTS}/MultiStream", lambda p: p.mkdir(), "unknown scenario"),
    (f"{RESULTS}/../resnet50", lambda p: p.mkdir(), "not checked"),
    ("half-open", lambda p: p.mkdir(), "a division is one of"),
    ("notes.txt", write("x"), "has no place here"),
    ("closed/notes.txt", write("x"), "has no place here"),
    ("closed/Us/systems/other.json", write("{}"), "without results"),
    # the system's description
    (BOX, change(submitter="You"), "submitter is You"),
    (BOX, change(division="open"), "division is open"),
    (BOX, change(status="soon"), "status is soon"),
    (BOX, change(status=None), "no field status"),
    (BOX, change(system_type="Edge"), "system_type is 'Edge'"),
    (BOX, change(system_type="edge, datacenter"), "system_type is 'edge, datacenter'"),
    (BOX, change(system_type="datacenter"), "takes no stable-diffusion-xl from datacenter"),
    (BOX, change(system_type=None), "no field system_type"),
    (BOX, change(cooling=""), "cooling says nothing"),
    (BOX, change(cooling=None), "no field cooling"),
    (BOX, change(hw_notes=None), "no field hw_notes"),
    (BOX, change(number_of_nodes="one"), "number_of_nodes is 'one', no whole number"),
    (BOX, change(number_of_nodes=0), "number_of_nodes says nothing"),
    (BOX, change(accelerators_per_node="2x4"), "accelerators_per_node is '2x4'"),
    (BOX, change(accelerators_per_node=8.5), "accelerators_per_node is 8.5"),
    (BOX, change(host_processors_per_node="2.0"), "host_processors_per_node is '2.0'"),
    (BOX, change(is_network="true"), "is_network is true, in the closed division"),
    (BOX, change(is_network=True), "is_network is True, not the word"),
    (BOX, change(is_network="false"), "no field network_type"),
    (f"{OFFLINE}/measurements.json", change(retraining=""), "retraining"),
    (f"{OFFLINE}/measurements.json", change(weight_data_types=None), "weight_data_types"),
    (f"{OFFLINE}/measurements.json", change(input_data_types=""), "input_data_types"),
    (f"{OFFLINE}/measurements.json", change(starting_weights_filename=""), "starting_weights"),
    (f"{OFFLINE}/measurements.json", change(weight_transformations=""), "weight_transform"),
    (f"{OFFLINE}/{DETAIL}", replace(': "VALID"', ': "INVALID"'), "INVALID"),
    (f"{OFFLINE}/{DETAIL}", value("result_validity", '"VALID"', "null"), "INVALID"),
    (f"{OFFLINE}/{DETAIL}", replace(": 600000", ": 60000"), "min_duration_ms"),
    (f"{OFFLINE}/{DETAIL}", replace("2085463073848966840", "1"), "seeds"),
    (f"{OFFLINE}/{DETAIL}", replace("2747215439041700203", "1"), "seeds"),
    (f"{OFFLINE}/{DETAIL}", replace("16159082839903944936", "1"), "seeds"),
    (f"{OFFLINE}/{DETAIL}", value("effective_performance_sample_count", 5000, 64),
     "performance_sample_count"),
    (f"{OFFLINE}/{DETAIL}", value("effective_samples_per_query", 5000, 500), "samples per query"),
    (f"{OFFLINE}/{DETAIL}", value("effective_samples_per_query", 5000, '"many"'),
     "something else than a number"),
    (f"{OFFLINE}/{DETAIL}", replace("effective_samples_per_query", "samples"), "has no"),
    (f"{OFFLINE}/{DETAIL}", value("effective_scenario", '"Offline"', '"Server"'),
     "is a run of Server"),
    (f"{OFFLINE}/{DETAIL}", again("result_samples_per_second", 1e9), "again: 1000000000.0"),
    (f"{OFFLINE}/{DETAIL}", lambda p: p.write_text(p.read_text()[:3000]), "stops half-way"),
    (f"{OFFLINE}/{DETAIL}", lambda p: p.write_text(p.read_text() + ":::MLLOG {"),
     "no entry of LoadGen's"),
    (f"{OFFLINE}/{DETAIL}", lambda p: p.write_text("# mine\n" + p.read_text()),
     "does not begin with"),
    (f"{SINGLE}/{DETAIL}", value("early_stopping_met", "true", "false"), "early stopping"),
    (f"{SINGLE}/{DETAIL}", value("result_query_count", 100, 99), "queries"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("hash=", "md5="), "no line hash"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("23.5", "23.96"), "FID_SCORE 23.96"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("23.5", "22.9"), "FID_SCORE 22.9"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("31.75", "31.82"), "CLIP_SCORE 31.82"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("31.75", "31.60"), "CLIP_SCORE 31.6"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("31.75", "31.7.5"), "no CLIP_SCORE"),
    (f"{OFFLINE}/accuracy/accuracy.txt", replace("FID_SCORE", "FID"), "no FID_SCORE"),
    (f"{OFFLINE}/accuracy/accuracy.txt", lambda p: p.write_bytes(b"\xff\xfe"), "no FID_SCORE"),
    (f"{OFFLINE}/accuracy/mlperf_log_accuracy.json", write("x" * 10241), "not truncated"),
    (f"{OFFLINE}/accuracy/mlperf_log_detail.txt",
     value("effective_accuracy_sample_count", 5000, 4999), "accuracy samples"),
    (f"{OFFLINE}/accuracy/mlperf_log_detail.txt",
     value("effective_scenario", '"Offline"', '"Server"'), "is a run of Server"),
    (f"{OFFLINE}/accuracy/mlperf_log_detail.txt", an_error, "LoadGen error"),
    (f"{OFFLINE}/TEST01/verify_accuracy.txt", replace("PASS", "FAIL"), "TEST PASS"),
    (f"{OFFLINE}/TEST01/verify_performance.txt", replace("PASS", "FAIL"), "TEST PASS"),
    (f"{OFFLINE}/TEST04/verify_performance.txt", replace("PASS", "FAIL"), "TEST PASS"),
    (f"{OFFLINE}/TEST04/{DETAIL}", replace(': "VALID"', ': "INVALID"'), "INVALID"),
    (f"{OFFLINE}/TEST04/{DETAIL}", value("effective_samples_per_query", 5000, 500),
     "samples per query"),
    (f"{OFFLINE}/TEST01/accuracy/mlperf_log_accuracy.json", write("x" * 10241), "not truncated"),
    (f"{OFFLINE}/TEST01", unequal(23.5, 24.1), "FID_SCORE differs by 2.49 %"),
    (f"{OFFLINE}/TEST01", unequal(23.5, ""), "no FID_SCORE in both"),
]  # fmt: skip
SPOILED_51 = [  # the datacenter tree of v5.1
    ("closed/Us/code", remove, "missing"),
    ("measurements", remove, "missing"),
    ("measurements/Server/box_Server.json", remove, "missing or not a JSON object"),
    ("compliance", remove, "missing"),
    ("results/Server", remove, "must have it"),
    ("results/Server/accuracy/images", remove, "missing"),
    ("results/Server/accuracy/images/2747.png", remove, "missing"),
    (f"results/Server/{DETAIL}", value("effective_target_latency_ns", 20000000000, 20000000001),
     "target_latency_ms"),
    (f"results/Server/{DETAIL}", value("effective_target_latency_percentile", 0.99, 0.97),
     "percentile"),
    (f"results/Server/{DETAIL}", value("result_query_count", 459, 458), "queries"),
    (f"results/Offline/{DETAIL}", value("effective_scenario", '"Offline"', '"SingleStream"'),
     "is a run of SingleStream"),
]  # fmt: skip


@pytest.fixture(scope="module")
def copies(tree, tree51, tmp_path_factory):
    """The trees without their sources, which no rule looks into."""
    found = {}
    for which, source in ((V61, tree), (V51, tree51)):
        found[which] = tmp_path_factory.mktemp("copy") / "tree"
        shutil.copytree(source, found[which], ignore=shutil.ignore_patterns("sdxl", "conf"))
        assert not check(found[which], which)
    return found


@contextlib.contextmanager
def spoiled(tree, path, spoil):
    """The tree with one thing wrong, right again afterwards."""
    kept = tree.with_name("kept")
    shutil.copytree(tree, kept)
    try:
        spoil(path)
        yield
    finally:
        shutil.rmtree(tree)
        kept.rename(tree)


def test_the_faults_are_more_than_sixty_kinds():
    assert len({(name, what) for name, _, what in [*SPOILED, *SPOILED_51]}) >= 100


@pytest.mark.parametrize(("name", "spoil", "what"), SPOILED, ids=words_only)
def test_a_spoiled_tree_is_noticed(copies, name, spoil, what):
    """Most fail the official checker too; it lets INVALID results pass, for one."""
    tree = copies[V61]
    with spoiled(tree, tree / name, spoil):
        found = check(tree, V61)
    assert any(what in each.text for each in found), found


@pytest.mark.parametrize(("name", "spoil", "what"), SPOILED_51, ids=words_only)
def test_a_spoiled_datacenter_tree_is_noticed(copies, name, spoil, what):
    tree = copies[V51]
    top, _, rest = name.partition("/")
    inner = tree / "closed/Us" / top / "box/stable-diffusion-xl" / rest
    path = tree / name if top == "closed" else inner
    with spoiled(tree, path, spoil):
        found = check(tree, V51)
    assert any(what in each.text for each in found), found


def stand_in(tree):
    """SingleStream's runs in Offline's folder: Offline is inferred."""
    for part in ("performance", "accuracy", "TEST01", "TEST04"):
        shutil.rmtree(tree / OFFLINE / part)
        shutil.copytree(tree / SINGLE / part, tree / OFFLINE / part)


ACCEPTED = [  # what the official checker takes, too
    stand_in,
    lambda tree: unequal(23.5, 23.6)(tree / OFFLINE / "TEST01"),
    lambda tree: change(number_of_nodes=1, accelerators_per_node="0")(tree / BOX),
    lambda tree: (tree / OFFLINE).rename(tree / RESULTS / "offline"),
    lambda tree: (tree / "README.md").write_text("ours"),
    lambda tree: (tree / OFFLINE / "performance/run_1/more.txt").write_text("x"),
]


@pytest.mark.parametrize("alter", ACCEPTED)
def test_what_the_official_checker_takes_is_taken(copies, alter):
    tree = copies[V61]
    with spoiled(tree, tree, alter):
        assert not check(tree, V61)


def test_a_system_of_both_kinds_needs_a_server_run(copies):
    tree = copies[V61]
    with spoiled(tree, tree / BOX, change(system_type="datacenter,edge")):
        found = check(tree, V61)
    assert [each.text for each in found] == ["missing: datacenter,edge systems must have it"]
    assert found[0].path.name == "Server"


def test_the_check_is_a_command_of_its_own(tree, tmp_path, capsys):
    assert command.main(["check", str(tree)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "ok"
    assert command.main(["check", str(tree), "--round", "v6.0"]) == 1
    assert "seeds" in capsys.readouterr().err
    assert command.main(["check", str(tmp_path)]) == 1
    assert command.main(["check", str(tmp_path / "nowhere")]) == 2
