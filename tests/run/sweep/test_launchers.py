"""Sweeps whose cells run in other processes, by other people's launchers."""

import importlib.util
import itertools
import json
import subprocess
import sys
import threading
import time

import psutil
import pytest

from sdxl.core import gpu, gpu_locks
from tests.conftest import ROOT, words_of
from tests.nvml import driver

FAST = ("backend=fake", "scenario.min_duration_ms=0", "limit=8", "quality.keep_images=1",
        "backend.sample_ms=0.5")  # fmt: skip


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


joblib = needs("hydra_plugins.hydra_joblib_launcher")
submitit = needs("hydra_plugins.hydra_submitit_launcher")


@pytest.mark.slow
@joblib
def test_joblib_runs_cells_side_by_side_on_a_device_each(cli, tmp_path, monkeypatch):
    """Also: good, bad, refused and equal cells are told apart from their records alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = ("-m", *FAST, "scenario.min_duration_ms=1000", "seed=1,2,-1", "rerun=all",
             "backend.fail=none,raises", "backend.fail_at=17",
             "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")  # fmt: skip
    done = cli(*words, env={"CUDA_VISIBLE_DEVICES": "5,GPU-7"})
    statuses = [record["status"] for record in done.records()]
    assert statuses == ["ok", "failed", "ok", "failed"], done.err
    assert done.code == 1 and done.json["cells"] == 6
    assert (done.json["ok"], done.json["failed"], done.json["cached"]) == (2, 4, 0)
    assert done.json["records"][4:] == [None, None]
    assert "asked to fail" in done.out and "`seed` is too small" in done.out
    seen = {
        r["environment"].get("cuda_visible_devices") for r in done.records() if r["status"] == "ok"
    }
    assert seen <= {"5", "GPU-7"} and None not in seen
    again = cli(*[w for w in words if w not in ("rerun=all", "backend.fail=none,raises")],
                env={"CUDA_VISIBLE_DEVICES": "5,GPU-7"})  # fmt: skip
    assert again.json["cached"] == 2 and again.json["ok"] == 2


@pytest.mark.slow
@submitit
def test_submitit_as_on_a_cluster_with_mlflow_parent_and_children(cli, tmp_path):
    """Its local executor runs what Slurm would: a process that starts from a file."""
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    done = cli("-m", *FAST, "seed=1,2", f"tracking.uri={uri}", "hydra/launcher=submitit_local",
               "hydra.launcher.timeout_min=5", timeout=200)  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["ok"] == 2 and len(done.records()) == 2
    assert "seed=1: ok" in done.err and "seed=2: ok" in done.err, "seen while they ran"
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("sdxl").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("sweep") == "true"]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert parent.info.run_name == "seed" and parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len(children) == 2 and parent.data.metrics["cells_ok"] == 2


@pytest.mark.slow
@joblib
def test_a_launchers_process_that_dies_is_a_failed_cell(tmp_path):
    """SIGKILL of joblib's workers, not of the measurements: no record, and the sum says so."""
    words = ["-m", *FAST, "backend.latency_ms=500", "scenario.min_query_count=500", "seed=1,2",
             "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words_of(words, tmp_path / "out")],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 100
    while not all((tmp_path / f"out/{n}/loadgen").is_dir() for n in range(2)):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    for worker in psutil.Process(process.pid).children():
        if "loky" in " ".join(worker.cmdline()):
            worker.kill()
    out, err = process.communicate(timeout=100)
    last = json.loads(out.splitlines()[-1])
    assert process.returncode == 1 and last["ok"] == 0 and last["failed"] >= 2, err
    assert out.count("ended without a record") == 2


def spans(folder):
    """(begin, end) of each holding, by device."""
    found = {}
    for line in (folder / "log").read_text().splitlines():
        place, began, ended = line.split()
        found.setdefault(place, []).append((float(began), float(ended)))
    return found


def test_a_device_is_held_by_one_at_a_time_and_none_stays_unused(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(gpu.VARIABLE, "0,1,2")
    monkeypatch.setattr(gpu_locks, "LOOK_EVERY_S", 0.01)
    gpu.names.cache_clear()
    told = []

    def hold():
        with gpu_locks.one(told.append) as env:
            began = time.monotonic()
            time.sleep(0.1)
            with (tmp_path / "log").open("a") as log:
                log.write(f"{env[gpu.VARIABLE]} {began} {time.monotonic()}\n")

    threads = [threading.Thread(target=hold) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gpu.names.cache_clear()
    found = spans(tmp_path)
    assert set(found) == {"0", "1", "2"} and sum(map(len, found.values())) == 9
    for holdings in found.values():
        ordered = sorted(holdings)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    assert "all 3 GPUs are measuring" in told


def test_with_one_device_or_none_nothing_is_changed(monkeypatch):
    for value in ("3", ""):
        monkeypatch.setenv(gpu.VARIABLE, value)
        gpu.names.cache_clear()
        with gpu_locks.one(lambda _: None) as env:
            assert env == {}
    gpu.names.cache_clear()


def test_which_gpu_of_a_kind_a_job_got_does_not_matter_to_the_ledger(monkeypatch):
    from sdxl.run import ledger

    monkeypatch.setitem(sys.modules, "pynvml", driver(["H100", "H100", "L4"]))
    places = []
    for visible in ("0", "1", "0,1", "2"):
        monkeypatch.setenv(gpu.VARIABLE, visible)
        for cached in (gpu.names, gpu.kinds, ledger.place):
            cached.cache_clear()
        places.append(ledger.place())
    for cached in (gpu.names, gpu.kinds, ledger.place):
        cached.cache_clear()
    assert places[0] == places[1] == places[2] != places[3]
