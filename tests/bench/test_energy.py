"""Joules by counters alone: RAPL's zones, their overflow, NVML's sums; never a guess."""

from __future__ import annotations

import pytest

from sdxl.bench import energy, probe


def zone(root, name, called, used, most=1000):
    folder = root / name
    folder.mkdir(parents=True)
    for file, text in (("name", called), ("energy_uj", used), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{text}\n")


def test_packages_and_memory_are_counted_and_parts_of_a_package_are_not(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:0:0", "core", 60)
    zone(tmp_path, "intel-rapl:0:1", "dram", 30)
    zone(tmp_path, "intel-rapl:1", "psys", 500)
    assert energy.rapl(tmp_path) == {"intel-rapl:0": (100, 1000), "intel-rapl:0:1": (30, 1000)}


def test_what_cannot_be_read_is_absent(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", "secret")
    assert energy.rapl(tmp_path) == {} and energy.rapl(tmp_path / "nowhere") == {}
    assert energy.joules_between({}, {}) is None


def test_a_counter_that_starts_again_goes_on():
    first, last = {"a": (900, 1000), "b": (10, 1000)}, {"a": (100, 1000), "b": (30, 1000)}
    assert energy.joules_between(first, last) == pytest.approx(220e-6)
    assert energy.joules_between(first, {"a": (950, 1000)}) is None


def sample(at_s, phase, rapl=None, *gpus):
    found = {"at_s": at_s, "phase": phase, "gpus": [{"energy_joules": each} for each in gpus]}
    return found | ({"rapl": {"p": (rapl, 10**12)}} if rapl is not None else {})


def watched(*samples):
    made = probe.Probe.__new__(probe.Probe)
    made.samples = list(samples)
    return made


def test_a_processors_joules_are_those_while_measuring_per_image():
    seen = watched(
        sample(0, "loading", 0), sample(1, "warming up", 50_000_000),
        sample(2, "measuring", 80_000_000), sample(3, "measuring", 150_000_000),
        sample(4, "scoring", 900_000_000),
    )  # fmt: skip
    found = seen.energy(on_gpu=False, images=20)
    assert (found["joules"], found["joules_per_image"], found["watts"]) == (100.0, 5.0, 50.0)
    assert found["source"].startswith("RAPL")


def test_gpus_count_together_and_one_that_does_not_tell_makes_it_unknown():
    seen = watched(sample(0, "warming up", 7, 100.0, 10.0), sample(4, "measuring", 9, 500.0, 210.0))
    found = seen.energy(on_gpu=True, images=4)
    assert (found["joules"], found["joules_per_image"]) == (600.0, 150.0)
    assert found["source"].startswith("NVML")
    silent = watched(sample(0, "warming up", 7, 1.0, None), sample(4, "measuring", 9, 5.0, None))
    assert silent.energy(on_gpu=True, images=4) == {}


def test_without_counters_there_is_no_figure():
    assert watched(sample(0, "a"), sample(1, "measuring")).energy(False, 8) == {}
    assert watched(sample(0, "loading", 1)).energy(False, 8) == {}
