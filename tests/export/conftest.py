"""The exported graphs as configurations and chains."""

import pytest

from sdxl.config import load
from sdxl.core import store
from sdxl.export import trace
from sdxl.run import artifacts


@pytest.fixture
def asked(exported, composed):
    """Further words -> the configuration of the exported model."""
    return lambda *words: load.load(composed(*exported.words, "backend=ort", *words))


@pytest.fixture
def chain_of(traces):
    """A configuration -> its chain of artifacts, every step in this process."""

    class Here:
        def report(self, message):
            self.said = message

    def build(cfg):
        place = store.root() / trace.KIND
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(traces)
        return artifacts.build(cfg, lambda work, *args: work(Here(), cfg, *args))

    return build
