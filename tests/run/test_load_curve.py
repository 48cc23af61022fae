"""scenario=LoadCurve from the command line to the record, on workers, and of several sizes."""

from types import SimpleNamespace

import pytest

from sdxl.config.mix import Kind, kinds
from sdxl.core.errors import ConfigError
from sdxl.run import load_curve
from sdxl.run.estimate import images

SHORT = ("+experiment=load_curve", "quality=none", "scenario.min_duration_ms=300",
         "scenario.min_query_count=8")  # fmt: skip


def test_a_curve_of_two_workers_is_a_record_and_a_table(cli, tmp_path):
    (tmp_path / "trace.txt").write_text("0\n0.1\n0.2\n")
    done = cli(*SHORT, "backend=fake", "backend.latency_ms=20", "backend.sample_ms=0", "limit=8",
               "backend.devices=[0,1]", "backend.batch_size=2", "scenario.concurrencies=[1,8]",
               "scenario.rates=[20,2000,3000]",
               f"scenario.trace={tmp_path / 'trace.txt'}")  # fmt: skip
    assert done.code == 0, done.err
    performance = done.record["performance"]
    points = performance["curve"]["points"]
    assert [(each["kind"], each["asked"]) for each in points[:4]] == [
        ("in flight", 1), ("in flight", 8), ("rate", 20), ("rate", 2000)
    ]  # fmt: skip
    assert [each["saturated"] for each in points] == [False, False, False, True, False]
    assert points[4]["kind"] == "trace" and points[4]["requests"] == 3
    assert performance["images_per_second"] == performance["curve"]["knee"]
    assert performance["counts"]["done"] == sum(each["requests"] for each in points)
    assert "no scenario of MLPerf's" in done.record["comparable_reason"]
    assert done.record["status"] == "ok" and done.record["verdict"] == []
    assert "knee at" in done.out and "VALID" not in done.out


def test_several_sizes_and_step_counts_are_one_stream_of_requests(cli):
    """The model of random weights draws each kind in its own size."""
    done = cli(*SHORT, "model=tiny_random", "backend=torch", "model.width=64", "model.height=64",
               "model.steps=2", "rules=open", "limit=4", "scenario.rates=[]",
               "scenario.concurrencies=[4]", "scenario.mix=[64x64@2:2,96x64@1]",
               "backend.batch_size=4", "quality.keep_images=2")  # fmt: skip
    assert done.code == 0, done.err
    (point,) = done.record["performance"]["curve"]["points"]
    assert point["requests"] >= 8 and point["completed"] > 0
    assert [image["index"] for image in done.record["images"]] == [0, 1]


def test_what_other_kinds_needed_is_given_back(load, monkeypatch):
    """The session's own generator is closed by the session."""
    closed = []

    class Drawn:
        def __init__(self, name):
            self.name = name

        def generate(self, indices):
            return [*indices]

        def close(self):
            closed.append(self.name)

    config = load(*SHORT, "model=tiny_random", "backend=torch", "model.width=64", "model.height=64",
                  "model.steps=2", "rules=open", "scenario.mix=[64x64@2,96x64@1]")  # fmt: skip
    monkeypatch.setattr(load_curve.generators, "open_generator", lambda *_: Drawn("other"))
    monkeypatch.setattr(load_curve.load, "ladder", lambda *_: 1 / 0)
    session = SimpleNamespace(
        config=config, prompts=[0, 1], generator=Drawn("own"), parts=[], pool=None, artifacts={},
        link=SimpleNamespace(fail=None), taker=lambda: None,
        warm=SimpleNamespace(by_shape=False, sizes=()),
    )  # fmt: skip
    curve = load_curve.LoadCurve(session, config.scenario)
    with pytest.raises(ZeroDivisionError):
        curve.run()
    assert closed == ["other"]


def test_the_words_of_a_mix_are_read(load):
    found = load(*SHORT, "scenario.mix=[1024x1024@20:3,512x512@8]", "rules=open").scenario.mix
    assert kinds(found) == [Kind(1024, 1024, 20, 3.0), Kind(512, 512, 8, 1.0)]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["scenario.mix=[1024]"], "cannot be read"),
        (["scenario.mix=[64x64@2:0]"], "cannot be read"),
        (["scenario.mix=[65x64@2]"], "does not fit the UNet"),
        (["scenario.mix=[64x64@0]"], "too small|must be"),
        (["scenario.mix=[]"], "is empty"),
        (["scenario.mix=[64x64@2]", "backend.devices=[0]"], "in this process"),
        (["scenario.rates=[]", "scenario.concurrencies=[]"], "has no point"),
        (["scenario.rates=[0]"], "scenario.rates"),
        (["scenario.concurrencies=[0]"], "scenario.concurrencies"),
        (["mode=accuracy"], "speed alone"),
        (["compliance=test04"], "speed alone"),
        (["find_peak=true"], "`find_peak` would be ignored"),
    ],
)
def test_what_makes_no_curve_is_refused(load, words, what):
    with pytest.raises(ConfigError, match=what):
        load(*SHORT, "rules=open", *words)


def test_a_trace_that_is_not_there_is_refused_before_the_model_loads(cli):
    done = cli(*SHORT, "backend=fake", "scenario.trace=nowhere.txt")
    assert done.code == 2 and "the trace cannot be read" in done.err


def test_a_plan_knows_that_there_are_many_points(load):
    assert images(load(*SHORT), 64) == 14 * 8
