"""The rounds' table is what MLPerf published, and what LoadGen says it was given."""

import json
import subprocess
import sys
import time

import pytest

from sdxl.bench import logs
from sdxl.bench.mlperf.rounds import ROUNDS, SETTINGS, rules_of
from sdxl.config.schema import Round
from sdxl.core.errors import ConfigError
from sdxl.run.plan import show_plan
from tests.conftest import ROOT, words_of

EXPERIMENTS = {
    "mlperf_offline": "Offline",
    "mlperf_server": "Server",
    "mlperf_singlestream": "SingleStream",
}
FAKE = ("backend=fake", "model=tiny_random", "precision=fp32", "backend.latency_ms=0",
        "backend.sample_ms=0")  # fmt: skip


def test_image_ids_are_the_published_ones(data):
    for which, rules in ROUNDS.items():
        published = (data / f"mlperf/sample_ids/{which.value}.txt").read_text().split()
        assert rules.image_ids[:10] == tuple(map(int, published)), which
    # v5.0's checker was left with v4.0's list: both are asked for.
    old = (data / "mlperf/sample_ids/v4.0.txt").read_text().split()
    assert ROUNDS[Round("v5.0")].image_ids[10:] == tuple(map(int, old))


def test_rounds_differ_in_seeds_and_pictures_and_say_where_sdxl_stands():
    assert len({rules.seeds for rules in ROUNDS.values()}) == len(ROUNDS)
    assert len({rules.image_ids for rules in ROUNDS.values()}) == len(ROUNDS)
    for name in ("v6.0", "v6.1"):
        found = ROUNDS[Round(name)].scenarios
        assert "datacenter" not in found and found["edge"] == ("SingleStream", "Offline")
        assert found["datacenter,edge"] == ("SingleStream", "Offline", "Server")
    for name in ("v4.1", "v5.0", "v5.1"):
        assert ROUNDS[Round(name)].scenarios["datacenter"] == ("Server", "Offline")
    assert ROUNDS[Round("v5.1")].layout.source == "code"


def test_custom_seeds_are_their_own_and_no_submission():
    first, again, other = (rules_of(Round("custom"), seed) for seed in (0, 0, 1))
    assert first == again and first.seeds != other.seeds
    assert not first.scenarios
    assert all(0 < seed < 1 << 64 for seed in vars(first.seeds).values())


@pytest.mark.parametrize("which", [each.value for each in ROUNDS])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_has_the_official_settings(load, experiment, which):
    config = load(f"+experiment={experiment}", f"round={which}")
    wanted, scenario = SETTINGS[EXPERIMENTS[experiment]], config.scenario
    assert scenario.name == EXPERIMENTS[experiment] and config.round.value == which
    assert scenario.min_duration_ms == wanted.min_duration_ms == 600_000
    assert scenario.min_query_count == wanted.min_query_count
    assert scenario.performance_sample_count == 5000
    if wanted.percentile:
        assert scenario.target_latency_percentile == wanted.percentile
    if wanted.target_latency_ms:
        assert scenario.target_latency_ms == wanted.target_latency_ms
    assert load(f"+experiment={experiment}", "mode=accuracy").mode.value == "accuracy"


OURS_AND_THEIRS = """
import sys, mlperf_loadgen as lg
from hydra import compose, initialize_config_dir
from sdxl.config import load as config, registry
from sdxl.bench.loadgen import WarmUp, describe, test_settings
root, experiment, scenario = sys.argv[1:]
registry.register()
with initialize_config_dir(root + "/conf", version_base="1.3"):
    chosen = config.load(compose("run", overrides=["+experiment=" + experiment]))
official = lg.TestSettings()
open("user.conf", "w").close()
assert official.FromConfig("user.conf", "stable-diffusion-xl", scenario) == 0
official.scenario = getattr(lg.TestScenario, scenario)
ours = describe(test_settings(chosen, 5000, WarmUp(1.0, 2.0)))
theirs = describe(official)
import json
print(json.dumps({k: [ours[k], theirs[k]] for k in ours if ours[k] != theirs[k]}))
"""


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_loadgens_own_rule_file_gives_the_same_settings(experiment, tmp_path):
    """Nothing else differs than what a submitter sets, and Server's 459 queries."""
    done = subprocess.run(
        [sys.executable, "-c", OURS_AND_THEIRS, str(ROOT), experiment, EXPERIMENTS[experiment]],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    theirs_to_set = {
        "Offline": {"offline_expected_qps"},
        "Server": {"server_target_qps", "min_query_count", "server_coalesce_queries"},
        "SingleStream": {"single_stream_expected_latency_ns"},
    }
    # The library of prompts has the round's count itself; LoadGen needs no override of it.
    expected = theirs_to_set[EXPERIMENTS[experiment]] | {"performance_sample_count_override"}
    own = {"Offline": "offline", "Server": "server", "SingleStream": "single_stream"}
    others = {"offline", "server", "single_stream", "multi_stream", "test05"}
    others.remove(own[EXPERIMENTS[experiment]])  # test05 left the benchmark with v5.0
    assert {name for name in found if not name.startswith(tuple(others))} <= expected
    if experiment == "mlperf_server":
        assert found["min_query_count"] == [459, 100]


@pytest.mark.parametrize(("experiment", "which"), [("mlperf_offline", "v5.1"),
                                                   ("mlperf_server", "v6.1"),
                                                   ("mlperf_singlestream", "v5.1")])  # fmt: skip
def test_loadgen_logs_the_tables_settings(experiment, which, data, tmp_path):
    """A real test is begun; it need not run its ten minutes to say with what settings it runs."""
    words = [f"+experiment={experiment}", f"round={which}", *FAKE,
             f"dataset.path={data / 'mlperf/captions_source.tsv'}"]  # fmt: skip
    words += {"mlperf_offline": ["scenario.target_qps=1"],
              "mlperf_server": ["scenario.target_qps=50"]}.get(experiment, [])  # fmt: skip
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words_of(words, out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    detail = wait_for(out / "loadgen/mlperf_log_detail.txt", "effective_performance_issue_same")
    process.terminate()
    process.wait(100)
    wanted, seeds = SETTINGS[EXPERIMENTS[experiment]], ROUNDS[Round(which)].seeds
    seen = {name.removeprefix("effective_"): value for name, value in detail.items()}
    assert seen["scenario"] == EXPERIMENTS[experiment]
    for name, seed in vars(seeds).items():
        assert seen[f"{name}_rng_seed"] == seed
    assert seen["min_duration_ms"] == 600_000 and seen["performance_sample_count"] == 5000
    count = "samples_per_query" if experiment == "mlperf_offline" else "min_query_count"
    assert seen[count] == wanted.min_query_count
    if wanted.percentile:
        assert seen["target_latency_percentile"] == pytest.approx(wanted.percentile)
    if wanted.target_latency_ms:
        assert seen["target_latency_ns"] == wanted.target_latency_ms * 1e6
    assert not seen["errors"] and not seen["performance_issue_same"]


def wait_for(path, key):
    for _ in range(2400):
        if path.is_file() and key in path.read_text():
            return logs.parse_detail(path)
        time.sleep(0.05)
    raise AssertionError(f"{key} never came: {path.is_file() and path.read_text()[-500:]}")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["compliance=test01", "mode=accuracy"], "performance mode"),
        (["compliance=test04", "repeat=2"], "`repeat` would be ignored"),
        (["compliance=test04", "limit=3"], "prompt 3 over and over"),
        (["compliance=test04", "scenario=Server", "find_peak=true"], "runs at one rate"),
    ],
)
def test_an_audit_that_cannot_be_one_is_refused(load, words, what):
    with pytest.raises(ConfigError, match=what):
        load(*words)


def test_the_plan_shows_duration_disk_and_the_rounds_status(load, capsys, data):
    captions = f"dataset.path={data / 'mlperf/captions_source.tsv'}"
    show_plan(load("+experiment=mlperf_server", "round=v5.1", "scenario.target_qps=0.5", captions,
                   *FAKE, "plan=true"))  # fmt: skip
    said = capsys.readouterr().out
    assert "at least 918 s" in said and "datacenter and edge" in said  # 459 / 0.5
    large = ("model.height=1024", "model.width=1024")
    show_plan(load("+experiment=mlperf_offline", "mode=accuracy", "submission=true", captions,
                   *FAKE, *large, "plan=true"))  # fmt: skip
    said = capsys.readouterr().out
    assert "31.46 GB of accuracy log" in said and "edge only" in said
    show_plan(load("+experiment=mlperf_offline", "compliance=test01", captions, *FAKE, *large,
                   "plan=true"))  # fmt: skip
    said = capsys.readouterr().out
    assert "audit test01" in said and "0.81 GB of accuracy log" in said  # 128 pictures
