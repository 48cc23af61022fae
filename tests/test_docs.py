"""Documents name what is there: files, links, commands; commands compose, examples work."""

import re
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sdxl.__main__ import COMMANDS
from sdxl.backends.torch import BACKEND as TORCH
from sdxl.config.compose import Composer
from sdxl.config.load import load
from sdxl.core.types import Prompt
from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"`((?:sdxl|tests|benchmarks|conf|docs|hydra_plugins)/[\w./-]+)`")
INVENTED = ("mine", "ROOM", "FILE", "GROUP", "NAME", "X")
"""Stand-ins in CONTRIBUTING.md and the map."""
BLOCK = re.compile(r"^```(?:sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINES = sorted(
    {
        line.strip()
        for page in PAGES
        for block in BLOCK.findall(page.read_text())
        for line in block.splitlines()
        if line.startswith("python ")
    }
)
RUNS = re.compile(r"python (run|quantize|export|train)\.py")
COMPOSED = [
    line for line in LINES if RUNS.match(line) and "--help" not in line and " ..." not in line
]


@pytest.fixture(scope="module")
def composers():
    return {name: Composer(name) for name in ("run", "quantize", "export", "train")}


def first_cell(words):
    """The words with each swept key at its first value."""
    parsed = OverridesParser.create().parse_overrides(words)
    for word, override in zip(words, parsed, strict=True):
        if override.is_sweep_override() and not word.startswith("hydra."):
            key, _, value = word.partition("=")
            if not value.startswith("glob("):
                yield f"{key}={next(iter(override.sweep_string_iterator()))}"
        else:
            yield word


@pytest.mark.parametrize("line", COMPOSED)
def test_a_command_composes(line, composers):
    name = RUNS.match(line).group(1)
    words = [word for word in shlex.split(line, comments=True)[2:] if word != "-m"]
    if name == "train":
        composers[name].composed(list(first_cell(words)))
    else:
        composers[name].config(list(first_cell(words)))


def test_small_commands_and_benchmarks_are_there():
    for line in LINES:
        words = line.split()
        if words[1:3] == ["-m", "sdxl"]:
            assert words[3] in COMMANDS, line
        elif words[1].startswith("benchmarks/"):
            assert (ROOT / words[1]).is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target
    for target in NAMED.findall(text):
        if not set(INVENTED) & set(re.split(r"[\W_]", target)):
            assert (ROOT / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 250


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(path, content) of the page's blocks that follow the name of a file, ending with a colon."""
    pattern = rf"`([\w./]+)`[^`]{{0,90}}:\n\n```{language}\n(.*?)^```"
    return re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def example(monkeypatch):
    """An example of CONTRIBUTING.md as a module, by its path there."""
    code = dict(blocks(ROOT / "CONTRIBUTING.md", "python"))

    def load(path: str) -> types.ModuleType:
        module = types.ModuleType("mine")
        monkeypatch.setitem(sys.modules, "mine", module)  # where dataclasses look annotations up
        exec(code[path], vars(module))
        return module

    return load


def test_the_metric_of_contributing_scores(example):
    scorer = example("sdxl/quality/mine.py").Brightness(255.0)
    scorer.add([0, 1], np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]).astype(np.uint8))
    assert scorer.result()["metrics"] == {"brightness": 0.5}


def test_the_further_metric_of_contributing_measures(example):
    metric = example("sdxl/quality/extra/mine.py").METRIC
    assert metric.kind == "paired" and not metric.higher_is_better
    white, grey = (np.full((2, 8, 8, 3), value, np.uint8) for value in (255, 102))
    assert metric.open(Path(), "cpu")(white, grey) == pytest.approx([0.6, 0.6])


def test_the_backend_of_contributing_draws_what_torch_draws(example):
    from sdxl.model.sampler import Sampler
    from sdxl.model.sources import open_source

    mine = example("sdxl/backends/mine.py")
    words = ["model=tiny_random", "model.steps=2", "rules=open", "limit=2"]
    config = load(Composer("run").composed(words))
    chosen = [Prompt(n, f"a picture, number {n}", n) for n in range(2)]
    source = open_source(config.model, config.seed)

    def pictures(backend):
        return Sampler(backend.open(config, {}), source, config, chosen).generate([0, 1])

    theirs = pictures(TORCH)
    config.backend = mine.Config("mine")
    apart = np.abs(pictures(mine.BACKEND).astype(int) - theirs)
    assert apart.max() <= 1, "another loop, other last digits"
    assert mine.BACKEND.problems_of(config) == []


def test_each_example_has_its_yaml():
    yamls = dict(blocks(ROOT / "CONTRIBUTING.md", "yaml"))
    assert {"conf/backend/mine.yaml", "conf/quality/mine.yaml"} <= set(yamls)
    for path, text in yamls.items():
        assert text.startswith("# ") and "\nname: mine\n" in text, path
