"""Real 8-bit arithmetic as a setting: what it needs, its baseline, a cell of it."""

import pytest
import torch

from sdxl.backends.torch import BACKEND, eight_bit, real
from sdxl.config.derive import baseline_of
from sdxl.core.errors import ConfigError
from sdxl.model.sources import open_source

CPU = torch.device("cpu")


def test_real_execution_needs_something_to_execute(load):
    for words in (["quant=none"], ["quant=int8_weight_only"]):
        with pytest.raises(ConfigError, match="would be ignored"):
            load("backend.execution=real", *words)
    with pytest.raises(ConfigError, match=r"torch.compile cannot trace"):
        load("backend.execution=real", "quant=int8", "backend.compile=reduce-overhead")


def test_the_vae_is_compiled_and_the_8_bit_unet_is_not(load, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda run, **words: seen.append(words) or run)
    config = load("quant=int8", "backend.execution=real", "backend.compile=default")
    unet = open_source(config.model, 0).component("unet", torch.float32, CPU)
    monkeypatch.setattr(real, "restore", lambda *_: (unet, eight_bit.Choice(CPU)))
    stages = BACKEND.open(config, {"unet": tmp_path})
    assert seen == [{"mode": "default", "dynamic": False}]
    assert stages.describe()["compile_cache"]["networks"] == ["vae"]
    plain = BACKEND.open(load("backend.compile=default"), {})
    assert plain.describe()["compile_cache"]["networks"] == ["unet", "vae"]


def test_the_baseline_is_the_same_for_both_executions(load):
    baselines = [
        baseline_of(load("quant=int8", f"backend.execution={e}")) for e in ("real", "simulated")
    ]
    assert baselines[0] == baselines[1]
    assert baselines[0].backend.execution.value == "simulated"


@pytest.mark.slow
def test_a_real_cell(cli):
    done = cli("quant_level=3", "backend.execution=real", "limit=2", "calib_size=1", "rules=open",
               "model.steps=2", "model.height=64", "model.width=64", "scenario.min_duration_ms=1",
               "quant.report_prompts=0", timeout=280)  # fmt: skip
    assert done.code == 0, done.err
    generator = done.record["performance"]["generator"]
    executed = generator["execution"]
    assert generator["simulated"] is (executed["real_layers"] == 0)
    assert executed["real_layers"] + executed["simulated_layers"] == 150
    assert "8-bit layers" in done.out
    assert ("means nothing" in done.out) is generator["simulated"]
    baseline = done.dir / "baseline" / "record.json"
    assert "backend.execution" not in baseline.read_text().split('"command"')[1].split("\n")[0]
