"""What tests share: an offline world in a temporary folder, the command line, composition."""

import gc
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: workers of pytest-xdist share the cores
os.environ.setdefault(
    "TRITON_INTERPRET", "1"
)  # before triton; on a GPU: TRITON_INTERPRET=0 pytest -m gpu

USUAL = gc.get_threshold()
gc.set_threshold(200_000, 50, 100)  # until all is imported

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = Path(__file__).parent / "offline"
sys.path.insert(0, str(OFFLINE))
import sitecustomize  # noqa: E402  the guard, in this process

if "_refuse" not in vars(sitecustomize):  # the interpreter brought one of its own
    exec(compile((OFFLINE / "sitecustomize.py").read_text(), "sitecustomize.py", "exec"))

from sdxl.config import load as config  # noqa: E402
from sdxl.core import ends  # noqa: E402
from sdxl.export import trace  # noqa: E402
from tests import composing, forked, small  # noqa: E402


def pytest_collection_finish():
    """Modules and tests stay: no collection of garbage looks at them again, nor in a fork."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*USUAL)


def pytest_sessionfinish():
    gc.unfreeze()  # for the end, where libraries count what is left


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables without a run: to make them takes seconds, to copy them nothing."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def measured_peaks(tmp_path_factory):
    """Peaks of this machine as an earlier run would have left them: measuring takes seconds."""
    from sdxl.bench import peaks

    file = tmp_path_factory.mktemp("peaks") / peaks.machine_file().name
    threads = {1, os.cpu_count() or 1}
    found = {
        peaks.entry(what, "cpu", count): 1e13
        for what in (*peaks.DTYPES, peaks.INT8, peaks.MEMORY)
        for count in threads
    }
    file.write_text(json.dumps(found))
    return file.parent


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """Graphs without weights, which every test's store finds where one has traced them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "traces"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch, empty_database):
    """Store, caches and tracking in `tmp_path`; an attempt to reach the network fails the test."""
    log = tmp_path / "network.log"
    database = tmp_path.with_suffix(".db")  # beside the folder, which tests find empty
    shutil.copy(empty_database, database)
    settings = {
        "SDXL_STORE": tmp_path / "store",
        "HF_HOME": tmp_path / "hf",
        "MLFLOW_TRACKING_URI": f"sqlite:///{database}",
        "SDXL_TEST_NETWORK_LOG": log,
        "PYTHONPATH": OFFLINE,
        "COLUMNS": "200",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    handlers = {each: signal.getsignal(each) for each in ends.SIGNALS}
    variables = dict(os.environ)
    yield
    os.environ.clear()  # of what a command set in this process: forked commands share none of it
    os.environ.update(variables)
    for each, handler in handlers.items():  # a command that ended in this process ignores them,
        signal.signal(each, handler)  # and so would the next test's children
    assert not log.exists(), f"the network was asked for: {log.read_text()}"


@pytest.fixture(scope="session")
def data():
    """The data shared beside the checkout: captions, latents, LoadGen's logs."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def composed():
    """Overrides of run.py -> the composed configuration, not yet checked."""

    def make(*overrides, name="run"):
        return composing.compose(name, *quick(overrides))

    return make


@pytest.fixture(scope="session")
def load(composed):
    """Overrides of run.py -> the checked `Config`."""
    return lambda *overrides: config.load(composed(*overrides))


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory, traces):
    """The small model's graphs, exported once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return small.export(base / "exported", traces)


@pytest.fixture
def exported(exported_once, monkeypatch):
    """The exported graphs, their store in use."""
    monkeypatch.setenv("SDXL_STORE", str(exported_once.store))
    return exported_once


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str
    dir: Path
    _: None = field(default=None, repr=False)

    @cached_property
    def json(self):
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1])

    @cached_property
    def record(self):
        return json.loads((self.dir / "record.json").read_text())

    def records(self):
        """Those of a multirun, in the order of its jobs."""
        paths = sorted(self.dir.glob("*/record.json"), key=lambda path: int(path.parent.name))
        return [json.loads(path.read_text()) for path in paths]


def words_of(words, out_dir, script="run.py"):
    """A command's words with its output in `out_dir`, and no tracking unless asked for."""
    if any(word.startswith("-") and word not in ("-m", "--multirun") for word in words):
        return list(words)  # --help and the like
    steps = few(words) if script != "train.py" else []
    steps += short(words) if script == "run.py" else []
    quiet = [] if any(word.startswith("tracking") for word in words) else ["tracking=off"]
    return [*quick(words), *steps, *quiet, f"hydra.run.dir={out_dir}", f"hydra.sweep.dir={out_dir}"]


QUICK = ("model=tiny_random", "quality=none")
STEPS = "model.steps=2"
NEED_MORE = ("rules=closed", "shortcut=", "scheduler=", "+", "model.steps=", "--")
HAVE_NONE = re.compile("backend=.*(fake|http)")


def few(words):
    """Two steps where nothing asks for others or for what has more: most tests count no step."""
    models = {word for word in words if word.startswith("model=")}
    asks = any(word.startswith(NEED_MORE) or HAVE_NONE.match(word) for word in words)
    return [] if asks or not models <= {"model=tiny", "model=tiny_random"} else [STEPS]


SHORT = ("scenario.min_duration_ms=0", "scenario.warmup_batches=1")
TAKE_TIME = ("scenario", "+", "rules=closed", "mode=", "repeat", "find_peak", "--")


def short(words):
    """No second of pictures drawn again where nothing asks for a time: most tests read none."""
    return [] if any(word.startswith(TAKE_TIME) for word in words) else list(SHORT)


def quick(words):
    """The words with random weights and without scores, where they do not ask for others."""
    asked = {word.lstrip("+").split("=")[0] for word in words}
    trains = any(word.startswith("train=") for word in words)
    if "experiment" in asked or (trains and not {"train=qat", "train=finetune"} & set(words)):
        return list(words)  # it may choose a model, or reads none
    usual = QUICK[:1] if trains else QUICK  # a training reads no scores
    return [*words, *(each for each in usual if each.split("=")[0] not in asked)]


@pytest.fixture
def cli(tmp_path, measured_peaks, traces):
    """Run `python run.py WORDS` to its end; its output folder is fresh."""
    runs = []

    def run(*words, script="run.py", timeout=120, cwd=tmp_path, out_dir=None, env=None):
        # MLflow keeps its telemetry to itself where it sees a test: ours must be off for users.
        clean = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        out_dir = out_dir or tmp_path / f"out{len(runs)}"
        store = Path((env or {}).get("SDXL_STORE") or clean["SDXL_STORE"])
        if not store.exists():
            shutil.copytree(measured_peaks, store / "rooflines")
            (store / trace.KIND).symlink_to(traces)
        runs.append(out_dir)
        line = [str(ROOT / script), *words_of(words, out_dir, script)]
        done = forked.run(line, cwd=cwd, env={**clean, **(env or {})}, timeout=timeout)
        return Done(done.returncode, done.stdout, done.stderr, out_dir)

    return run
