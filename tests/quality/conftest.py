"""Metric networks in the official files' layouts, with random weights."""

import numpy as np
import pytest
import torch

from sdxl.model.clip_vocabulary import vocabulary_of
from sdxl.quality.inception import Inception

VISION, TEXT, LAYERS, PATCH, GRID, SHARED, CONTEXT = 128, 64, 2, 8, 4, 32, 77
MERGES = [("a", "p</w>"), ("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>")]


@pytest.fixture(scope="session")
def metric_files(tmp_path_factory):
    """A folder with the four files of `quality=full`: Inception in its true size, a small CLIP."""
    folder = tmp_path_factory.mktemp("metrics")
    torch.save(inception_state(), folder / "inception.pth")
    torch.save(clip_state(), folder / "clip.pt")
    lines = ["#version: test", *(" ".join(pair) for pair in MERGES)]
    (folder / "bpe.txt").write_text("\n".join(lines), encoding="utf-8")
    rng = np.random.default_rng(0)
    mu = rng.random(2048)
    np.savez(folder / "statistics.npz", mu=mu, sigma=np.diag(rng.random(2048)))
    return folder


def inception_state():
    """All keys of pt_inception-2015-12-05-6726825d.pth, its unused classifier included."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in Inception().state_dict().items():
        if name.endswith("conv.weight"):
            fan_in = tensor[0].numel()
            state[name] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif not name.endswith("num_batches_tracked"):
            state[name] = torch.randn(tensor.shape, generator=generator) * 0.1
    state["fc.weight"], state["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    return state


def clip_state(vision=VISION):
    """A small CLIP under OpenAI's names, half precision as OpenAI's file; `vision`: its width."""
    generator = torch.Generator().manual_seed(1)
    state = {}

    def add(name, *shape, scale=0.1, around=0.0):
        state[name] = (around + scale * torch.randn(shape, generator=generator)).half()

    def tower(prefix, width):
        for number in range(LAYERS):
            block = f"{prefix}.resblocks.{number}"
            for name, shape in (
                ("attn.in_proj_weight", (3 * width, width)), ("attn.in_proj_bias", (3 * width,)),
                ("attn.out_proj.weight", (width, width)), ("attn.out_proj.bias", (width,)),
                ("mlp.c_fc.weight", (4 * width, width)), ("mlp.c_fc.bias", (4 * width,)),
                ("mlp.c_proj.weight", (width, 4 * width)), ("mlp.c_proj.bias", (width,)),
            ):  # fmt: skip
                add(f"{block}.{name}", *shape)
            for norm in ("ln_1", "ln_2"):
                add(f"{block}.{norm}.weight", width, around=1.0)
                add(f"{block}.{norm}.bias", width)

    add("visual.class_embedding", vision)
    add("visual.positional_embedding", GRID**2 + 1, vision)
    add("visual.conv1.weight", vision, 3, PATCH, PATCH)
    for norm in ("visual.ln_pre", "visual.ln_post"):
        add(f"{norm}.weight", vision, around=1.0)
        add(f"{norm}.bias", vision)
    tower("visual.transformer", vision)
    add("visual.proj", vision, SHARED)
    add("token_embedding.weight", len(vocabulary_of(MERGES)), TEXT, scale=1.0)
    add("positional_embedding", CONTEXT, TEXT)
    tower("transformer", TEXT)
    add("ln_final.weight", TEXT, around=1.0)
    add("ln_final.bias", TEXT)
    add("text_projection", TEXT, SHARED)
    state["logit_scale"] = torch.tensor(4.6)
    return state


@pytest.fixture(scope="session")
def training_files(metric_files, tmp_path_factory):
    """The words of `quality=mlperf_training` on small networks: a CLIP with heads of 80."""
    folder = tmp_path_factory.mktemp("training")
    torch.save(clip_state(vision=160), folder / "h14.pt")
    return [
        "quality=mlperf_training",
        f"quality.clip={folder / 'h14.pt'}",
        *(f"quality.{name}={metric_files / file}" for name, file in (
            ("inception", "inception.pth"), ("vocabulary", "bpe.txt"),
            ("statistics", "statistics.npz"),
        )),
    ]  # fmt: skip
