"""`precision=auto`: the dtype that this processor computes faster, said and kept, the run's own."""

import dataclasses

import pytest
import torch

from sdxl.backends.torch import dtypes, timings
from sdxl.config import content_key
from sdxl.config.schema import DType
from sdxl.core import busy, isolate
from sdxl.core.errors import ConfigError
from sdxl.run import identity


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """A store of its own on a machine that nobody else uses."""
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    monkeypatch.setattr(busy.Watch, "elsewhere", lambda _: 0.0)
    monkeypatch.setattr(dtypes, "_settled", {})
    # The child's work, in this process.
    monkeypatch.setattr(isolate, "run", lambda work, *args, **_: work(None, *args))


def plain(load, *words):
    return load("precision=fp32", *words)


def test_the_faster_dtype_is_put_in_and_the_key_is_its_own(load, quiet, monkeypatch):
    times = {"fp32": 2.0, "bf16": 1.0}
    monkeypatch.setattr(dtypes, "measure", lambda _blocks: dict(times))
    config = load("precision=auto")
    assert {config.precision.text_encoder, config.precision.unet, config.precision.vae} == {
        DType.bf16
    }
    assert identity.identity(config) == identity.identity(load("precision=bf16"))
    times.update(bf16=3.0)
    assert load("precision=auto").precision.unet is DType.bf16, "one choice in a process"
    monkeypatch.setattr(dtypes, "_settled", {})
    assert load("precision=auto").precision.unet is DType.bf16, "kept in the store"
    told = dtypes.kept(config)
    assert told["ms"] == {"fp32": 2.0, "bf16": 1.0} and "threads" in told["machine"]
    assert "BasicTransformerBlock" in told["of"] and "ResnetBlock2D" in told["of"]


def test_a_choice_of_a_busy_moment_is_not_kept(load, quiet, monkeypatch):
    monkeypatch.setattr(busy.Watch, "elsewhere", lambda _: 1.5)
    monkeypatch.setattr(dtypes, "measure", lambda _blocks: {"fp32": 1.0, "bf16": 2.0})
    config = load("precision=auto")
    assert config.precision.unet is DType.fp32
    told = dtypes.kept(config)
    assert told["ms"] == {} and "others used the machine" in told["unkept"]
    assert not timings.Timings().path.exists()


def test_blocks_are_timed_without_their_8_bit_layers(load):
    whole = list(dtypes.blocks(plain(load)))
    rest = list(dtypes.blocks(plain(load, "quant=int8", "quant_level=3", "backend.execution=real")))
    count = {name: sum(each.calls for each in found) for name, found in (("a", whole), ("b", rest))}
    assert count["a"] == count["b"] > 1
    assert [type(each.module).__name__ for each in rest] == list(dtypes.BLOCKS)
    left = [
        sum(isinstance(each, dtypes.LeftOut) for each in block.module.modules()) for block in rest
    ]
    assert left == [10, 2]  # q, k, v, out twice and two of the feed-forward; both convolutions
    times = dtypes.measure(rest)
    assert set(times) == {"fp32", "bf16"} and min(times.values()) > 0
    simulated = list(dtypes.blocks(plain(load, "quant=int8", "quant_level=3")))
    assert dtypes._what(simulated) == dtypes._what(whole) != dtypes._what(rest)


def test_a_layer_that_is_left_out_has_the_shape_of_its_output():
    for layer, values in (
        (torch.nn.Conv2d(4, 8, 3, stride=2, padding=1), torch.randn(2, 4, 7, 6)),
        (torch.nn.Linear(4, 8), torch.randn(2, 5, 4)),
    ):
        assert dtypes.LeftOut(layer)(values).shape == layer(values).shape


@pytest.mark.parametrize(("words", "said"), [
    (["backend=ort"], "nothing times dtypes here"),
    (["backend=fake"], "nothing times dtypes here"),
    (["model.device=cuda"], "times a processor"),
    (["precision.vae=bf16"], "`precision.vae` would be ignored"),
])  # fmt: skip
def test_where_it_would_be_ignored_it_is_refused(load, words, said):
    with pytest.raises(ConfigError, match=said):
        load("precision=auto", *words)


def test_notes_are_no_part_of_a_key(load):
    config = plain(load)
    noted = dataclasses.replace(config, precision=dataclasses.replace(config.precision, auto=True))
    assert content_key.key(noted) == content_key.key(config)
    assert "auto" not in content_key.keyed(config.precision)
