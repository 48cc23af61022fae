"""What each UNet call computes, and which shortcuts are refused."""

import pytest

from sdxl.config import schema
from sdxl.config.shortcuts import Cross, counts, parted, steps_of
from sdxl.core.errors import ConfigError


def words(steps):
    """`D` a deep call, `s` a shallow one, doubled where guided, `*` where the feature is kept."""
    letters = [("D" if s.deep else "s") * s.rows + "*" * s.keeps for s in steps]
    marks = {Cross.computed: "", Cross.recorded: "!", Cross.replayed: "."}
    return " ".join(each + marks[s.cross] for each, s in zip(letters, steps, strict=True))


@pytest.mark.parametrize(
    ("shortcut", "expected"),
    [
        (schema.Shortcut("none"), "DD DD DD DD DD DD"),
        (schema.GuidanceCutoff("x", 0.0, 0.5), "DD DD DD D D D"),
        (schema.GuidanceCutoff("x", 0.3, 0.7), "D D DD DD D D"),
        (schema.DeepCache("x", 3), "DD* ss ss DD* ss ss"),
        (schema.DeepCache("x", deep_steps=[0, 1, 4]), "DD DD* ss ss DD* ss"),
        (schema.TGate("x", 0.5), "DD DD DD! D. D. D."),
        (schema.DeepCacheTGate("x", gate=0.5), "DD*! ss ss D*. s. s."),
        (schema.DeepCacheCutoff("x", start=0.5, until=1.0), "D* s s DD* ss ss"),
        (schema.DeepCacheCutoff("x", 0.7, 1.0, 3), "D* s s D DD* ss"),
    ],
)
def test_the_calls_of_a_shortcut(shortcut, expected):
    assert words(steps_of(shortcut, 6, guided=True)) == expected


def test_a_model_without_guidance_has_one_row():
    steps = steps_of(schema.TGate("tgate", 0.5), 4, guided=False)
    assert words(steps) == "D D! D. D." and parted(steps)
    assert counts(steps) == {"deep": 2, "deep-gated": 2}
    assert not parted(steps_of(schema.GuidanceCutoff("x", 0.0, 0.5), 4, guided=True))


@pytest.mark.parametrize(
    ("typed", "said", "fix"),
    [
        (["shortcut=deepcache", "rules=closed"], "caches nothing and skips nothing", "rules=open"),
        (["shortcut=deepcache", "backend=fake"], "backend=fake draws without", "backend=torch"),
        (["shortcut=tgate", "backend=trt", "export.dynamic_size=true", "precision=fp16"],
         "graphs of one size", "export.dynamic_size=false"),
        (["shortcut=deepcache", "backend.loop=pipeline"], "own pipeline", "backend.loop=static"),
        (["shortcut=guidance_cutoff", "model.guidance=1"], "without guidance", "deepcache"),
        (["shortcut=guidance_cutoff", "shortcut.start=0.5"], "must be below", "shortcut.until"),
        (["shortcut=guidance_cutoff", "shortcut.until=1"], "leaves nothing out", "shortcut=none"),
        (["shortcut=deepcache", "model.steps=1"], "leaves nothing out", "shortcut=none"),
        (["shortcut=tgate", "shortcut.gate=1"], "is a share of the steps", ""),
        (["shortcut=deepcache", "shortcut.interval=1"], "is too small", ""),
        (["shortcut=token_merging", "shortcut.ratio=0.8"], "is a share of the tokens", ""),
        (["shortcut=token_merging", "backend=ort"], "backend=ort merges no tokens", "torch"),
        (["shortcut=token_merging", "backend=trt"], "backend=trt merges no tokens", "torch"),
        (["shortcut=deepcache", "shortcut.deep_steps=[1,2]"], "in order, from 0", "deep_steps"),
        (["shortcut=deepcache", "shortcut.deep_steps=[0,99]"], "in order, from 0", "deep_steps"),
        (
            ["shortcut=deepcache", "shortcut.deep_steps=[0,4]", "shortcut.interval=5"],
            "beside `shortcut.deep_steps`",
            "shortcut.deep_steps=null",
        ),
        (["shortcut=deepcache", "shortcut.name=tgate"], "is no setting", "shortcut=tgate"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(load, typed, said, fix):
    with pytest.raises(ConfigError) as refused:
        load(*typed)
    problem = refused.value.problems[0]
    assert said in problem.what and fix in (problem.fix or ""), refused.value.problems


def test_closed_rules_are_those_of_the_benchmarks_weights(load):
    with pytest.raises(ConfigError, match="closed division"):
        load("model=sdxl", "shortcut=deepcache")
    assert load("model=sdxl", "shortcut=deepcache", "rules=open").shortcut.interval == 3
