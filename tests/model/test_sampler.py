"""The denoise loop draws what diffusers' own pipeline draws, whatever the batch."""

import numpy as np
import pytest
import torch

from sdxl.backends.torch import BACKEND
from sdxl.core.errors import StageError, UserError
from sdxl.core.types import Embeddings
from sdxl.model import prompts
from sdxl.model.components import COMPONENTS
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source

SMALL = ("rules=open", "model.steps=3", "model.height=64", "model.width=64")


@pytest.fixture(scope="module")
def sampler(load):
    """Overrides -> a sampler on the random tiny model and the built-in prompts."""

    def make(*overrides, count=16):
        config = load("model=tiny_random", *overrides)
        chosen = prompts.load(config.dataset, count, config.seed)
        stages = BACKEND.open(config, {})
        return Sampler(stages, open_source(config.model, config.seed), config, chosen)

    return make


def pipeline(config):
    """diffusers' own pipeline on the same weights."""
    from diffusers import StableDiffusionXLPipeline

    source = open_source(config.model, config.seed)
    first, second = source.tokenizers()
    found = StableDiffusionXLPipeline(
        **{name: source.component(name, torch.float32, torch.device("cpu")) for name in COMPONENTS},
        tokenizer=first,
        tokenizer_2=second,
        scheduler=source.scheduler(),
        add_watermarker=False,
    )
    found.set_progress_bar_config(disable=True)
    return found


def drawn_by_diffusers(config, texts, latents):
    model = config.model
    out = pipeline(config)(
        prompt=texts,
        negative_prompt=[model.negative_prompt] * len(texts),
        num_inference_steps=model.steps,
        guidance_scale=model.guidance,
        height=model.height,
        width=model.width,
        latents=latents,
        output_type="pil",
    )
    return np.stack([np.asarray(image) for image in out.images])


def far(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "batch"),
    [
        ((), 1),
        ((), 8),
        (SMALL, 3),
        ((*SMALL, "model.guidance=1"), 2),
        ((*SMALL, "model.noise=per_prompt"), 3),
        ((*SMALL, "model.width=96", "model.negative_prompt=''"), 2),
        ((*SMALL, "backend.channels_last=false", "backend.decode_batch_size=2"), 3),
    ],
    ids=["MLPerf's work", "batch of 8", "small", "unguided", "per prompt", "wide", "decode by 2"],
)
def test_every_pixel_is_within_one_step_of_diffusers(sampler, load, overrides, batch):
    config, ours = load(*overrides), sampler(*overrides)
    indices = list(range(batch))
    latents = ours._noise(indices).clone()
    texts = [prompt.text for prompt in prompts.load(config.dataset, batch)]
    pixels = ours.generate(indices)
    assert pixels.shape == (batch, config.model.height, config.model.width, 3)
    assert far(pixels, drawn_by_diffusers(config, texts, latents)) <= 1
    assert far(pixels[:1], pixels[1:2]) > 8 if batch > 1 else pixels.std() > 1


def test_a_picture_does_not_depend_on_its_batch(sampler):
    """7 in batches of 3 leave an odd remainder of 1."""
    ours = sampler(*SMALL, "model.noise=per_prompt")
    whole = ours.generate(range(7))
    parts = np.concatenate([ours.generate(range(s, min(s + 3, 7))) for s in range(0, 7, 3)])
    assert far(whole, parts) <= 1
    assert far(ours.generate([5, 2, 5]), whole[[5, 2, 5]]) <= 1


def test_accuracy_runs_at_batch_1_and_8_draw_the_same_within_a_grey_level(load):
    """The trained model, all its steps, its own prompts: sums in another order, no more."""
    config = load("model=tiny", "mode=accuracy", "limit=8")
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    source = open_source(config.model, config.seed)
    ours = Sampler(BACKEND.open(config, {}), source, config, chosen)
    whole = ours.generate(range(8))
    single = np.concatenate([ours.generate([index]) for index in range(8)])
    assert far(whole, single) <= 1 and whole.std() > 8
    assert (whole != single).mean() < 1e-2


def test_slices_of_a_batch_are_decoded_to_the_same_bytes(sampler):
    ours = sampler(*SMALL)
    assert ours.stages.settings.decode_batch_size == 4, "the default"
    latents = ours.latents(range(6))
    sliced = ours.stages.decode(latents)
    ours.stages.settings.decode_batch_size = None
    assert np.array_equal(ours.stages.decode(latents), sliced)


def test_open_rules_keep_the_negative_prompt_and_draw_the_same(sampler):
    encoded = []

    def counting(ours):
        encode = ours.stages.encode
        ours.stages.encode = lambda ids: (encoded.append(len(ids)), encode(ids))[1]
        return ours

    small = [word for word in SMALL if "rules" not in word and "steps" not in word]
    closed = counting(sampler(*small, "rules=closed"))
    first = [closed.generate([0, 1]), closed.generate([2])]
    assert encoded == [4, 2], "closed: every query encodes its own negative prompt"
    encoded.clear()
    kept = counting(sampler(*small, "rules=open"))
    second = [kept.generate([0, 1]), kept.generate([2])]
    assert encoded == [1, 2, 1], "open: encoded once"
    assert all(far(a, b) <= 1 for a, b in zip(first, second, strict=True))


def test_shared_noise_is_one_and_per_prompt_noise_follows_the_row(sampler, load):
    shared = sampler(*SMALL)._noise([0, 3])
    assert torch.equal(shared[0], shared[1])
    each = sampler(*SMALL, "model.noise=per_prompt")
    noise = each._noise([0, 3])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(each._noise([3, 0]), noise.flip(0))
    assert not torch.equal(
        sampler(*SMALL, "model.noise=per_prompt", "seed=1")._noise([0])[0], noise[0]
    )
    # Prompt 3 keeps its noise in a subset where it stands elsewhere: the row counts.
    config = load(*SMALL, "model.noise=per_prompt")
    subset = [prompts.load(config.dataset)[3]]
    alone = Sampler(None, open_source(config.model, 0), config, subset)
    assert torch.equal(alone._noise([0])[0], noise[1])


def test_seed_0_at_1024_is_mlperfs_latent_to_the_bit(load, data):
    from sdxl.model.sampler import _shared_noise

    published = np.load(data / "mlperf/latents.npy")
    model = load("model=sdxl_random").model
    ours = _shared_noise(model, (4, 128, 128), 0)
    assert ours.dtype == torch.float32
    assert np.array_equal(ours.numpy().view(np.uint32), published.view(np.uint32))


def test_latents_from_a_file_are_used(sampler, tmp_path):
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", latents)
    ours = sampler(*SMALL, f"model.latents={tmp_path / 'x.npy'}")
    assert np.array_equal(ours._noise([0, 1]).numpy(), np.repeat(latents, 2, axis=0))


def nothing(path):
    pass


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (nothing, "cannot be read"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: p.write_bytes(b"hello"), "cannot be read"),
        (lambda p: np.save(p, np.array([{}], object)), "cannot be read"),
        (lambda p: np.savez(p.open("wb"), a=np.zeros(3)), "cannot be read"),
        (lambda p: np.save(p, np.zeros((1, 4, 16, 16), np.float32)), "does not fit"),
        (lambda p: np.save(p, np.full((1, 4, 8, 8), np.nan, np.float32)), "does not fit"),
    ],
    ids=["missing", "empty", "text", "pickled", "several arrays", "other shape", "not finite"],
)
def test_a_latents_file_that_cannot_serve_is_refused(load, tmp_path, write, said):
    from sdxl.model.sampler import _shared_noise

    path = tmp_path / "x.npy"
    write(path)
    model = load(*SMALL, f"model.latents={path}").model
    with pytest.raises(UserError, match=said):
        _shared_noise(model, (4, 8, 8), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_unet_that_overflows_is_found_out(sampler, value):
    ours = sampler(*SMALL)
    unet = ours.stages.unet

    def broken(sample, timestep, embeddings):
        out = unet(sample, timestep, embeddings)
        out[0, 0, 0, 0] = value
        return out

    ours.stages.unet = broken
    with pytest.raises(StageError, match="UNet produced NaN or Inf"):
        ours.generate([0, 1])


def test_a_vae_that_overflows_is_found_out(sampler):
    ours = sampler(*SMALL)
    with torch.no_grad():
        next(ours.stages.modules["vae"].decoder.parameters()).fill_(float("inf"))
    with pytest.raises(StageError, match="NaN or Inf"):
        ours.generate([0])


def test_the_time_ids_are_size_crop_and_target(sampler):
    ours = sampler(*SMALL, "model.width=96")
    assert ours._embeddings(np.array([0]))
    found = ours._embeddings(np.array([0, 1]))
    assert isinstance(found, Embeddings) and len(found.hidden) == 4
    assert found.time_ids.tolist() == [[64, 96, 0, 0, 64, 96]] * 4


def test_steps_are_reported_in_order(sampler):
    ours, seen = sampler(*SMALL), []
    ours.latents([0], on_step=lambda number, timestep: seen.append((number, timestep)))
    assert [number for number, _ in seen] == [0, 1, 2]
    timesteps = [timestep for _, timestep in seen]
    assert timesteps == sorted(timesteps, reverse=True)


def test_a_whole_loop_of_the_backend_is_used_if_it_is_there(sampler):
    ours = sampler(*SMALL)
    expected = ours.latents([0])
    calls = []
    ours.stages.denoise = lambda embeddings, noise: (calls.append(noise.shape), expected)[1]
    assert torch.equal(ours.latents([0]), expected) and calls == [(1, 4, 8, 8)]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "mlperf"])
def test_every_precision_draws_nearly_the_same(sampler, precision):
    wide = sampler(*SMALL).generate([0, 1])
    narrow = sampler(*SMALL, f"precision={precision}")
    found = narrow.describe()["precision"]
    assert found["unet"] == {"bf16": "bfloat16"}.get(precision, "float16")
    assert found["vae"] == ("bfloat16" if precision == "bf16" else "float32")
    pixels = narrow.generate([0, 1])
    assert np.abs(pixels.astype(float) - wide).mean() < 8
    assert not np.array_equal(pixels, wide)
