"""The candidates of `+sweep=ship`: valid configurations, and none of them simulates."""

import shlex

import pytest

from sdxl.config.compose import Composer
from sdxl.config.derive import baseline_of
from sdxl.config.schema import Format
from sdxl.core.errors import ConfigError
from sdxl.run import cell, identity
from sdxl.run.sweep.cells import combinations, fitted
from tests.conftest import ROOT

CANDIDATES = sorted(file.stem for file in (ROOT / "conf/candidate").glob("*.yaml"))
CALIBRATION = ["calib_size=8", "percentile=0.5", "quant.calib_dataset=builtin", "quant.calls=min"]


@pytest.fixture(scope="module")
def composer():
    return Composer("run")


def test_the_sweep_has_every_candidate_but_those_of_an_extra():
    text = (ROOT / "conf/sweep/ship.yaml").read_text()
    listed = text.split("+candidate: ")[1].split("\n")[0].split(",")
    needed = [name for name in CANDIDATES if not name.startswith("openvino")]
    assert sorted(listed) == needed and len(needed) == 9


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_is_valid_and_computes_in_its_own_numbers(load, name):
    config = load(f"+candidate={name}", "model=tiny")
    backend, kind, *level = name.split("_")
    assert config.backend.name == backend
    if kind == "int8":
        assert config.quant.format is Format.int8
        assert config.quant.level == float(".".join(level))
        assert backend != "torch" or config.backend.execution.value == "real"
    else:
        assert config.quant.format is Format.none and config.precision.unet.value == kind


@pytest.mark.parametrize("sweep", ["ship", "shortcuts"])
def test_calibration_of_a_sweep_leaves_its_unquantized_cells_as_they_are(composer, sweep):
    _, cells, _ = combinations(composer, [f"+sweep={sweep}", *CALIBRATION])
    assert len(cells) == {"ship": 9, "shortcuts": 24}[sweep]
    for words in fitted(composer, cells):
        config = composer.config(words)
        quantized = any(word.startswith("+candidate=") and "_int8" in word for word in words)
        assert (config.quant.format is Format.int8) == quantized
        assert (config.quant.calib_size == 8) == quantized
        if not quantized:
            plain = composer.config([word for word in words if word not in CALIBRATION])
            assert identity.identity(config) == identity.identity(plain)


@pytest.mark.parametrize(
    ("none", "int8"),
    [
        ("+rung=eager", "+rung=conv_8bit"),
        ("+latency=ort", "+latency=ort_int8"),
        ("quant=none", "quant=int8"),
        ("quant=none", "quant=auto"),
    ],
)
def test_what_another_cell_uses_is_left_out_of_one_that_would_ignore_it(composer, none, int8):
    words = ["calib_size=8", "percentile=0.5", "quant.calls=min", "quant_level=2"]
    plain, quantized = fitted(composer, [[none, *words], [int8, *words]])
    assert plain == [none] and quantized == [int8, *words]
    assert composer.config(plain).quant.format is Format.none


def test_what_no_cell_uses_is_refused(composer):
    cells = [["quant=none", "calib_size=8"], ["quant=int8_weight_only", "calib_size=8"]]
    cells += [["quant=int8", "calib_size=4"]]
    assert fitted(composer, cells) == cells
    for words in cells[:2]:
        with pytest.raises(ConfigError, match="would be ignored"):
            composer.config(words)


@pytest.mark.parametrize(
    "word", ["quant_level=2", "calib_size=8", "quant.smooth=false", "target=0.2"]
)
def test_an_unquantized_candidate_alone_refuses_what_it_would_ignore(composer, word):
    with pytest.raises(ConfigError, match="would be ignored"):
        composer.config(["+candidate=torch_fp32", word])


def test_an_unquantized_candidate_is_the_plain_configuration(composer):
    found, plain = composer.config(["+candidate=torch_fp32"]), composer.config(["precision=fp32"])
    assert identity.identity(found) == identity.identity(plain)


@pytest.mark.parametrize("word", ["+candidate=torch_int8_2_5", "+latency=ort_int8"])
def test_the_baseline_of_a_candidate_has_a_line_that_measures_it(composer, word):
    config = composer.config([word, "calib_size=8"])
    line = cell.without_quantization(f"python run.py {word} calib_size=8", config)
    alone = composer.config(shlex.split(line)[2:])
    assert identity.identity(alone) == identity.identity(baseline_of(config))
