"""`backend.execution=auto`: 8 bits where they are faster here, floats elsewhere, said and kept."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sdxl.backends.torch import timings
from sdxl.backends.torch.eight_bit import Choice
from sdxl.backends.torch.layer import Float, Geometry
from sdxl.config.schema import Format
from sdxl.core import busy
from sdxl.core.errors import ConfigError
from sdxl.model import codes
from tests import coded
from tests.conftest import ROOT

CPU = torch.device("cpu")


def layer_of(weight, amax=3.0, factors=None, conv=None):
    return coded.layer(Format.int8, weight, torch.tensor(amax), torch.float32, factors, None, conv)


@pytest.mark.parametrize("conv", [None, Geometry([2, 2], [1, 1], [1, 1])])
def test_a_layer_in_floats_is_the_dequantized_weight_on_the_plain_input(conv):
    torch.manual_seed(0)
    weight = torch.randn(16, 8) if conv is None else torch.randn(16, 8, 3, 3)
    factors = torch.rand(8) + 0.5 if conv is None else None
    layer = layer_of(weight, factors=factors, conv=conv)
    values = torch.randn(4, 8) if conv is None else torch.randn(1, 8, 6, 6)
    dequantized = codes.from_integer(layer.codes, layer.weight_amax)
    if conv is None:
        expected = (values * factors) @ dequantized.t()
    else:
        expected = torch.nn.functional.conv2d(values, dequantized, stride=2, padding=1)
    found = Float(layer, values)(values)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(Float(layer, values)(values, expected), 2 * expected, atol=1e-4)


def test_a_choice_is_made_once_for_a_processor_and_a_number_of_threads(monkeypatch):
    """Kept times decide, whatever the clock would say now; other instructions have others."""
    monkeypatch.setattr(busy.Watch, "elsewhere", lambda _: 0.0)
    layer, values = layer_of(torch.randn(64, 64)), torch.randn(32, 64)
    choice = Choice(CPU, timings.Timings())
    choice.kernel(layer, values)
    (kept,) = choice.shapes.values()
    told = json.loads(choice.timings.path.read_text())
    assert list(told["times"].values()) == [kept] and "threads" in told["machine"]
    what = next(iter(told["times"]))
    told["times"][what] = dict.fromkeys(kept, 5.0) | {"float": 0.001}
    choice.timings.path.write_text(json.dumps(told))
    again = Choice(CPU, timings.Timings())
    assert isinstance(again.kernel(layer, values), Float)
    facts = again.describe()
    assert facts["wide"] == {"linear in float32: faster": 1} and not facts["fallbacks"]
    assert facts["timings"] == told["machine"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert timings.Timings().path != again.timings.path
    told["times"][what]["float"] = -1
    choice.timings.path.write_text(json.dumps(told))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert timings.Timings().kept == {}
    told["times"][what]["float"] = 1.0
    choice.timings.path.write_text(json.dumps({**told, "quiet": None}))
    assert timings.Timings().kept == {}, "of a version that did not look who else was there"


def test_times_of_a_busy_moment_are_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    monkeypatch.setattr(busy.Watch, "elsewhere", lambda _: 1.0)
    choice = Choice(CPU, timings.Timings())
    choice.kernel(layer_of(torch.randn(64, 64)), torch.randn(32, 64))
    assert not choice.timings.path.exists() and choice.describe()["timings_unkept"] == 1


WITHOUT_VNNI = """
import json, torch
from sdxl.backends.torch.eight_bit import Choice
from sdxl.backends.torch.layer import Geometry
from sdxl.backends.torch.timings import Timings
from sdxl.config.schema import Format
from tests import coded
torch.manual_seed(0)
choice = Choice(torch.device("cpu"), Timings())
for shape, conv in (((256, 256), None), ((64, 64, 3, 3), Geometry([1, 1], [1, 1], [1, 1]))):
    layer = coded.layer(
        Format.int8, torch.randn(shape), torch.tensor(3.0), torch.float32, None, None, conv
    )
    values = torch.randn(64, 256) if conv is None else torch.randn(1, 64, 16, 16)
    kernel = choice.kernel(layer, values)
    assert torch.isfinite(kernel(values)).all()
print(json.dumps(choice.describe()))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN in this torch")
def test_a_processor_without_vnni_computes_in_fp32_and_says_so():
    """oneDNN told to know no more than AVX2 is what such a processor is to it."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_VNNI], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": f"{ROOT}"}, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in facts["timings"]
    assert facts["real_layers"] == 0 and facts["simulated_layers"] == 0
    said = " ".join(facts["wide"])
    assert "linear in float32" in said and "conv in float32: no exact int8 conv kernel" in said
    assert "overflow" in said


@pytest.mark.parametrize(("words", "said"), [
    (["quant=fp8"], "between INT8 and floats"),
    (["quant=none"], "`backend.execution=auto` would be ignored"),
    (["quant=int8", "model.device=cuda"], "a processor's kernels"),
])  # fmt: skip
def test_where_there_is_nothing_to_choose_it_is_refused(load, words, said):
    with pytest.raises(ConfigError, match=said):
        load("backend.execution=auto", *words)
