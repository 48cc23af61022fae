"""The attention kernel per shape: timed, recorded, and the same picture whichever it is."""

import pytest
import torch
from torch.nn import functional

from sdxl.backends.torch.attention import Attend, Choice, install
from sdxl.backends.torch.config import Attention
from sdxl.model.sources import open_source

CPU = torch.device("cpu")


def test_auto_times_what_this_processor_has_and_keeps_the_fastest():
    choice = Choice(Attention.auto, CPU)
    query, key = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 5, 8)
    expected = functional.scaled_dot_product_attention(query, key, key)
    torch.testing.assert_close(choice.attend(query, key, key), expected)
    (shape,) = choice.describe()["shapes"]
    assert set(shape["ms"]) == {"math", "flash"} and set(shape["unable"]) == {"efficient", "cudnn"}
    assert shape["ms"][shape["chosen"]] == min(shape["ms"].values())
    assert (shape["query"], shape["key"]) == ([2, 4, 16, 8], [2, 4, 5, 8])
    choice.attend(query, key, key)
    assert len(choice.describe()["shapes"]) == 1, "a shape is timed once"


def test_a_named_kernel_is_used_and_one_that_cannot_is_reported():
    query = torch.randn(1, 2, 6, 8)
    for wanted, chosen in ((Attention.math, "math"), (Attention.cudnn, "torch")):
        choice = Choice(wanted, CPU)
        choice.attend(query, query, query)
        described = choice.describe()
        assert described["shapes"][0]["chosen"] == chosen
        assert sum(described["fallbacks"].values()) == (chosen == "torch")


def test_all_scores_at_once_are_no_candidate_where_they_are_large():
    choice = Choice(Attention.auto, CPU)
    choice._ms = lambda known, kernel: 1.0
    choice.using((8, 10, 4096, 64), (8, 10, 4096, 64), torch.bfloat16)
    assert "math" not in choice.describe()["shapes"][0]["ms"]


@pytest.mark.parametrize("wanted", [Attention.auto, Attention.math])
@torch.inference_mode()
def test_unet_and_vae_draw_the_same(load, wanted):
    config = load()
    source = open_source(config.model, 0)
    latents = torch.randn(1, 4, 8, 8)
    vae = source.component("vae", torch.float32, CPU)
    expected = vae.decode(latents, return_dict=False)[0]
    choice = install([vae], wanted, CPU)
    found = vae.decode(latents, return_dict=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(choice.describe()["shapes"]) >= 1 and choice.others == 0
    kinds = {type(m.processor) for m in vae.modules() if hasattr(m, "processor")}
    assert kinds == {Attend}
