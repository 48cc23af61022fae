"""Runs of the fake backend, measured once, as two rounds want them; a whole tree of one."""

import json

import pytest

from sdxl.bench.mlperf.submission import command, systems
from tests.bench.mlperf.submission.official import V51, V61, build, measure, officialise

EDGE, DATACENTER = ("Offline", "SingleStream"), ("Offline", "Server")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def edge(runs, tmp_path_factory):
    return officialise(runs, tmp_path_factory.mktemp("edge") / "runs", V61, EDGE)


@pytest.fixture(scope="session")
def datacenter(runs, tmp_path_factory):
    return officialise(runs, tmp_path_factory.mktemp("datacenter") / "runs", V51, DATACENTER)


@pytest.fixture
def system(tmp_path):
    """A complete description."""
    path = tmp_path / "box.json"
    assert command.main(["describe", str(path)]) == 0
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**dict.fromkeys(found, "told"), **{k: v for k, v in found.items()
                                                                   if v}}))  # fmt: skip
    return path


@pytest.fixture(scope="session")
def tree(edge, tmp_path_factory):
    """The v6.1 edge tree, to copy and spoil."""
    folder = tmp_path_factory.mktemp("tree")
    path = folder / "box.json"
    facts = systems.describe()
    path.write_text(json.dumps({name: value or "told" for name, value in facts.items()}))
    assert build(edge, path, folder / "out") == 0
    return folder / "out"
