"""Aspect buckets, and what one engine spans."""

import pytest

from sdxl.config import compose, sizes
from sdxl.core.errors import ConfigError
from sdxl.run.sweep.cells import combinations

TRT = ("backend=trt", "backend.flavor=rtx", "rules=open")


def test_sdxls_own_buckets_are_kept():
    found = sizes.around(1024)
    assert found[0] == "1024x1024" and len(set(found)) == 9
    assert {"1152x896", "640x1536"} <= set(found)


@pytest.mark.parametrize("side", [64, 96, 128, 256, 512, 768])
def test_buckets_of_smaller_models_fit_their_unet(side):
    found = [sizes.read(word) for word in sizes.around(side)]
    assert found[0] == (side, side) and len(set(found)) == len(found) >= 5
    assert all(width % 32 == height % 32 == 0 for width, height in found)
    assert {(height, width) for width, height in found} == set(found)
    assert all(0.6 < width * height / side**2 <= 1.5 for width, height in found)


@pytest.mark.parametrize("word", ["1024", "1024x", "x1", "0x64", "64X64", "64x-64", "6.4x64", ""])
def test_other_words_are_no_size(word):
    assert sizes.read(word) is None


@pytest.mark.parametrize(
    ("words", "side"), [([], 128), (["model=sdxl"], 1024), (["model=sdxl_random"], 1024)]
)
def test_the_sweep_has_the_models_own_buckets(words, side):
    composer = compose.Composer("run")
    _, cells, _ = combinations(composer, ["+sweep=sizes", *words])
    swept = [word for cell in cells for word in cell if word.startswith("size=")]
    assert swept == [f"size={word}" for word in sizes.around(side)]
    config = composer.config(cells[1])
    width, height = sizes.read(sizes.around(side)[1])
    assert (config.model.width, config.model.height) == (width, height)


def test_engines_of_a_dynamic_graph_span_the_buckets_whatever_the_cell(load):
    cells = [load(*TRT, "model=tiny", "export.dynamic_size=true", f"size={word}")
             for word in ("160x96", "96x224")]  # fmt: skip
    spans = [sizes.spanned(config) for config in cells]
    assert spans == [((96, 96), (128, 128), (224, 224))] * 2
    assert sizes.spanned(load(*TRT, "size=160x96")) == ((160, 96),) * 3


def test_sizes_that_are_named(load):
    words = [*TRT, "export.dynamic_size=true", "export.sizes=[128x128,64x256]"]
    assert sizes.spanned(load(*words, "size=96x128")) == ((64, 128), (128, 128), (128, 256))
    with pytest.raises(ConfigError, match=r"size is outside of `export\.sizes`"):
        load(*words, "size=160x128")


@pytest.mark.parametrize("given", ["[]", "[100x64]", "[big]"])
def test_sizes_that_are_none(load, given):
    with pytest.raises(ConfigError, match=r"`export\.sizes` cannot be read"):
        load(*TRT, "export.dynamic_size=true", f"export.sizes={given}")


@pytest.mark.parametrize(
    "words", [["backend=ort", "export.dynamic_size=true"], [*TRT], ["backend=torch"]]
)
def test_sizes_that_nothing_would_span(load, words):
    with pytest.raises(ConfigError, match=r"`export\.sizes` would be ignored"):
        load(*words, "export.sizes=[64x64]")


def test_the_operations_follow_the_size(load):
    """As many pixels cost as much, whichever way they lie; half of them about half."""
    from sdxl.model import cost

    tall, wide, small = (
        cost.count(load("rules=open", f"size={word}", "model.steps=1"), 1).image_flop
        for word in ("64x128", "128x64", "64x64")
    )
    assert tall == wide and 0.4 < small / wide < 0.6
