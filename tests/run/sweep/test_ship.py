"""The candidates of `+sweep=ship`: valid configurations, and none of them simulates."""

import pytest

from sdxl.config.schema import Format
from tests.conftest import ROOT

CANDIDATES = sorted(file.stem for file in (ROOT / "conf/candidate").glob("*.yaml"))


def test_the_sweep_has_every_candidate():
    text = (ROOT / "conf/sweep/ship.yaml").read_text()
    listed = text.split("+candidate: ")[1].split("\n")[0].split(",")
    assert sorted(listed) == CANDIDATES and len(CANDIDATES) == 9


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_is_valid_and_computes_in_its_own_numbers(load, name):
    config = load(f"+candidate={name}", "model=tiny")
    backend, kind, *level = name.split("_")
    assert config.backend.name == backend
    if kind == "int8":
        assert config.quant.format is Format.int8
        assert config.quant.level == float(".".join(level))
        assert backend == "ort" or config.backend.execution.value == "real"
    else:
        assert config.quant.format is Format.none and config.precision.unet.value == kind
