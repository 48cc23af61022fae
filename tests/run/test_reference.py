"""The reference through the whole chain: plan, drawn for a cell, its record, figures in pairs."""

import json

import pytest

from sdxl.config.schema import Config
from sdxl.quality import per_prompt
from sdxl.run import identity, plan

QUICK = ("model=tiny", "quality=fast", "model.steps=1", "rules=open", "limit=6")


def figures(load, *words):
    return plan.show_plan(load(*QUICK, *words)).figures["plan"]["reference"]


def test_the_plan_names_its_price_or_why_there_is_none(load, capsys):
    assert figures(load) == {"pictures": 6, "missing": 6, "seconds": None}
    assert "6 to draw first" in " ".join(capsys.readouterr().out.split())
    assert "null" in figures(load, "quality.reference=null")["absent"]


def test_keys_are_what_they_were_before_there_was_a_reference(load):
    """A default is no part of a key; null, which was one, is a choice now."""

    def found(*words):
        return identity.identity(load(*words))

    config = load("quality=fast")
    assert isinstance(config, Config) and config.quality.reference == "auto"
    assert found("quality=fast") != found("quality=fast", "quality.reference=null")
    assert found("quality=full") != found("quality=full", "quality.reference=null")
    assert found("quality=full") == found("quality=full", "quality.reference=auto")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quantized_cell_stands_beside_its_reference_and_its_baseline(cli):
    quant = ("quant=int4_weight_only", "quant.report_prompts=0")
    done = cli(*QUICK, *quant, "scenario.min_duration_ms=0", timeout=800)
    assert done.code == 0, done.err
    assert "reference pictures in fp32" in done.err
    quality = done.record["quality"]
    found = quality["reference"]
    assert found["images"] == 6 and 10 < found["psnr_db"] < 90 and found["ssim"] < 1
    low, high = found["intervals"]["psnr_db"]
    assert low <= found["psnr_db"] <= high
    assert {each["metric"] for each in found["paired"]} >= {"attribute", "clip_scenes"}
    assert done.record["durations"]["reference_s"] > 0
    base = json.loads((done.dir / "baseline" / "record.json").read_text())
    assert base["quality"]["reference"]["key"] == found["key"]
    assert base["quality"]["reference"]["max_deviation"] <= 2  # fp32 is the reference itself
    pairs = {each["metric"]: each for each in quality["baseline"]["paired"]}
    assert pairs["psnr_db"]["difference"] < 0 and pairs["psnr_db"]["prompts"] == 6
    assert "answers_changed" in pairs
    table = per_prompt.read(done.dir / quality["per_prompt"]["file"])
    assert len(table.figures["psnr_db"].values) == 6
    assert len(table.figures["attribute"].reference) == 6
