"""The probe: what it counts as ours and as somebody else's, its summary, its series."""

import json
import subprocess
import sys
import time

import pytest

from sdxl.bench import gpu_samples, probe
from sdxl.bench.probe import Cpu, Probe, series, strangers, summarize
from sdxl.core.gpu import Gpus, reasons_of
from tests.nvml import driver

BUSY = [sys.executable, "-c", "import time\nend = time.time() + 60\nwhile time.time() < end: pass"]


@pytest.fixture
def busy():
    """A process that keeps one core busy; a child of this test's process."""
    child = subprocess.Popen(BUSY)
    yield child
    child.kill()
    child.wait()


def test_a_childs_work_is_ours(busy):
    cpu = Cpu()
    time.sleep(0.5)
    found = cpu.sample()
    assert busy.pid in found["processes"]
    assert found["cpu_cores_ours"] > 0.02, "however many share the cores"
    assert found["rss_bytes"] > 1 << 20
    assert cpu.sample() == {}, "two samples at once have nothing between them"


def test_another_commands_work_is_elsewhere_and_can_be_an_error(busy, cli):
    """To run.py this test and its busy child are strangers."""
    done = cli("-m", "backend=fake", "scenario.min_duration_ms=1500", "limit=16",
               "foreign=warn,error")  # fmt: skip
    warned, failed = done.records()
    found = warned["resources"]["probe"]
    assert warned["status"] == "ok" and found["samples"] >= 2
    assert found["cpu_cores_elsewhere"] > 0.2
    (warning,) = found["warnings"]
    assert "the machine was shared" in warning
    lines = (done.dir / "0/probe.jsonl").read_text().splitlines()
    taken = [json.loads(line) for line in lines]
    assert [each["at_s"] for each in taken] == sorted(each["at_s"] for each in taken)
    assert sum(each["phase"] == "measuring" for each in taken) == found["samples"]
    assert done.code == 1 and failed["status"] == "failed"
    assert "not this program's alone" in failed["reason"] and "foreign=warn" in done.err
    assert failed["performance"]["images_per_second"] > 0, "what was measured is kept"


def sample(at_s, ours, elsewhere, phase="measuring", gpus=(), processes=(10,)):
    return {"at_s": at_s, "passed_s": 0.5, "cpu_cores_ours": ours, "phase": phase,
            "cpu_cores_elsewhere": elsewhere, "rss_bytes": 1 << 30,
            "processes": list(processes), "gpus": list(gpus)}  # fmt: skip


def gpu(power, processes, reasons=(), energy=None):
    return {"index": 0, "power_watts": power, "sm_clock_mhz": 1980, "memory_clock_mhz": None,
            "memory_used_gib": 20.0, "utilization_percent": 99, "temperature_c": 60,
            "energy_joules": energy, "reasons": list(reasons),
            "processes": list(processes)}  # fmt: skip


def test_only_what_was_sampled_while_measuring_counts():
    found = summarize([sample(0, 9, 9, "loading"), sample(1, 1, 0.5), sample(2, 2, 0.1)], {})
    assert found["samples"] == 2 and found["seconds"] == 1.0
    assert found["cpu_cores_ours"] == 1.5 and found["cpu_cores_elsewhere"] == 0.3
    assert summarize([sample(0, 1, 1, "loading")], {}) == {}
    assert strangers({}, on_gpu=False) == []


def test_a_gpus_numbers_are_summed_up():
    taken = [
        sample(1, 1, 0, gpus=[gpu(300.0, [10], ["power cap"], 1000.0)]),
        sample(2, 1, 0, gpus=[gpu(500.0, [10], energy=1200.0)]),
    ]
    (found,) = summarize(taken, {0: set()})["gpus"]
    assert found["power_watts_mean"] == 400.0 and found["power_watts_max"] == 500.0
    assert "memory_clock_mhz_mean" not in found
    assert found["energy_joules"] == 200.0
    assert found["slowed"] == {"power cap": 0.5} and found["strangers"] == []


def test_a_stranger_on_the_gpu_is_named():
    taken = [sample(1, 1, 0, gpus=[gpu(300.0, [10, 999_999_999])])]
    found = summarize(taken, {0: set()})
    assert strangers(found, on_gpu=True) == ["others on GPU 0: 999999999"]
    assert strangers(found, on_gpu=False) == [], "a measurement on the CPU does not mind"


@pytest.mark.parametrize(
    ("before", "now", "ours", "expected"),
    [
        ({}, {10}, {10}, set()),
        ({77}, {10, 77}, {10}, {77}),
        ({}, {10, 88}, {10}, {88}),
        # Process ids of another namespace: ours is not among them, who came with us is nobody.
        ({77}, {77, 4242}, {10}, {77}),
        ({}, {4242}, {10}, set()),
    ],
)
def test_strangers_are_told_from_ourselves(before, now, ours, expected):
    assert gpu_samples.foreign(set(before), now, ours) == expected


def test_reasons_for_low_clocks_are_words():
    assert reasons_of(0x1) == [], "an idle GPU is not slowed"
    assert reasons_of(0x4 | 0x40) == ["power cap", "hardware thermal slowdown"]


def test_a_series_is_thinned_and_numbers_are_named(tmp_path):
    path = tmp_path / "probe.jsonl"
    taken = [sample(n, n, 0, gpus=[gpu(300.0 + n, [10])]) for n in range(1000)]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in taken))
    found = list(series(path, most=100))
    assert len(found) == 100 and found[1][0] == 10
    assert found[1][1]["gpu_0_power_watts"] == 310.0 and found[1][1]["memory_gib"] == 1.0
    assert "gpu_0_memory_clock_mhz" not in found[0][1]


def test_few_busy_cores_of_many_are_no_stranger():
    assert not strangers({"cpu_cores": 64, "cpu_cores_elsewhere": 3.0}, on_gpu=False)
    assert strangers({"cpu_cores": 64, "cpu_cores_elsewhere": 3.3}, on_gpu=False)
    assert not strangers({"cpu_cores": 2, "cpu_cores_elsewhere": 0.2}, on_gpu=False)


def test_without_a_gpu_nothing_is_sampled_of_one():
    gpus = Gpus()
    found = gpus.sample()
    gpus.close()
    if found:
        pytest.skip("this machine has a GPU; the test of it is below")
    assert found == []


def test_macos_tells_peak_memory_in_bytes(monkeypatch):
    from sdxl.run import worker

    found = []
    for system in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", system)
        found.append(worker.memory()["peak_rss_bytes"])
    assert found[1] == pytest.approx(found[0] / 1024, rel=0.1)


@pytest.fixture
def three_gpus(monkeypatch):
    """A driver with three GPUs, on whose second somebody else works; (its process, its UUID)."""
    from sdxl.core import gpu

    monkeypatch.setitem(sys.modules, "pynvml", driver(["H100"] * 3, busy=[1]))
    yield
    gpu.names.cache_clear()


@pytest.mark.parametrize(
    ("visible", "wanted", "env", "looked_at"),
    [
        ("2", None, {}, [2]),  # one GPU: nothing is left to choose, and the environment stays
        ("GPU-2", None, {}, [2]),
        ("0,1,2", [0, 2], {}, [0, 2]),
        ("2,1,0", [0, 2], {}, [0, 2]),
        ("2,0", [0, 1], {}, [0, 2]),
        ("0,1,2", None, {"CUDA_VISIBLE_DEVICES": "GPU-0"}, [0]),
        (None, [0], {}, [0]),
        (None, None, {}, [0, 1, 2]),
        ("", None, {}, []),
    ],
)
def test_a_stranger_on_a_gpu_of_others_is_none_of_ours(
    three_gpus, monkeypatch, visible, wanted, env, looked_at
):
    from sdxl.core import gpu, gpu_locks

    if visible is None:
        monkeypatch.delenv(gpu.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(gpu.VARIABLE, visible)
    gpu.names.cache_clear()
    with Probe(gpu_locks.used(env, wanted)) as here:
        here.phase("measuring")
        time.sleep(probe.EVERY_S)
        here.phase("after")
    found = here.summary()
    assert [gpu["index"] for gpu in found.get("gpus", [])] == looked_at
    assert bool(strangers(found, on_gpu=True)) == (1 in looked_at)


def test_a_measurement_looks_at_its_own_gpus(three_gpus, monkeypatch, load, tmp_path):
    """From `backend.devices` to the probe, which a measurement opens."""
    from sdxl.core import gpu
    from sdxl.run import identity, measure

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1,0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    gpu.names.cache_clear()
    asked = []

    class Asked(Exception):
        pass

    def look(only):
        asked.append(only)
        raise Asked

    monkeypatch.setattr(measure, "Probe", look)
    config = load("backend=fake", "backend.devices=[0,2]")
    with pytest.raises(Asked):
        measure.measure(config, tmp_path / "cell", identity.new(config))
    assert asked == [["2", "0"]]


@pytest.mark.gpu
def test_a_real_gpu_tells_its_numbers():
    gpus = Gpus()
    found = gpus.sample()
    gpus.close()
    if not found:
        pytest.skip("no NVIDIA GPU here")
    assert found[0]["power_watts"] > 0 and found[0]["memory_used_gib"] > 0
    assert found[0]["sm_clock_mhz"] > 0


def test_a_probe_ends_with_its_block():
    with Probe() as here:
        here.phase("measuring")
        time.sleep(3 * probe.EVERY_S)
        here.phase("after")
    count = len(here.samples)
    assert here.summary()["samples"] >= 2
    time.sleep(2 * probe.EVERY_S)
    assert len(here.samples) == count
