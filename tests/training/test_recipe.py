"""The recipe of a training: optimizer, rates, parts of a batch, losses."""

import json

import pytest
import torch

from sdxl.config.choices import Prediction, Weighting
from sdxl.config.load import load as checked
from sdxl.core.errors import ConfigError, UserError
from sdxl.training import average, checkpoint, loop, machine, recipe
from sdxl.training.stages.denoising import Denoiser
from tests.training.test_loop import Stage, losses, settings


def test_the_rate_warms_up_stays_and_falls():
    given = settings(steps=100, warmup_steps=10, decay_share=0.2, lr=1.0)
    rates = [recipe.rate(step, given) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5) and rates[99] < 0.01
    longer = settings(steps=200, warmup_steps=10, decay_share=0.2, lr=1.0)
    assert recipe.rate(70, longer) == rates[70], "a longer training begins the same"
    scaled = settings(steps=100, warmup_steps=10, decay_share=0, lr=1.0, base_lr=0.01)
    assert recipe.rate(99, scaled) == recipe.highest_rate(scaled) == 0.08


def test_the_optimizer_is_as_told(tmp_path):
    module = Stage().module
    plain = recipe.optimizer(module, settings(weight_decay=0.5))
    assert [len(group["params"]) for group in plain.param_groups] == [2, 2]
    assert [group["weight_decay"] for group in plain.param_groups] == [0.5, 0.0]
    told = settings(weight_decay=0.5, decay_all=True, beta1=0.8, beta2=0.999, epsilon=1e-6)
    other = recipe.optimizer(module, told)
    assert [len(group["params"]) for group in other.param_groups] == [4, 0]
    assert other.param_groups[0]["betas"] == (0.8, 0.999) and other.param_groups[0]["eps"] == 1e-6


def test_a_batch_in_parts_has_the_losses_of_the_whole(tmp_path):
    whole, *_ = losses(tmp_path / "whole")
    parts, *_ = losses(tmp_path / "parts", accumulate=4)
    assert list(parts.values()) == pytest.approx(list(whole.values()), rel=1e-5)
    with pytest.raises(UserError, match="does not divide"):
        machine.check(settings(accumulate=3))


def test_without_average_or_clipping(tmp_path):
    seen, stage, found = losses(tmp_path / "none", ema=None, clip_norm=None)
    assert found["weight"] == pytest.approx(
        float(stage.module.net[0].weight.detach().sum()), abs=1e-6
    )
    assert not checkpoint.averaged(tmp_path / "none" / loop.FILE)
    huge, *_ = losses(tmp_path / "huge", clip_norm=1e9)
    assert seen == huge
    first, *_ = losses(tmp_path / "parts", ema=None, clip_norm=None, max_s=0.0)
    rest, *_ = losses(tmp_path / "parts", ema=None, clip_norm=None)
    assert first | rest == seen
    assert average.begun(stage.module, None) == {}


def test_a_checkpoint_from_before_a_setting_goes_on_with_its_default(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fixed = loop.fixed
        patch.setattr(loop, "fixed", lambda *given: {
            name: value for name, value in fixed(*given).items()
            if name not in ("beta1", "beta2", "epsilon", "accumulate", "decay_all", "base_lr")
        })  # fmt: skip
        losses(tmp_path, steps=3)
    with pytest.raises(UserError, match="other settings: beta2"):
        losses(tmp_path, beta2=0.999)
    seen, *_ = losses(tmp_path)
    assert list(seen) == list(range(4, 13))
    assert json.dumps(loop.fixed(settings(), 0, {}))


class Known(torch.nn.Module):
    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, noisy, timestep, **_):
        return (self.out,)


@pytest.mark.parametrize("prediction", [Prediction.epsilon, Prediction.v_prediction])
def test_targets_and_weights_are_those_of_diffusers(prediction):
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              prediction_type=prediction.value)  # fmt: skip
    latents, noise, out = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([20, 900])
    velocity = prediction is Prediction.v_prediction
    target = scheduler.get_velocity(latents, noise, timestep) if velocity else noise
    error = (out - target).square().mean((1, 2, 3))
    snr = compute_snr(scheduler, timestep)
    weight = snr.clamp(max=5) / (snr + 1 if velocity else snr)
    words = {"hidden": None, "pooled": None, "time_ids": None}
    for weighting, expected in ((Weighting.min_snr, weight * error), (Weighting.none, error)):
        module = Denoiser(Known(out), weighting=weighting, prediction=prediction)
        found = module(latents, noise, timestep, **words)
        assert float(found["loss"]) == pytest.approx(float(expected.mean()), rel=1e-4)
        assert float(found["error"]) == pytest.approx(float(error.mean()), rel=1e-5)
    module.alphas = torch.zeros(1000)  # no signal at all at the last step, as some models have it
    none = module._weights(torch.zeros(1))
    assert torch.isfinite(none).all()


def test_what_would_be_ignored_is_refused(composed):
    def refused(*words):
        with pytest.raises(ConfigError) as caught:
            checked(composed(*words, "tracking=off", name="train"), words)
        return str(caught.value)

    both = ("train=finetune", "train.lr=0.1", "train.base_lr=1e-7")
    assert "`train.lr` would be ignored" in refused(*both)
    assert "whole batch" in refused("train=clip", "train.accumulate=2")
    assert "no loss" in refused("train=finetune", "train.prediction=sample")
    shards = ("train=lora", "train.shards=x", "train.scenes=9", "precision=fp16", "limit=3")
    found = refused(*shards, "train.ema=2")
    for name in ("train.scenes", "precision", "limit", "train.ema"):
        assert f"`{name}`" in found, "in one message"
    for stage in ("sd2_mlperf", "distill"):
        assert "`train.size` would be ignored" in refused(f"train={stage}", "train.size=64")
    read = ("train=qat", "quant_level=3", "precision=fp32", "scheduler=ddim", "train.scenes=9")
    assert checked(composed(*read, name="train"), read).train.scenes == 9
    with pytest.raises(ConfigError, match=r"train\.beta2"):
        checked(composed("train=finetune", "train.beta2=1", name="train"))
