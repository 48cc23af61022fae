"""A configuration runs no code, wherever it stands and however it is written."""

import pickle
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdxl.core.errors import SdxlError
from tests.conftest import ROOT

FAST = ("backend=fake", "limit=8", "scenario.min_duration_ms=0", "backend.sample_ms=0")


@pytest.fixture
def composed_all(tmp_path):
    """The composition of words, Hydra's own node with it; `+experiment=x` is what was written."""
    place = tmp_path / "others" / "experiment"

    def make(*words, text=""):
        if text:
            place.mkdir(parents=True)
            (place / "x.yaml").write_text(f"# @package _global_\n{text}")
            words = (f"hydra.searchpath=[file://{place.parent}]", "+experiment=x", *words)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("run", overrides=list(words), return_hydra_config=True)

    return make


TYPED = [
    "+hydra.callbacks.x={_target_:pandas.read_pickle,filepath_or_buffer:x.pkl}",
    "+hydra.callbacks.x=${model}",
    "hydra.sweeper._target_=os.system",
    "hydra.launcher._target_=subprocess.run",
    "hydra.launcher._target_=${oc.env:HOME}",
    "+hydra.launcher.deep={a:[{_target_:os.system}]}",
    "+model._target_=os.system",
    "+hydra.job.env_set.LD_PRELOAD=x.so",
    "+hydra.job.env_set.PYTHONPATH=x",
    "+hydra.job_logging.handlers.x={class:os.system}",
    "hydra.searchpath=[pkg://this]",
]


@pytest.mark.parametrize("word", TYPED)
def test_typed_words_run_no_code(composed_all, word):
    with pytest.raises(SdxlError) as refused:
        composed_all(word)
    assert refused.value.exit_code == 2


WRITTEN = {
    "callback": "hydra: {callbacks: {x: {_target_: os.system, command: 'true'}}}",
    "made of text": "hydra: {callbacks: \"${oc.create:'{x: {_target_: os.system}}'}\"}",
    "launcher": "hydra: {launcher: {_target_: os.system}}",
    "sweeper": "hydra: {sweeper: {_target_: os.system}}",
    "factory": "hydra: {job_logging: {handlers: {x: {'()': os.system}}}}",
    "class": "hydra: {hydra_logging: {formatters: {x: {class: os.system}}}}",
    "object": "hydra: {job_logging: {handlers: {x: {stream: 'ext://os.environ'}}}}",
    "shell of Slurm": "defaults: [{override /hydra/launcher: submitit_slurm}]\n"
    "hydra: {launcher: {setup: ['touch here']}}",
    "preload": "hydra: {job: {env_set: {LD_PRELOAD: x.so}}}",
    "start-up file": "hydra: {job: {env_set: {PYTHONSTARTUP: x.py}}}",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_files_run_no_code(composed_all, text):
    with pytest.raises(SdxlError, match=r"would run code|would be set") as refused:
        composed_all(text=text)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local"],
        ["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[module load cuda]"],
        ["hydra/sweeper=basic"],
        ["+sweep=pareto", "hydra.sweeper.trials=3"],
        ["hydra/job_logging=default", "hydra/hydra_logging=default"],
        ["+hydra.job.env_set.CUDA_VISIBLE_DEVICES=1"],
        ["tracking.uri=${oc.env:HOME}"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_shipped_or_documented_is_let_through(composed_all, words):
    assert composed_all(*words).hydra


class Evil:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["typed", "file", "--config-dir", "--experimental-re", "plan"])
def test_no_pickle_is_loaded_by_a_command(cli, tmp_path, kind):
    made, evil = tmp_path / "made", tmp_path / "x.pkl"
    evil.write_bytes(pickle.dumps(Evil(made)))
    callback = f"{{_target_: pandas.read_pickle, filepath_or_buffer: {evil}}}"
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = f"# @package _global_\nhydra: {{callbacks: {{x: {callback}}}}}\n"
    (folder / "evil.yaml").write_text(text)
    words = {
        "typed": [f"+hydra.callbacks.x={callback}"],
        "file": [f"hydra.searchpath=[file://{folder.parent}]", "+experiment=evil"],
        "--config-dir": [f"--config-dir={folder.parent}", "+experiment=evil"],
        "--experimental-re": [f"--experimental-re={evil}"],
        "plan": [f"+hydra.callbacks.x={callback}", "plan=true"],
    }[kind]
    done = cli(*words, *FAST)
    assert not made.exists()
    assert "would run code" in done.err or "would load a pickle" in done.err
    assert (done.code, done.json["exit_code"]) == (2, 2), done.err
    assert "Traceback" not in done.err


def test_configuration_of_others_is_announced(cli, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nlimit: 8\n")
    out = tmp_path / "out"
    words = ["+experiment=mine", "model=tiny_random", "quality=none", "tracking=off"]
    folders = [f"--config-dir={folder.parent}", f"hydra.run.dir={out}"]
    done = cli(*folders, *FAST, *words, out_dir=out)
    assert done.code == 0, done.err
    assert done.record["environment"]["outside"] == [f"configuration from {folder.parent}"]
    assert "from outside" in done.out and str(folder.parent) in done.out
