"""Runs of the fake backend, measured once, as two rounds want them; a whole tree of one."""

import dataclasses
import json

import pytest

from sdxl.bench.mlperf.submission import command, systems
from sdxl.model import published
from tests.bench.mlperf.submission.official import (
    DATACENTER,
    EDGE,
    V51,
    V61,
    World,
    build,
    measure,
    officialise,
    weights,
)  # fmt: skip


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def benchmark_runs(tmp_path_factory, load):
    """Official commands on a local folder whose files the table of checksums has."""
    model, captions, table = weights(tmp_path_factory.mktemp("weights"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "CATALOGUE", table)
        yield World(load, model, captions)


@pytest.fixture(scope="session")
def edge(runs, benchmark_runs, tmp_path_factory):
    return officialise(runs, tmp_path_factory.mktemp("edge") / "runs", V61, EDGE, benchmark_runs)


@pytest.fixture(scope="session")
def datacenter(runs, benchmark_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datacenter") / "runs"
    return officialise(runs, folder, V51, DATACENTER, benchmark_runs)


@pytest.fixture(scope="session")
def opened(runs, benchmark_runs, tmp_path_factory):
    """Runs of the open division, with scores outside of the closed one's bounds."""
    folder = tmp_path_factory.mktemp("open") / "runs"
    return officialise(
        runs, folder, V51, ("Offline",), dataclasses.replace(benchmark_runs, division="open")
    )


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
def box(tmp_path_factory):
    """A complete description of a system of that name."""
    path = tmp_path_factory.mktemp("system") / "box.json"
    facts = systems.describe()
    path.write_text(json.dumps({name: value or "told" for name, value in facts.items()}))
    return path


@pytest.fixture(scope="session")
def tree(edge, box, tmp_path_factory):
    """The v6.1 edge tree, to copy and spoil."""
    out = tmp_path_factory.mktemp("tree") / "out"
    assert build(edge, box, out) == 0
    return out


@pytest.fixture(scope="session")
def tree51(datacenter, box, tmp_path_factory):
    """The v5.1 datacenter tree, to copy and spoil."""
    out = tmp_path_factory.mktemp("tree51") / "out"
    assert build(datacenter, box, out, "--round", "v5.1", "--system-type", "datacenter") == 0
    return out
