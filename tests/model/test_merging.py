"""Merged tokens beside plain loops over pictures and tokens, and beside nothing merged."""

import numpy as np
import pytest
import torch

from sdxl.backends.torch import BACKEND
from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.model import merging, prompts
from sdxl.model.merging import Merge
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from tests.model.deep_feature import plain_loop

SMALL = ("rules=open", "model.steps=3", "model.height=64", "model.width=96",
         "model.noise=per_prompt", "backend.loop=scheduler")  # fmt: skip


def groups(tokens, height, width, ratio):
    """Tokens (N, C) of one picture -> for each token, the numbers of those it is one with."""
    stays = [row * width + column for row in range(0, height, 2) for column in range(0, width, 2)]
    others = [number for number in range(height * width) if number not in stays]
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    likest = {n: max(stays, key=lambda s, n=n: unit[n] @ unit[s]) for n in others}
    ranked = sorted(others, key=lambda n: -(unit[n] @ unit[likest[n]]))
    found = [[number] for number in range(height * width)]
    for number in ranked[: int(ratio * height * width)]:
        group = found[likest[number]]
        group.append(number)
        found[number] = group
    return found


def by_hand(tokens, height, width, ratio):
    """Distinct groups' means, and which of them each token is."""
    found = groups(tokens.numpy().astype(np.float64), height, width, ratio)
    heads = sorted({group[0] for group in found})
    means = torch.stack([tokens[next(g for g in found if g[0] == h)].mean(0) for h in heads])
    return means, torch.tensor([heads.index(group[0]) for group in found])


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (2, 2)])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_each_token_gets_the_mean_of_its_group(height, width, ratio):
    hidden = torch.randn(3, height * width, 16, generator=torch.Generator().manual_seed(1))
    merge = Merge(ratio, halvings=1)
    merge.size = (2 * height, 2 * width)
    fewer, restore = merge(hidden)
    assert fewer.shape[1] == height * width - merge.gone(height * width)
    back = restore(fewer)
    for picture, found in zip(hidden, back, strict=True):
        means, places = by_hand(picture, height, width, merge.gone(height * width) /
                                (height * width) + 1e-9)  # fmt: skip
        assert len(means) == fewer.shape[1]
        torch.testing.assert_close(found, means[places])
    alone, restore = merge(hidden[1:2])
    assert torch.equal(restore(alone)[0], back[1]), "no picture depends on its neighbours"


class ByHand:
    """An attention processor: attention over the groups' means, written down once more."""

    def __init__(self, height, width, ratio):
        self.size = height, width, ratio

    def __call__(self, attn, hidden, **_):
        found = []
        for tokens in hidden:
            means, places = by_hand(tokens, *self.size)
            query, key, value = (
                layer(means).view(len(means), attn.heads, -1).transpose(0, 1)
                for layer in (attn.to_q, attn.to_k, attn.to_v)
            )
            scores = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
            made = (scores @ value).transpose(0, 1).flatten(1)
            found.append(attn.to_out[0](made)[places])
        return torch.stack(found)


@torch.inference_mode()
def test_a_picture_is_the_plain_loops_with_merged_tokens(load):
    config = load(*SMALL, "shortcut=token_merging", "shortcut.ratio=0.4")
    source, chosen = open_source(config.model, 0), prompts.load(config.dataset, 2, 0)
    ours = Sampler(BACKEND.open(config, {}), source, config, chosen)
    found, unet = ours.latents([0, 1]), ours.stages.modules["unet"]
    before = dict(unet.attn_processors)
    merged = [name for name, module in unet.named_modules() if hasattr(module, "merge")]
    finest = unet.get_submodule(merged[0]).merge.halvings
    ours_by_hand = ByHand(8 // 2**finest, 12 // 2**finest, 0.4)
    unet.set_attn_processor(
        {name: ours_by_hand if name.removesuffix(".processor") in merged else each
         for name, each in before.items()}
    )  # fmt: skip
    expected = plain_loop(ours, [0, 1])
    unet.set_attn_processor(before)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    whole = plain_loop(ours, [0, 1])
    assert (found - whole).abs().max() > 1e-3, "it changes the pictures"


def test_only_the_finest_levels_merge(load):
    unet = open_source(load(*SMALL).model, 0).component("unet", torch.float32, torch.device("meta"))
    one = merging.install(unet, schema.TokenMerging("x", levels=1))
    assert len({merge.halvings for merge in one}) == 1
    two = merging.install(unet, schema.TokenMerging("x", levels=2))
    assert len(two) > len(one) and max(m.halvings for m in two) == one[0].halvings + 1
    with pytest.raises(UserError, match="more than this UNet has"):
        merging.install(unet, schema.TokenMerging("x", levels=9))
