"""`profile=true`: the parts add up, the trace can be read, and a compiled loop is seen through."""

import gzip
import json

import pytest

from sdxl.backends.torch import BACKEND
from sdxl.bench.profile import TOP, TRACE, run
from sdxl.core.errors import ConfigError
from sdxl.model import prompts
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from sdxl.report.terminal import profile

SMALL = ("rules=open", "model.steps=2", "model.height=64", "model.width=64")


def test_a_profiled_cell(cli):
    done = cli(*SMALL, "profile=true", "limit=2", "scenario.min_duration_ms=1",
               "scenario.warmup_batches=1", timeout=280)  # fmt: skip
    assert done.code == 0, done.err
    found = done.record["performance"]["profile"]
    assert found["images"] == 2
    assert set(found["kinds"]) == {"text_encoder", "text_encoder_2", "unet", "vae"}
    assert {"linear", "conv", "attention", "norm"} <= set(found["kinds"]["unet"])
    spent = sum(ms for kinds in found["kinds"].values() for ms in kinds.values())
    assert 0 < spent < found["modules_ms"]
    lengths = [each["ms"] for each in found["kernels"]]
    assert len(lengths) == TOP and lengths == sorted(lengths, reverse=True)
    names = {each["kernel"] for each in found["kernels"]}
    assert any("mm" in name or "convolution" in name for name in names), names
    assert len(found["modules"]) == TOP
    with gzip.open(done.dir / TRACE) as file:
        trace = json.loads(file.read())
    calls = {each["name"] for each in trace["traceEvents"] if each.get("cat") == "cpu_op"}
    assert "aten::scaled_dot_product_attention" in calls
    for words in ("time in unet", "longest kernels", "longest modules", TRACE):
        assert words in done.out


def test_the_loop_is_what_it_was_after_a_profile(load, tmp_path):
    config = load(*SMALL)
    chosen = prompts.load(config.dataset, 1, 0)
    sampler = Sampler(BACKEND.open(config, {}), open_source(config.model, 0), config, chosen)
    before = sampler.generate([0])
    loop, unet = sampler.stages.denoise, sampler.stages._unet
    found = run(sampler, 1, tmp_path)
    assert sampler.stages.denoise is loop and sampler.stages._unet is unet
    assert not any(m._forward_hooks for m in sampler.stages.modules["unet"].modules())
    assert (sampler.generate([0]) == before).all()
    rows = dict(profile.rows(found))
    assert rows["longest kernels"].count("\n") == TOP - 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backend=fake"], "has no modules"),
        (["backend.devices=[0]"], "workers draw"),
        (["scenario=Server", "find_peak=true"], "many times"),
    ],
)
def test_a_profile_that_nobody_could_make_is_refused(load, words, said):
    with pytest.raises(ConfigError, match=said):
        load("profile=true", *words)
