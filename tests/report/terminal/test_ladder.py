"""The GPU ladder: its rungs compose and climb, what needs CUDA is skipped, its table."""

import dataclasses

import pytest

from sdxl.core import records
from sdxl.core.command import Outcome
from sdxl.core.record import Performance, Resources
from sdxl.report.terminal import ladder
from sdxl.run import identity
from tests.conftest import ROOT

RUNGS = sorted(file.stem for file in (ROOT / "conf/rung").glob("*.yaml"))
EIGHT_BIT = ("linear_8bit", "fusion", "conv_8bit", "graphs", "fp8", "overlap")
CUDA = ("graphs_16bit", "graphs", "fp8", "overlap")


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_is_a_valid_configuration(load, rung):
    config = load(f"+rung={rung}")
    assert (config.backend.execution.value == "real") == (rung in EIGHT_BIT)
    assert (config.backend.graphs.value == "step") == (rung in CUDA)
    assert config.backend.overlap == (rung == "overlap")
    assert config.quant.format.value == ("fp8" if rung in ("fp8", "overlap") else
                                         "int8" if rung in EIGHT_BIT else "none")  # fmt: skip
    assert load(f"+rung={rung}", "precision=fp32").precision.unet.value == "fp32"


def listed():
    text = (ROOT / "conf/experiment/gpu_ladder.yaml").read_text()
    return text.split("+rung: ")[1].split("\n")[0].split(",")


def test_the_ladder_climbs_every_rung():
    assert sorted(listed()) == RUNGS and listed()[0] == "plain"


def test_linear_8bit_leaves_convolutions_alone(load):
    import torch

    from sdxl.model.sources import shapes_source
    from sdxl.quant import levels

    for rung, kinds in (("linear_8bit", {"linear"}), ("conv_8bit", {"linear", "conv"})):
        config = load(f"+rung={rung}")
        unet = shapes_source(config.model, 0).component("unet", torch.float32, torch.device("meta"))
        chosen = levels.select(levels.layers_of(unet), config.quant)
        assert {layer.kind.value for layer in chosen} == kinds


def outcome(folder, load, rung, rate, share=None, fallbacks=None):
    """A record's outcome as the sweep has it."""
    record = identity.new(load(f"+rung={rung}", "tracking=off"))
    record.status, record.command = "ok", f"python run.py +rung={rung} tracking=off"
    limit = {"matrix_tflops": 8.0, **({"share": share} if share else {})}
    record.performance = Performance.from_json({
        "scenario": "Offline", "batch_size": 8, "images_per_second": rate, "tflops": 2.0,
        "roofline": limit, "generator": {"execution": {"fallbacks": fallbacks or {}}},
    })  # fmt: skip
    record.resources = Resources(peak_rss_bytes=2**31)
    path = records.write(dataclasses.replace(record), folder / rung)
    return Outcome(record=str(path), command=record.command, figures={"images_per_second": rate})


def test_the_table(load, tmp_path, capsys):
    skipped = Outcome("skipped", reason="no CUDA", command="python run.py +rung=graphs")
    rows = ladder.table([
        outcome(tmp_path, load, "plain", 2.0),
        skipped,
        outcome(tmp_path, load, "conv_8bit", 5.0, 0.25, {"no kernel": 3}),
    ])  # fmt: skip
    assert rows[0] == ("plain", "Offline", "8", "2.000", "500.0", "2", "25.0%", "-", "2.00",
                       "1.000", "")  # fmt: skip
    assert rows[1] == ("graphs", *[""] * 9, "skipped: no CUDA")
    assert rows[2][-4:] == ("25.0%", "2.00", "2.500", "3 x no kernel")
    ladder.show([Outcome(command="python run.py limit=2")])
    assert not capsys.readouterr().out, "no rungs, no table"


def test_a_rung_equal_to_another_shows_its_figures(load, tmp_path):
    first = outcome(tmp_path, load, "eager", 4.0)
    record = identity.new(load("+rung=eager", "tracking=off"))
    record.status, record.reason = "skipped", "the same work as 0"
    record.performance = Performance(equal_to=first.record)
    path = records.write(record, tmp_path / "again")
    equal = dataclasses.replace(first, status="skipped", record=str(path))
    rows = ladder.table([first, equal])
    assert rows[1] == (*rows[0][:-1], "skipped: the same work as 0")


@pytest.mark.slow
def test_the_ladder_on_a_cpu(cli):
    """Four rungs from end to end; all of them take minutes, torch.compile's above all."""
    done = cli("-m", "+experiment=gpu_ladder", "+rung=plain,eager,conv_8bit,graphs",
               "precision=fp32", "limit=2",
               "rules=open", "model.steps=2", "model.height=64", "model.width=64",
               "scenario.min_duration_ms=1", "scenario.warmup_batches=1", "backend.batch_size=2",
               "backend.compile=none",
               timeout=290)  # fmt: skip
    assert done.code == 0, done.err
    summary = done.json
    assert summary["skipped"] == 1 and summary["ok"] == 3, done.out
    assert "needs CUDA" in done.out and "of matrix peak" in done.out
    found = {record["command"].split("+rung=")[1].split()[0]: record for record in done.records()}
    kinds = {rung: each["performance"]["generator"] for rung, each in found.items()}
    assert kinds["plain"]["loop"]["kind"] == "pipeline"
    assert kinds["eager"]["loop"]["kind"] == "static"
    assert kinds["conv_8bit"]["attention"]["shapes"]
    assert all("baseline" not in each["quality"] for each in found.values())
