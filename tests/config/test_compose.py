"""Every file under `conf/` composes, passes the rules, and says what it is for."""

import re

import pytest
import yaml

from sdxl.config import load
from sdxl.config.compose import Composer
from tests import composing
from tests.conftest import ROOT

CONF = ROOT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
OPTIONS = [
    path
    for path in FILES
    if path.parent != CONF and "hydra" not in path.parts and path.parent.name != "schema"
]
NEEDS = {  # what an option asks of others
    "model/sdxl": ("precision=fp16",),
    "model/sdxl_random": ("precision=bf16",),
    "quality/mlperf": ("mode=accuracy",),
    "quality/smoke": (
        "model=sdxl",
        "precision=fp16",
        "dataset=coco",
        "limit=100",
        "mode=accuracy",
        "rules=closed",
    ),
    **{
        f"scheduler/{path.stem}": ("rules=open",)  # the closed division has Euler
        for path in (CONF / "scheduler").glob("*.yaml")
        if path.stem not in ("auto", "euler")
    },
}


OVERLAYS = ("experiment", "sweep", "latency", "rung", "preset", "candidate")
"""Groups that are added to a command and change others."""


def name(path):
    return str(path.relative_to(CONF).with_suffix(""))


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_every_option_composes_and_keeps_the_rules(path, composed):
    group, option = path.parent.name, path.stem
    plus = "+" if group in OVERLAYS else ""
    command = "train" if group == "train" else "run"
    words = (f"{plus}{group}={option}", *NEEDS.get(name(path), ()))
    found = load.load(composed(*words, name=command))
    if group not in (*OVERLAYS, "precision", "train"):  # the name in `train` is a stage
        assert getattr(found, group).name == option


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=name)
def test_every_cell_of_a_sweep_keeps_the_rules(path, composed):
    from itertools import product

    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = Composer("run").hydra([f"+sweep={path.stem}"]).sweeper
    parsed = OverridesParser.create().parse_overrides(
        [f"{name}={values}" for name, values in sweeper["params"].items()]
    )
    choices = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        for each in parsed
    ]
    cells = list(product(*choices))
    assert len(cells) > 1
    scored = ["quality=fast"] if any(n.startswith("quality.") for n in sweeper["params"]) else []
    words = [[f"+sweep={path.stem}", *scored, *cell] for cell in cells]
    if "trials" in sweeper:  # a search leaves out what an option has not, and some other one has
        firsts = {word: cell for cell in reversed(words) for word in cell if "shortcut=" in word}
        words = [*map(composing.fit, firsts.values())] or words[:1]
    for cell in words:
        load.load(composed(*cell))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_starts_with_a_sentence(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.match(r"# \w.+[.?:]", lines[0]), lines[0]


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_every_option_shows_a_command_that_names_it(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    commands = [line for line in head if re.search(r"python \w+\.py", line)]
    assert commands, head
    group = path.parent.name
    wanted = {"sweep": f"+sweep={path.stem}", "experiment": f"+experiment={path.stem}"}
    text = " ".join(commands)
    # An option that is the default needs no mention of its own name.
    settings = f"{group}=|{group}\\.|quant_level|calib_size"
    assert wanted[group] in text if group in wanted else re.search(settings, text), text


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_can_run_code(path):
    text = path.read_text()
    assert "_target_" not in text and "!!python" not in text
    yaml.safe_load(text)


def test_values_live_in_yaml_for_every_missing_field(composed):
    """Nothing but a model's path may be left for the user to fill in."""
    from omegaconf import OmegaConf

    for scenario in ("Offline", "Server", "SingleStream", "MultiStream"):
        for model in ("tiny", "tiny_random", "scenes", "sdxl", "sdxl_random"):
            cfg = composed(f"scenario={scenario}", f"model={model}")
            assert OmegaConf.missing_keys(cfg) <= {"model.path"}
