"""What `benchmarks/quality_order.py` says of scores: right, equal or WRONG, and what came back."""

import importlib.util
import sys

import pytest

from sdxl.report.seeds import Spread
from tests.conftest import ROOT

SEEDS = (0.0, 20.0, 45.0, 70.0)
"""What the draw of captions adds to every setting: far more than quantization does."""


@pytest.fixture(scope="module")
def order():
    folder = ROOT / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location("quality_order", folder / "quality_order.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    sys.modules.pop("_scenes", None)
    return module


def scores(fid, accuracy=0.5, wobble=0.1):
    """A setting whose fid_scenes is `fid` above the draw of captions, up to a wobble."""
    around = (wobble, -wobble, wobble, -wobble)
    return {
        "fid_scenes": Spread(tuple(fid + s + w for s, w in zip(SEEDS, around, strict=True))),
        "attribute_accuracy": Spread(tuple(accuracy + w / 100 for w in around)),
        "psnr_db": Spread((30.0 - fid / 10,) * 4),
        "perceptual_scenes": Spread((fid / 100,) * 4),
    }


def said(order, found, score="fid_scenes"):
    return {row["pair"]: (row["said"], row["ok"]) for row in order.verdicts(found)
            if row["score"] == score}  # fmt: skip


def test_a_small_step_is_seen_below_the_noise_of_the_captions(order):
    found = {"int8_level3": scores(10.0), "int4_weights": scores(13.0, wobble=0.3)}
    low, high = (found[name]["fid_scenes"] for name in found)
    assert low.equals(high)
    assert said(order, found) == {"int8_level3 -> int4_weights": ("right", True)}


def test_equal_is_not_enough_where_settings_must_be_apart(order):
    found = {"int8_level1": scores(10.0), "int8_level3": scores(10.0, wobble=-0.1),
             "int4_weights": scores(10.0)}  # fmt: skip
    assert said(order, found) == {
        "int8_level1 -> int8_level3": ("equal", True),
        "int8_level3 -> int4_weights": ("equal", False),
    }


def test_a_reversed_step_is_wrong_in_either_score(order):
    found = {"real": scores(9.0, 0.4), "unquantized": scores(2.0, 0.9, wobble=0.2)}
    for score in ("fid_scenes", "attribute_accuracy"):
        assert said(order, found, score) == {"real -> unquantized": ("WRONG", False)}


def test_what_came_back_is_a_share_of_a_loss_that_is_there(order):
    found = {"unquantized": scores(10.0), "int4_weights": scores(14.0, wobble=0.2),
             "int4_weights+qat": scores(11.0)}  # fmt: skip
    (row,) = order.recovered(found).values()
    assert row["fid_scenes"] == pytest.approx(0.75)
    assert row["psnr_db"] == pytest.approx(0.3)
    assert row["attribute_accuracy"] is None
