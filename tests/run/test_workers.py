"""`backend.devices` from the command line to the record, with real LoadGen."""

import time

import psutil
import pytest

from sdxl.model import images
from tests.bench.test_pool import shared_blocks

FAST = ("backend=fake", "backend.sample_ms=0.2", "scenario.min_duration_ms=0", "limit=24")


def left_over(before):
    """Blocks still there after five seconds: a killed process's are its tracker's to free."""
    until = time.monotonic() + 5
    while (found := shared_blocks() - before) and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("scenario", ["Server", "MultiStream"])
def test_two_workers_answer_every_sample_with_the_right_picture(cli, load, scenario):
    from sdxl.backends import fake

    before = shared_blocks()
    done = cli(*FAST, "backend.devices=[0,1]", f"scenario={scenario}", "quality.keep_images=24")
    assert done.code == 0, done.err
    found = done.record["performance"]
    assert found["counts"]["done"] == found["counts"]["issued"] >= 24
    assert found["generator"]["devices"] == [0, 1] and found["generator"]["deaths"] == []
    assert shared_blocks() <= before
    config = load(*FAST)
    generator = fake.BACKEND.open(config, {})
    for entry in done.record["images"]:
        expected = generator.generate([entry["index"]])[0]
        assert entry["sha256"] == images.pixel_hash(expected)


def test_accuracy_mode_keeps_every_picture_of_every_worker(cli):
    done = cli("backend=fake", "backend.sample_ms=0", "backend.devices=[0,1,2]", "mode=accuracy",
               "limit=20")  # fmt: skip
    assert done.code == 0, done.err
    assert [entry["index"] for entry in done.record["images"]] == list(range(20))


def test_a_worker_killed_once_marks_the_run_and_loses_nothing(cli):
    """The fake backend kills each process at its own 30th picture: every worker, repeatedly."""
    killing = ("backend.devices=[0,1]", "backend.fail=kill", "backend.fail_at=30",
               "backend.batch_size=2")  # fmt: skip
    done = cli(*FAST, *killing, "backend.restarts=20", "scenario.min_query_count=100",
               "scenario.target_qps=100")  # fmt: skip
    assert done.code == 0, done.err
    record, found = done.record, done.record["performance"]
    deaths = found["generator"]["deaths"]
    assert deaths and {death["how"] for death in deaths} == {"SIGKILL"}
    assert found["counts"]["done"] == found["counts"]["issued"] >= 100
    assert f"{len(deaths)} workers died and were replaced" in record["comparable_reason"]


def test_a_worker_that_keeps_dying_fails_loudly_and_leaves_nothing(cli):
    before = shared_blocks()
    done = cli(*FAST, "backend.devices=[0,1]", "backend.fail=kill", "backend.fail_at=20",
               "backend.batch_size=2", "scenario.min_query_count=200")  # fmt: skip
    assert done.code == 1
    assert "died: SIGKILL" in done.err and "backend.restarts=4" in done.err
    assert done.record["status"] == "failed"
    assert not left_over(before)
    ours = [p for p in psutil.process_iter(["cmdline"]) if str(done.dir) in str(p.info["cmdline"])]
    assert not ours


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backend.devices=[0,0]"], "names each device once"),
        (["backend.devices=[]"], "names each device once"),
        (["backend.devices=[-1]"], "names each device once"),
        (["backend.restarts=3"], "`backend.restarts` would be ignored"),
        (["backend.devices=[0,1]", "scenario=SingleStream"], "SingleStream sends single samples"),
    ],
)
def test_settings_that_make_no_sense_are_refused(load, words, says):
    from sdxl.core.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        load(*words)
    assert says in str([problem.what for problem in caught.value.problems])
