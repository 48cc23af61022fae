"""`--help`: every setting with its default, its values and its meaning."""

import dataclasses
import time

import pytest

from sdxl.config import help as helping
from sdxl.config import plugins, registry, schema
from sdxl.config.schema import train as schema_train

NODES = [
    schema.Config, schema_train.TrainConfig, schema_train.Training, schema_train.Tuning,
    schema_train.Finetune, schema.Export,
    *(node for nodes in schema.GROUPS.values() for node in nodes.values()),
    *(backend.config for backend in plugins.backends().values()),
    *(option.config for option in plugins.quality_options().values()),
]  # fmt: skip
GROUPS = {*schema.GROUPS, "backend", "cost", "export", "train"}


@pytest.fixture(autouse=True)
def registered():
    registry.register()


@pytest.mark.parametrize("node", NODES, ids=lambda node: f"{node.__module__}.{node.__name__}")
def test_every_setting_says_what_it_means(node):
    told = helping.meanings(node)
    silent = {field.name for field in dataclasses.fields(node)} - set(told)
    assert silent <= GROUPS if issubclass(node, schema.Config) else not silent


def line_of(text: str, key: str) -> str:
    """The lines of one setting, joined."""
    after = text.split(f"\n  {key}=", 1)[1]
    first, *more = after.split("\n")
    for line in more:
        if not line.startswith(" " * helping.COLUMN):
            break
        first += " " + line.strip()
    return " ".join(first.split())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("limit", "null prompts used; null: all [integer or null]"),
        ("rerun", "[failed|all|never or null]"),
        ("model.steps", "20 denoising steps [integer]"),
        ("backend.devices", "[list of integer or null]"),
        ("backend.execution", "real: in 8 bits; auto: where that is faster [simulated|real|auto]"),
        ("scenario.stall_s", "120.0 longest silence while measuring [number]"),
        ("quality.baseline", "true measure the unquantized baseline"),
    ],
)  # fmt: skip
def test_a_setting_has_default_meaning_and_values(key, said):
    assert said in line_of(helping.text("run", []), key)


def test_by_default_nothing_is_quantized_and_a_key_changes_that():
    assert line_of(helping.text("run", []), "quant.format").startswith("none ")
    assert line_of(helping.text("run", ["quant_level=3"]), "quant.format").startswith("int8 ")


def test_it_follows_the_options_that_are_typed():
    text = helping.text("run", ["backend=ort", "--help"])
    assert "\n  backend.provider=auto" in text and "backend.compile" not in text


@pytest.mark.parametrize("name", ["run", "quantize", "export", "train"])
def test_no_line_is_too_long_but_for_a_long_value(name):
    text = helping.text(name, [])
    long = [line for line in text.splitlines() if len(line) > helping.WIDTH]
    assert not [line for line in long if line.startswith(" " * helping.COLUMN)]
    assert "Exit codes" in text


def test_it_takes_no_time():
    """Processor time of one composition: `import hydra` takes as long (0.25 s)."""
    began = time.process_time()
    helping.text("run", [])
    assert time.process_time() - began < 1.5
