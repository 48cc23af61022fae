"""Hydra's second composition of a command is that of the first, and refuses what it refused."""

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from sdxl.config.registry import register
from tests.conftest import ROOT

WORDS = ("quant=int8", "hydra.run.dir=out", "+experiment=mlperf_offline", "seed=3",
         "+hydra.job.env_set.OMP_NUM_THREADS=2")  # fmt: skip


@pytest.fixture
def hydra():
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield GlobalHydra.instance().hydra


@pytest.fixture
def composed(monkeypatch):
    """The words of each composition that Hydra really made."""
    seen, original = [], ConfigLoaderImpl._load_configuration_impl

    def counted(self, **named):
        seen.append(list(named["overrides"]))
        return original(self, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    return seen


@pytest.mark.parametrize(("mode", "words"), [
    (RunMode.RUN, WORDS), (RunMode.RUN, ()), (RunMode.MULTIRUN, [*WORDS[:-2], "seed=1,2"]),
])  # fmt: skip
def test_it_is_what_hydra_composes(hydra, composed, mode, words):
    words = [*words]
    assert hydra.get_mode("run", words) is None
    words.append(f"hydra.mode={mode.name}")
    once = hydra.compose_config("run", words, mode)
    assert len(composed) == 1
    loader = hydra.config_loader
    twice = ConfigLoaderImpl.load_configuration.__wrapped__(loader, "run", words, mode, True)
    assert len(composed) == 2
    for found in (once, twice):
        found.hydra.runtime.output_dir = "out"
    plain = [OmegaConf.to_container(found, resolve=False) for found in (once, twice)]
    assert plain[0] == plain[1] and once.hydra.mode is mode
    assert OmegaConf.is_struct(once) and not OmegaConf.is_readonly(once.hydra)


def test_other_words_are_composed(hydra, composed):
    hydra.get_mode("run", ["seed=1"])
    found = hydra.compose_config("run", ["seed=2", "hydra.mode=RUN"], RunMode.RUN)
    assert found.seed == 2 and len(composed) == 2
    found = hydra.compose_config("run", ["seed=1", "hydra.mode=RUN"], RunMode.RUN)
    assert found.seed == 1 and len(composed) == 3, "the first serves the next composition alone"


def test_a_sweep_without_multirun_is_refused(hydra):
    assert hydra.get_mode("run", ["seed=1,2"]) is None
    with pytest.raises(ConfigCompositionException, match="Ambiguous value"):
        hydra.compose_config("run", ["seed=1,2", "hydra.mode=RUN"], RunMode.RUN)


def test_a_file_may_choose_the_mode(hydra, tmp_path):
    assert hydra.get_mode("run", ["hydra.mode=MULTIRUN"]) is RunMode.MULTIRUN
