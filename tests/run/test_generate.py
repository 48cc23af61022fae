"""Pictures by a setting: as the backend draws them, from noise of their own, by any record."""

import json

import numpy as np
import pytest
import torch

from sdxl.core import records
from sdxl.core.record import Record
from sdxl.core.types import Prompt
from sdxl.model.images import load as pixels
from sdxl.run import generate

SMALL = ("model=tiny_random", "model.height=64", "model.width=64", "model.steps=2", "rules=open")
PROMPT = "a red cube"


@pytest.fixture
def command(capsys):
    """Run the command in this process; its exit code and JSON line."""

    def run(*words):
        code = generate.main([*map(str, words)])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def drawn(line):
    return [pixels(file) for file in line["files"]]


def test_pictures_are_those_of_the_sampler_and_depend_on_the_seed_alone(command, load, tmp_path):
    code, line = command(PROMPT, *SMALL, "--n", 3, "--seed", 5, "--to", tmp_path / "a")
    assert code == 0 and len(line["files"]) == 3 and (tmp_path / "a" / "sheet.png").is_file()
    assert line["seconds_per_picture"] > 0 and line["first_picture_s"] > 0
    three = drawn(line)
    assert not np.array_equal(three[0], three[1])

    config = generate._drawing(load(*SMALL), 5, 1)
    asked = [Prompt(0, PROMPT, 0)]
    generator = generate.generators.open_generator(config, {}, asked)
    with torch.inference_mode():
        alone = generator.generate([0])[0]
    assert np.abs(alone.astype(int) - three[0]).max() <= 1  # alone and in a batch of three

    _, other = command(PROMPT, "--seed", 6, "--to", tmp_path / "b", *SMALL)
    assert not np.array_equal(drawn(other)[0], three[0])


def test_the_setting_of_a_record_draws(command, tmp_path):
    words = " ".join([*SMALL, "quant=int8", "quant_level=3", "calib_size=1", "limit=4"])
    cell = tmp_path / "cell"
    records.write(Record(key="k", config={}, command=f"python run.py {words}"), cell)
    _, plain = command(PROMPT, *SMALL, "--to", tmp_path / "plain")
    code, line = command(PROMPT, "--record", cell, "--to", tmp_path / "int8")
    assert code == 0
    gap = np.abs(drawn(plain)[0].astype(int) - drawn(line)[0])
    assert 0 < gap.mean() < 16  # quantized, yet the same picture


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("", "--n", "1"), "nothing to draw"),
        ((PROMPT, "--n", "0"), "nothing to draw"),
        ((PROMPT, "--seed", "-1"), "out of range"),
        ((PROMPT, "limit=3"), "limit=3"),
        ((PROMPT, "scenario=Server"), "scenario=Server"),
        ((PROMPT, "model.stps=3"), "model.stps"),
        ((PROMPT, "--record", "nowhere"), "no such record"),
    ],
)
def test_mistakes_are_refused(command, words, said):
    code, line = command(*words)
    assert code == 2 and said in line["reason"]
