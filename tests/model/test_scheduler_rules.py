"""Which scheduler may draw: rules, the weights' own, presets, a calibration's key."""

import dataclasses
import json

import pytest

from sdxl.config.schema import Rules
from sdxl.core.errors import ConfigError, UserError
from sdxl.model import schedulers
from sdxl.model.sources import open_source
from tests.model import folders
from tests.model.folders import SIZE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scheduler=ddim", "scheduler.eta=2"], "`scheduler.eta` is a share"),
        (["scheduler=lcm", "scheduler.original_steps=0"], "`scheduler.original_steps`"),
        (["scheduler=edm", "scheduler.sigma_min=-1"], "`scheduler.sigma_min`"),
        (["scheduler=edm", "scheduler.sigma_min=9", "scheduler.sigma_max=1"], "must be below"),
        (["scheduler=ddim", "rules=closed"], "`scheduler` is fixed"),
        (["scheduler=euler", "scheduler.spacing=trailing", "rules=closed"], "spacing` is fixed"),
    ],
)
def test_settings_that_cannot_hold_are_refused(load, words, said):
    with pytest.raises(ConfigError) as refused:
        load("rules=open", *words)
    assert said in str(refused.value)


def test_closed_rules_take_the_benchmarks_scheduler_only(load, made):
    for folder, right in (("epsilon", True), ("v_prediction", False), ("turbo", False)):
        config = load("model=sdxl", f"model.path={made[folder]}", "rules=closed",
                      "model.height=1024", "model.width=1024")  # fmt: skip
        source = open_source(config.model, config.seed)
        if right:
            assert schedulers.chosen(config, source).calls == 20
        else:
            with pytest.raises(UserError, match="fixed in MLPerf's closed division"):
                schedulers.chosen(config, source)
        config.rules = Rules.open
        assert schedulers.chosen(config, source).calls == 20


def test_a_setting_that_the_models_own_scheduler_does_not_take_is_named(load, made):
    config = load(*SIZE, f"model.path={made['lcm']}", "scheduler.spacing=trailing")
    with pytest.raises(UserError, match=r"`scheduler.spacing` would be ignored.*LCMScheduler"):
        schedulers.chosen(config, open_source(config.model, 0))


def test_too_many_steps_for_a_distilled_schedule_are_named(load, made):
    config = load(*SIZE, "scheduler=lcm", f"model.path={made['lcm']}", "model.steps=60")
    with pytest.raises(UserError, match="LCMScheduler cannot draw in 60 steps"):
        schedulers.chosen(config, open_source(config.model, 0))


def test_an_unknown_scheduler_is_named_and_another_may_draw(load, tmp_path):
    path = folders.folder(tmp_path / "flow", {"_class_name": "FlowMatchEulerDiscreteScheduler"})
    config = load(*SIZE, f"model.path={path}")
    with pytest.raises(UserError, match="cannot draw here: FlowMatchEuler"):
        schedulers.chosen(config, open_source(config.model, 0))
    config = load(*SIZE, f"model.path={path}", "scheduler=euler")
    assert schedulers.chosen(config, open_source(config.model, 0)).calls == config.model.steps


def test_dpmpp_sde_without_torchsde_says_what_to_install(load, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers.utils, "is_torchsde_available", lambda: False)
    config = load("scheduler=dpmpp_sde", "rules=open")
    with pytest.raises(UserError, match="needs torchsde"):
        schedulers.chosen(config, open_source(config.model, 0))


@pytest.mark.parametrize(
    ("preset", "kind", "timesteps"),
    [
        ("turbo", "EulerAncestralDiscreteScheduler", [999]),
        ("lightning_4", "EulerDiscreteScheduler", [999, 749, 499, 249]),
        ("lightning_8", "EulerDiscreteScheduler", [999, 874, 749, 624, 499, 374, 249, 124]),
        ("hyper_4", "DDIMScheduler", [999, 749, 499, 249]),
        ("lcm_4", "LCMScheduler", [999, 759, 499, 259]),
        ("dmd2_4", "LCMScheduler", [999, 749, 499, 249]),
    ],
)
def test_presets_have_the_published_timesteps(load, preset, kind, timesteps):
    config = load(f"+preset={preset}")
    schedule = schedulers.chosen(config, open_source(config.model, 0))
    assert type(schedule.scheduler).__name__ == kind
    assert schedule.timesteps == timesteps
    assert (config.model.guidance > 1) is (preset == "lcm_4") and config.rules is Rules.open


def test_calibration_keys_follow_scheduler_steps_and_embedding(load, made):
    from sdxl.config import content_key
    from sdxl.quant import calibrate

    def key(folder, *words):
        config = load(*SIZE, f"model.path={made[folder]}", "quant=int8", *words)
        return content_key.key(calibrate.settings_of(config, attention=False))

    keys = [
        key("epsilon"),
        key("epsilon", "model.steps=4"),
        key("epsilon", "scheduler=euler", "scheduler.spacing=trailing"),
        key("epsilon", "scheduler=dpmpp_2m"),
        key("epsilon", "scheduler=dpmpp_2m_karras"),
        key("epsilon", "scheduler=tcd", "model.steps=4"),
        key("epsilon", "scheduler=tcd", "scheduler.eta=0", "model.steps=4"),
        key("epsilon", "model.negative_prompt=null"),
        key("zeros", "model.negative_prompt=null"),
        key("lcm"),
    ]
    assert len(set(keys)) == len(keys)
    plain = load(*SIZE, f"model.path={made['epsilon']}", "quant=int8")
    found = calibrate.settings_of(plain, attention=False)
    assert not {"timesteps", "seed", "guidance_width"} & set(found), "older keys stay"
    closed = dataclasses.replace(plain, rules=Rules.closed)
    assert calibrate.settings_of(closed, attention=False) == found


def test_identities_of_default_settings_have_no_scheduler(load, made):
    from sdxl.run import identity

    plain, other = load(), load("scheduler=ddim", "rules=open")
    assert identity.artifact_key(plain) != identity.artifact_key(other)
    assert identity.identity(load("rules=open")) != identity.identity(other)
    own = identity._files(load(*SIZE, f"model.path={made['epsilon']}"))
    assert not {"model.scheduler", "model.guidance_width"} & set(own)
    assert identity._files(load(*SIZE, f"model.path={made['turbo']}"))["model.scheduler"]
    assert identity._files(load(*SIZE, f"model.path={made['lcm']}"))["model.guidance_width"] == "64"
    index = json.loads((made["lcm"] / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "LCMScheduler"]
