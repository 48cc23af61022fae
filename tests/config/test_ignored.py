"""No setting is silently ignored: it is in a key or a plan, or refused, or listed with a reason."""

import copy
import dataclasses
import enum
import typing

import pytest
from omegaconf import OmegaConf

from sdxl.config import load as config
from sdxl.config import ranges
from sdxl.core.errors import ConfigError
from sdxl.run import identity
from tests.composing import checked, compose

SILENT = {
    "name": "the option's own; the words of a command cannot change it",
    "tracking.enabled": "where runs are shown, not what they measure",
    "tracking.uri": "the same",
    "tracking.experiment": "the same",
    "rerun": "which records may stand for a measurement",
    "build": "whether missing artifacts may be made",
    "fail_fast": "how a sweep ends",
    "timeout_s": "how long a measurement may take",
    "plan": "shows what would run",
    "cost.per_hour": "a price, put on figures when they are shown",
    "preset": "the name of the preset whose steps and scheduler the other settings are",
    "export.parity": "looks at graphs, changes nothing in them",
    "quant.modelopt": "keeps a further copy of a checkpoint",
    "precision.auto": "a timing that chooses the other three, which count",
    "quant.report_prompts": "a report, no number of the checkpoint",
}
"""Settings that change no figure, and why."""
SAME_WORK = {
    "quant.calls", "quant.steps", "quant.linear_ranges", "quant.alpha_only", "quant.smooth",
    "quant.percentile", "quant.alpha", "quant.calib_size", "quant.calib_dataset",
}  # fmt: skip
"""Of a recipe that quantizes: two settings that select the same numbers are one measurement, on
purpose, and a sweep says which cell a skipped one equals."""
BASES = {
    "fake": ["backend=fake"],
    "torch": ["backend=torch"],
    "torch int8": ["backend=torch", "quant=int8"],
    "torch int4": ["backend=torch", "quant=int4_weight_only"],
    "torch fp8": ["backend=torch", "quant=fp8"],
    "ort": ["backend=ort", "quant=int8"],
    "openvino": ["backend=openvino", "quant=int8"],
    "trt": ["backend=trt", "quant=int8"],
    "full": ["quality=full"],
    "sdxl": ["model=sdxl"],
    "server": ["backend=fake", "scenario=Server"],
}


def leaves(node, prefix=""):
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name], value


def others(key, hint, value):
    """Values unlike the present one, of the setting's type."""
    kinds = ranges._parts(hint)
    choices = next((each for each in kinds if isinstance(each, enum.EnumMeta)), None)
    if choices:
        return [each.name for each in choices if each is not value]
    if bool in kinds:
        return [not value]
    if int in kinds and typing.get_origin(hint) is not list and "list" not in str(hint):
        return [(value or 2) + 1, max(1, (value or 8) // 2)]
    if float in kinds:
        return [0.25, 3.0, 0.5, 2.0]
    return [["x"]] if "list[str]" in str(hint) else [[1]] if "list" in str(hint) else ["x"]


def _changes(base, name, value, key):
    """Whether the value gives another key, or is refused."""
    cfg = copy.deepcopy(base)
    try:
        OmegaConf.update(cfg, name, value)
        return identity.identity(config.load(cfg)) != key
    except ConfigError:
        return True


@pytest.mark.parametrize("words", BASES.values(), ids=BASES)
def test_every_setting_has_an_effect_or_is_refused(words):
    base = compose("run", "rules=open", *words)
    usual = config.load(copy.deepcopy(base))
    key = identity.identity(usual)
    silent = []
    for name, hint, value in leaves(usual):
        settled = OmegaConf.select(base, name, default="?") == "?"  # `load` chose the option
        if settled or name in SILENT or name.endswith(".name"):
            continue
        tried = [_changes(base, name, other, key) for other in others(name, hint, value)]
        changed = any(tried)  # all of them: each must load or be refused
        same = name in SAME_WORK and usual.quant.format.value != "none"
        if not changed and not same:
            silent.append(name)
    assert not silent


def test_the_list_of_silent_settings_is_not_stale():
    keys = {name for name, *_ in leaves(checked("run"))}
    assert not {key for key in (*SILENT, *SAME_WORK) if key not in keys | {"name"}}


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (["quant.level=3"], "`quant.level` would be ignored", "quant=int8 quant.level=3"),
        (["quant.modelopt=true"], "`quant.modelopt` would be", "quant=int8 quant.modelopt=true"),
        (["quant.format=fp8"], "`quant.format` would be ignored", None),
        (["quant.exclude=[conv_in]"], "`quant.exclude` would be", None),
        (["quant=none", "quant.smooth=false"], "`quant.smooth` would be ignored", None),
        (["quant=int8", "quant.block_size=64"], "only INT4 has blocks", None),
        (["backend=fake", "rules=open", "model.steps=3"], "`model.steps` would", "model.steps=20"),
        (["backend=fake", "precision=fp16"], "`precision.unet` would", "precision.unet=fp32"),
        (["backend=fake", "precision=fp16"], "`precision.text_encoder` would", None),
        (["backend=fake", "model.latents=x.npy"], "`model.latents` would", "model.latents=null"),
    ],
)
def test_what_would_be_ignored_is_named(load, words, what, fix):
    with pytest.raises(ConfigError) as caught:
        load(*words)
    found = [problem for problem in caught.value.problems if what in problem.what]
    assert found, caught.value.problems
    assert fix is None or found[0].fix == fix


def test_what_a_harness_hands_on_is_accepted(load):
    assert load("backend=fake", "model.height=64", "model.negative_prompt=x", "rules=open")
    assert load("quant=none", "quant.report_prompts=0", "backend=fake")
