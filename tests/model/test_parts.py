"""The UNet in parts, beside loops that compute everything and put kept values in its place."""

import pytest
import torch
from torch import nn

from sdxl.backends.torch import BACKEND
from sdxl.backends.torch.resnet import Up
from sdxl.config.shortcuts import Cross, Step
from sdxl.core.errors import UserError
from sdxl.core.types import Embeddings
from sdxl.model import networks, prompts, split
from sdxl.model.parts import Kept
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from tests.model.deep_feature import DeepFeature, KeptCross, plain_loop

SMALL = ("rules=open", "model.steps=6", "model.height=64", "model.width=64",
         "model.noise=per_prompt")  # fmt: skip
NEAR = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def sampler(load):
    made = {}

    def get(*words):
        if words not in made:
            config = load(*SMALL, *words)
            source, chosen = open_source(config.model, 0), prompts.load(config.dataset, 4, 0)
            made[words] = Sampler(BACKEND.open(config, {}), source, config, chosen)
        return made[words]

    return get


@torch.inference_mode()
def test_without_a_shortcut_pictures_are_those_of_the_plain_loop(sampler):
    ours = sampler("backend.loop=scheduler")
    assert torch.equal(ours.latents([0, 1]), plain_loop(ours, [0, 1]))


def test_closed_rules_call_the_networks_as_they_are(load):
    """Nothing of a shortcut is in their way: results cannot change by a bit."""
    config = load("rules=closed")
    stages = BACKEND.open(config, {})
    unet = stages.modules["unet"]
    assert stages._unet is unet and stages.parts is None and stages.loop.short is None
    for name, module in unet.named_modules():
        assert not {"forward", "gate", "merge"} & set(vars(module)), name
    assert all(step.whole for step in stages.calls)


CACHED = [((), 0, (0, 3)), (("shortcut.branch=2",), 2, (0, 3)),
          (("shortcut.branch=4", "shortcut.deep_steps=[0,1,4]"), 4, (0, 1, 4))]  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize(("words", "skip", "deep"), CACHED)
def test_deepcache_is_the_loop_with_cached_features(sampler, words, skip, deep):
    ours = sampler("shortcut=deepcache", *words)
    assert [n for n, step in enumerate(ours.steps) if step.deep] == list(deep)
    with DeepFeature(ours.stages.modules["unet"], skip, deep) as watch:
        expected = plain_loop(ours, [0, 1], watch.step)
    found = ours.latents([0, 1])
    torch.testing.assert_close(found, expected, **NEAR)
    whole = sampler("backend.loop=scheduler").latents([0, 1])
    assert (found - whole).abs().max() > 0.1, "a shortcut changes the pictures"


@torch.inference_mode()
def test_tgate_is_the_loop_with_kept_cross_attention(sampler):
    ours = sampler("shortcut=tgate", "shortcut.gate=0.5")
    found = ours.latents([0, 1])
    with KeptCross(ours.stages.modules["unet"], gate=3) as watch:
        expected = plain_loop(ours, [0, 1], watch.step)
    torch.testing.assert_close(found, expected, **NEAR)


@torch.inference_mode()
@pytest.mark.parametrize("loop", ["static", "scheduler"])
def test_guidance_cutoff_is_what_diffusers_callback_does(sampler, loop):
    ours = sampler("shortcut=guidance_cutoff", f"backend.loop={loop}")
    pipeline = sampler("backend.loop=pipeline").stages.loop.pipeline
    embeddings, noise = ours._embeddings([0, 1]), ours._noise([0, 1])
    negative, positive = embeddings.hidden.chunk(2)
    pooled = dict(zip(("negative_pooled_prompt_embeds", "pooled_prompt_embeds"),
                      embeddings.pooled.chunk(2), strict=True))  # fmt: skip

    def cut(pipe, number, _timestep, given):
        if number == 2:  # of 6 steps the first three are guided
            given = {name: each.chunk(2)[-1] for name, each in given.items()}
            pipe._guidance_scale = 0.0
        return given

    expected = pipeline(
        prompt_embeds=positive, negative_prompt_embeds=negative, **pooled,
        num_inference_steps=6, guidance_scale=8.0, height=64, width=64, latents=noise,
        output_type="latent", callback_on_step_end=cut,
        callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds", "add_time_ids"],
    ).images  # fmt: skip
    torch.testing.assert_close(ours.latents([0, 1]), expected, **NEAR)


@pytest.mark.parametrize(
    "words",
    [
        ("shortcut=deepcache_cutoff", "shortcut.start=0.5", "shortcut.until=1"),
        ("shortcut=deepcache_tgate", "shortcut.interval=2", "shortcut.branch=3"),
        ("shortcut=deepcache", "scheduler=dpmpp_2m"),
        ("shortcut=token_merging", "shortcut.levels=2"),
    ],
)
def test_both_loops_agree_and_no_picture_depends_on_its_neighbours(sampler, words):
    ours, shared = sampler(*words), sampler(*words, "backend.loop=scheduler")
    assert ours.describe()["loop"]["kind"] == "static" and ours.describe()["shortcut"]
    found = ours.latents([0, 1])
    torch.testing.assert_close(found, shared.latents([0, 1]), **NEAR)
    assert torch.equal(ours.latents([2, 1])[1], found[1])
    torch.testing.assert_close(ours.latents([1])[0], found[1], rtol=1e-3, atol=1e-3)
    with ours.stages.eager():
        torch.testing.assert_close(ours.latents([0, 1]), found, **NEAR)


class Beside(nn.Module):
    """A residual block that takes the skip beside the image, as the torch backend's own does."""

    def __init__(self, plain):
        super().__init__()
        self.plain, self.time_emb_proj = plain, plain.time_emb_proj

    def forward(self, image, temb, skip):
        return self.plain(torch.cat([image, skip], dim=1), temb)


@torch.inference_mode()
def test_blocks_of_our_own_are_called_as_they_want(sampler):
    ours = sampler("shortcut=deepcache", "backend.loop=scheduler")
    unet = ours.stages.modules["unet"]
    rows, shape = 2, (4, 8, 8)
    config, device = unet.config, unet.device
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    given = Embeddings(
        torch.randn(rows, 77, config.cross_attention_dim), torch.randn(rows, pooled),
        torch.full((rows, 6), 64.0),
    )  # fmt: skip
    sample, when = torch.randn(rows, *shape, device=device), torch.tensor(500.0)
    expected, feature = split.forward(unet, 0, None, sample, when, given)
    assert torch.equal(expected, networks.predict(unet, sample, when, given))
    plain = unet.up_blocks[-1]
    block = Up(plain)
    block.resnets = nn.ModuleList(map(Beside, plain.resnets))
    unet.up_blocks[-1] = block
    try:
        found, below = split.forward(unet, 0, None, sample, when, given)
        shallow, _ = split.forward(unet, 0, below, sample, when, given)
    finally:
        unet.up_blocks[-1] = plain
    assert torch.equal(found, expected) and torch.equal(below, feature)
    assert torch.equal(shallow, expected), "its own feature gives the whole UNet's answer"


def test_what_a_unet_cannot_do_is_said(sampler, load):
    unet = sampler("shortcut=deepcache").stages.modules["unet"]
    with pytest.raises(UserError, match="does not exist in this UNet"):
        split.check(unet, 99)
    unet.mid_block, kept = nn.Identity(), unet.mid_block
    with pytest.raises(UserError, match="cannot be called in parts"):
        split.check(unet, 0)
    unet.mid_block = kept


@pytest.mark.slow
@torch.inference_mode()
def test_each_kind_of_call_is_one_compiled_graph(sampler, monkeypatch):
    """Traced as compiled code is, and run without Inductor, whose compiling takes minutes."""
    traced, plain = [], torch.compile

    def backend(graph, _inputs):
        traced.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda run, **_: plain(run, backend=backend))
    words = ("shortcut=deepcache_tgate", "shortcut.interval=2", "shortcut.branch=2")
    ours = sampler(*words, "backend.compile=default")
    with ours.stages.eager():
        expected = ours.latents([0])
    found = ours._loop(ours._embeddings([0]), ours._noise([0]), [0], None)
    torch.testing.assert_close(found, expected, **NEAR)
    assert len(traced) == len({step.kind for step in ours.steps}) == 4


def test_what_is_kept_is_no_buffer_of_the_call():
    """torch.compile's own CUDA graphs write the next call's outputs over the last one's."""
    kept, feature, cross = Kept(), torch.ones(4, 2), torch.ones(2, 2)
    kept.keep(Step(guided=False, keeps=True, cross=Cross.recorded), feature, (cross,))
    feature.zero_(), cross.zero_()
    assert kept.below(2).tolist() == [[1, 1], [1, 1]] and kept.crosses[0].tolist() == [[1, 1]] * 2
