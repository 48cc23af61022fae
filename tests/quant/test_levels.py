"""The level table: exact names, NVIDIA's exclusions, and the shares of real SDXL."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdxl.config.schema import Format, Quant
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.model.seeded import RandomSource
from sdxl.quant import levels
from sdxl.quant.levels import Kind

META = torch.device("meta")
RECIPE = Quant(name="test", format=Format.fp8, exclude=list(levels.NVIDIA_EXCLUDED))


@pytest.fixture(scope="module")
def tiny():
    unet = RandomSource(architecture.TINY, 0).component("unet", torch.float32, META)
    return unet, levels.layers_of(unet)


def at(level, **changes):
    return dataclasses.replace(RECIPE, level=level, **changes)


def names(layers, quant):
    return {layer.name for layer in levels.select(layers, quant)}


def test_real_sdxl_selects_the_published_shares():
    unet = RandomSource(architecture.SDXL, 0).component("unet", torch.float16, META)
    macs = levels.count_macs(unet, 1024, 1024)
    layers = levels.layers_of(unet, macs)
    rows = levels.table(layers, RECIPE, sum(p.numel() for p in unet.parameters()))
    shown = [
        (r.level, r.conv, r.linear, f"{r.parameter_share:.1%}", f"{r.mac_share:.1%}") for r in rows
    ]
    assert shown == [
        (1, 38, 0, "12.5%", "23.0%"),
        (2, 38, 140, "60.3%", "64.7%"),
        (2.5, 38, 560, "89.5%", "79.4%"),
        (3, 38, 722, "98.4%", "87.4%"),
        (4, 38, 722, "98.4%", "99.0%"),
    ]
    assert sum(macs.values()) == pytest.approx(3381e9, rel=1e-3)


def test_levels_only_ever_add(tiny):
    _, layers = tiny
    chosen = [names(layers, at(level)) for level in (1, 2, 2.5, 3, 4)]
    for lower, higher in itertools.pairwise(chosen):
        assert lower < higher


def test_a_selection_is_modules_of_the_right_kind(tiny):
    unet, layers = tiny
    for layer in levels.select(layers, at(4)):
        module = unet.get_submodule(layer.name)
        assert not isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm)
        if layer.kind is Kind.conv:
            assert isinstance(module, torch.nn.Conv2d)
        elif layer.kind is Kind.linear:
            assert isinstance(module, torch.nn.Linear)


def test_levels_by_name(tiny):
    _, layers = tiny
    block = "mid_block.attentions.0.transformer_blocks.0"
    level = {
        "mid_block.resnets.0.conv1": 1,
        f"{block}.ff.net.0.proj": 2,
        f"{block}.ff.net.2": 2,
        f"{block}.attn1.to_q": 2.5,
        f"{block}.attn2.to_v": 2.5,
        f"{block}.attn1.to_out.0": 3,
        "mid_block.attentions.0.proj_in": 3,
        f"{block}.attn1": 4,
    }
    for name, first in level.items():
        for each in (1, 2, 2.5, 3, 4):
            assert (name in names(layers, at(each))) == (each >= first), (name, each)


@pytest.mark.parametrize("name", ["conv_in", "conv_out", "time_embedding.linear_1",
                                  "up_blocks.0.resnets.0.conv_shortcut",
                                  "add_embedding.linear_2",
                                  "mid_block.resnets.0.time_emb_proj"])  # fmt: skip
def test_nvidias_exclusions(tiny, name):
    _, layers = tiny
    assert name not in names(layers, at(4))
    assert name in names(layers, at(4, exclude=[]))
    assert name in names(layers, at(1, include=[rf"^{name}$"]))


def test_patterns_that_do_nothing_are_refused(tiny):
    _, layers = tiny
    with pytest.raises(UserError, match="matches no layer"):
        levels.select(layers, at(1, include=["to_x"]))
    with pytest.raises(UserError, match="selects no layer"):
        levels.select(layers, at(3, exclude=["."]))


def test_a_level_that_a_recipe_empties_has_no_row(tiny):
    unet, layers = tiny
    parameters = sum(p.numel() for p in unet.parameters())

    def rows(level, **changes):
        return [row.level for row in levels.table(layers, at(level, **changes), parameters)]

    assert rows(3, exclude=["conv"]) == [2, 2.5, 3, 4]
    int4 = {"format": Format.int4_weight_only}
    assert rows(2, **int4) == [2, 2.5, 3]
    assert rows(1, include=["to_q"], **int4) == [1, 2, 2.5, 3]
    with pytest.raises(UserError, match="selects no layer"):
        rows(1, exclude=["conv"])
    with pytest.raises(UserError, match="matches no layer"):
        rows(3, include=["to_x"])


def test_int4_takes_no_convolution_and_only_fp8_takes_attention(tiny):
    _, layers = tiny
    int4 = levels.select(layers, at(3, format=Format.int4_weight_only))
    assert {layer.kind for layer in int4} == {Kind.linear}
    int8 = levels.select(layers, at(4, format=Format.int8))
    assert Kind.attention not in {layer.kind for layer in int8}


def test_attention_needs_head_sizes_that_fp8_kernels_take():
    odd = {**architecture.TINY}
    odd["unet"] = {**odd["unet"], "attention_head_dim": [4, 8, 8]}  # head sizes 8
    unet = RandomSource(odd, 0).component("unet", torch.float32, META)
    assert all(layer.kind is not Kind.attention for layer in levels.layers_of(unet))


@given(st.sets(st.sampled_from(["conv", "ff", "attn1", "attn2", "down", "up", "mid", "proj"])))
def test_more_exclusions_never_select_more(tiny, patterns):
    _, layers = tiny
    fewer = at(3, exclude=[*levels.NVIDIA_EXCLUDED, *patterns])
    try:
        chosen = names(layers, fewer)
    except UserError:
        chosen = set()
    assert chosen <= names(layers, at(3))
    assert not any(pattern in name for pattern in patterns for name in chosen)
