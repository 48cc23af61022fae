"""Records whose pictures are real, and the command that packs them."""

import json

import pytest

from sdxl.bench import generators
from sdxl.core import records
from sdxl.core.record import Image, Record
from sdxl.core.types import Prompt
from sdxl.model import images
from sdxl.run.pack import command

SMALL = ("model=tiny_random", "model.height=64", "model.width=64", "model.steps=2", "rules=open")
CAPTIONS = ("a red cube left of a blue sphere", "a green cone")


@pytest.fixture
def packed(capsys):
    """Run the command in this process; its exit code and JSON line."""

    def run(*words):
        code = command.main([*map(str, words)])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def record_of(load):
    """A record of these words in a folder; its pictures are drawn from these artifacts."""

    def make(folder, words, artifacts=None):
        config = load(*words)
        prompts = [Prompt(row, text, row) for row, text in enumerate(CAPTIONS)]
        generator = generators.open_generator(config, artifacts or {}, prompts)
        kept = []
        for row, picture in enumerate(generator.generate([0, 1])):
            file = folder / f"images/{row:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            images.save(picture, file)
            kept.append(Image(row, f"images/{file.name}", "", CAPTIONS[row], row))
        told = Record(key="k", config={}, command=f"python run.py {' '.join(words)}", status="ok")
        told.images = kept
        records.write(told, folder)
        return folder

    return make
