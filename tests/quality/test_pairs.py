"""What `benchmarks/quality_order.py` asks of settings in pairs: order kept, INT4 told apart."""

import importlib.util

import numpy as np
import pytest

from sdxl.core.types import Prompt
from sdxl.quality.per_prompt import ANSWER, NUMBER, PerPrompt
from tests.conftest import ROOT

COUNT = 64


@pytest.fixture(scope="module")
def pairs():
    folder = ROOT / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location("_pairs", folder / "_pairs.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def table(psnr_db, changed):
    """A setting at this distance, of which the first `changed` prompts have another answer."""
    found = PerPrompt([Prompt(n, f"caption {n}", n) for n in range(COUNT)])
    kinds = {"attribute": ANSWER, "psnr_db": NUMBER}
    wobble = np.random.default_rng(0).normal(0, 0.1, COUNT)
    right = [1.0] * COUNT
    ours = [0.0] * changed + [1.0] * (COUNT - changed)
    found.take(range(COUNT), {"psnr_db": psnr_db + wobble, "attribute": ours}, kinds)
    found.take(range(COUNT), {"attribute": right}, kinds, reference=True)
    return found


def test_the_expected_order_has_no_problem(pairs):
    found = {"fp32": table(58, 0), "int8_level3": table(39, 1), "int4_weights": table(37, 12)}
    assert pairs.problems(found, enough=COUNT) == []
    shown = pairs.row("int4_weights", found["int4_weights"])
    assert shown["psnr_db"][0] == pytest.approx(37, abs=0.1)
    assert shown["answers_changed"][0] == pytest.approx(12 / COUNT)


def test_a_reversed_step_is_a_problem(pairs):
    found = {"int8_level1": table(39, 0), "int8_level2": table(40, 0)}
    assert pairs.problems(found) == ["int8_level2 is nearer to the reference than int8_level1"]


def test_pixels_alone_do_not_tell_int4_apart_once_there_are_enough_prompts(pairs):
    found = {"int8_level3": table(39, 2), "int4_weights": table(37, 3)}
    assert pairs.problems(found) == []
    assert "no figure of the task" in pairs.problems(found, enough=COUNT)[0]
