"""The GPU ladder: its rungs compose, and its table reads what the records hold."""

import importlib.util

import pytest

from tests.conftest import ROOT

RUNGS = sorted(file.stem for file in (ROOT / "conf/rung").glob("*.yaml"))


def session():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("gpu_session", ROOT / "benchmarks/gpu_session.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_is_a_valid_configuration(load, rung):
    config = load(f"+rung={rung}")
    eight_bit = config.backend.execution.value == "real"
    assert eight_bit == (config.quant.format.value == "int8") == rung.endswith("8bit")


def test_the_ladder_climbs_every_rung():
    text = (ROOT / "conf/experiment/gpu_ladder.yaml").read_text()
    listed = text.split("+rung: ")[1].split("\n")[0].split(",")
    assert sorted(listed) == RUNGS and listed[0] == "plain"


def test_linear_8bit_leaves_convolutions_alone(load):
    import torch

    from sdxl.model import shapes_source
    from sdxl.quant import levels

    config = load("+rung=linear_8bit")
    unet = shapes_source(config.model, 0).component("unet", torch.float32, torch.device("meta"))
    kinds = {layer.kind.value for layer in levels.select(levels.layers_of(unet), config.quant)}
    assert kinds == {"linear"}


def test_the_table(capsys):
    def record(rung, rate, **more):
        return {
            "command": f"python run.py +rung={rung} tracking=off", "status": "ok", "reason": "",
            "performance": {"images_per_second": rate, "tflops": 2.0, **more},
            "resources": {"peak_rss_bytes": 2**31},
        }  # fmt: skip

    failed = {**record("compiled", None), "status": "failed", "reason": "no compiler"}
    rows = [record("plain", 2.0), failed, record("conv_8bit", 5.0, roofline={"share": 0.25})]
    session().show(rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines[0] == ["plain", "2.000", "500.0", "2.00", "-", "2.00", "1.000"]
    assert lines[1] == ["compiled", "failed:", "no", "compiler"]
    assert lines[2] == ["conv_8bit", "5.000", "200.0", "2.00", "25.0%", "2.00", "2.500"]
