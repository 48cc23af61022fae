"""The roofline against the figures of the literature's arithmetic (32 images in a batch)."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
import torch

from sdxl.bench import peaks, roofline
from sdxl.config import schema
from sdxl.model import cost
from sdxl.run import figures


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(peaks, "LONG_S", 0.05)
    monkeypatch.setattr(peaks, "ALONE_S", 0.05)
    monkeypatch.setattr(peaks, "SIZES", (512,))
    monkeypatch.setattr(peaks, "COPIED", 1 << 20)


SDXL = ("model=sdxl_random", "precision=fp16", "precision.vae=fp32", "plan=true")


@pytest.mark.parametrize(
    ("words", "h100", "h200"),
    [
        ([], 3.13, 3.23),
        (["quant=fp8", "quant_level=3"], 5.07, 5.35),
    ],
)
def test_published_rates(load, words, h100, h200):
    work = roofline.work_of(load(*SDXL, *words), 32)
    rates = [work.images_per_second(peaks) for peaks in roofline.PEAKS.values()]
    assert rates == pytest.approx([h100, h200], rel=0.02)


def test_only_known_devices_have_peaks():
    for name, short in (("NVIDIA H100 80GB HBM3", "H100 SXM"), ("NVIDIA H200", "H200 SXM")):
        found = roofline.peaks_of(name)
        assert found and found.name == short
    for other in ("NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
                  "NVIDIA H200 MIG 1g.18gb", "NVIDIA GH200 480GB", "cpu"):  # fmt: skip
        assert roofline.peaks_of(other) is None, other


def test_facts(load):
    config = load("model=tiny_random")
    assert roofline.facts(config, "NVIDIA L4", 8, 10**9) == {}
    found = roofline.facts(config, "cpu", 8, 10**9)
    assert found["matrix_tflops"] > 0.001 and found["images_per_second"] > 0
    assert "fp32" in found["device"]
    on_gpu = roofline.facts(config, "NVIDIA H200", 8, 10**9)
    assert on_gpu["device"] == "H200 SXM" and on_gpu["images_per_second"] > 0


def test_the_limit_of_several_gpus_is_theirs_together(load, monkeypatch):
    """The rate is the sum over workers: a share of one GPU's limit could be 190 %."""
    asked = []
    monkeypatch.setattr(roofline, "measured_peak", lambda *given: asked.append(given) or 8e12)
    one, three = (load("model=tiny_random", *words) for words in ((), ("backend.devices=[1,3,4]",)))
    for name in ("NVIDIA H200", "NVIDIA L4"):  # by its data sheet, by what was measured
        single, whole = (roofline.facts(each, name, 8, 10**9, True) for each in (one, three))
        assert (single["matrix_tflops"], whole["matrix_tflops"]) == (8.0, 24.0)
        assert whole["images_per_second"] == pytest.approx(3 * single["images_per_second"])
        assert whole["device"] == f"3 x {single['device']}"
    assert {device for *_, device in asked} == {"cuda:0", "cuda:1"}, "measured where it ran"
    assert roofline.facts(three, "cpu", 8, 10**9) == roofline.facts(one, "cpu", 8, 10**9)


def test_the_measured_peak_is_a_rate():
    large = roofline.measured_peak(torch.float32, 512)
    assert 1e9 < large < 1e14


def plant(words: dict[str, float]) -> None:
    """Peaks in this machine's file of the store."""
    threads = torch.get_num_threads()
    found = {peaks.entry(what, "cpu", threads): value for what, value in words.items()}
    peaks.machine_file().parent.mkdir(parents=True, exist_ok=True)
    peaks.machine_file().write_text(json.dumps(found))


def test_a_planted_low_roof_is_measured_again_when_a_run_passes_it(load):
    """And kept; no share above 100 % comes out, whatever the roof."""
    config = load("model=tiny_random")
    plant({"fp32": 1e6, "memory": 1e6})
    low = roofline.facts(config, "cpu", 8, 10**9)["images_per_second"]
    assert roofline.facts(config, "cpu", 8, 10**9, achieved=low / 2)["images_per_second"] == low
    found = roofline.facts(config, "cpu", 8, 10**9, achieved=2 * low)
    assert found["images_per_second"] > 100 * low
    kept = json.loads(peaks.machine_file().read_text())
    assert found["matrix_tflops"] * 1e12 == pytest.approx(
        kept[peaks.entry("fp32", "cpu", torch.get_num_threads())]
    )
    assert roofline.facts(config, "cpu", 8, 10**9) == found, "from the store the next time"


def test_no_share_is_above_one_hundred_percent():
    limit = {"device": "matrix products", "images_per_second": 2.0}
    assert figures.within(limit, 1.0)["share"] == 0.5
    passed = figures.within(limit, 2.6)
    assert passed["share"] == 1.0 and passed["images_per_second"] == 2.6
    assert "this run passed" in passed["device"]


def test_int8_has_a_roof_of_its_own_where_it_is_computed(load):
    words = ("model=tiny_random", "quant=int8", "quant_level=3")
    plant({"fp32": 1e11, "int8": 8e11, "memory": 1e12})
    real = roofline.facts(load(*words), "cpu", 8, 10**9)
    work = roofline.work_of(load(*words), 8, simulated=True)
    simulated = roofline.facts(load(*words), "cpu", 8, 10**9, work=work)
    plain = roofline.facts(load("model=tiny_random"), "cpu", 8, 10**9)
    assert real["int8_tops"] == 0.8 and "fp32 and int8" in real["device"]
    assert simulated["images_per_second"] == pytest.approx(plain["images_per_second"])
    assert plain["images_per_second"] < real["images_per_second"] < 8 * plain["images_per_second"]
    assert "int8_tops" not in simulated


def test_each_format_and_number_of_threads_has_its_own_peak(monkeypatch):
    asked: list[str] = []

    def measure(what, device):
        asked.append(what)
        return peaks.Peak(float(len(asked)))

    monkeypatch.setattr(peaks, "_measure", measure)
    names = ("fp32", "bf16", "int8", "memory")
    first = [peaks.known(name, "cpu", "cpu") for name in names]
    assert asked == [*names] and first == [1.0, 2.0, 3.0, 4.0]
    assert [peaks.known(name, "cpu", "cpu") for name in names] == first and len(asked) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert peaks.known("fp32", "cpu", "cpu") == 5.0
    monkeypatch.setattr(peaks, "_measure", lambda *_: peaks.Peak(0.5))
    assert peaks.known("fp32", "cpu", "cpu", again=True) == 5.0, "a busy moment lowers no peak"


def test_beside_other_programs_processor_time_counts_until_the_machine_is_quiet(monkeypatch):
    loaded = [True]
    monkeypatch.setattr(peaks.busy, "is_busy", lambda _: loaded[0])
    threads = torch.get_num_threads()
    rates = {time.perf_counter: 3.0, time.thread_time: 2.0}
    monkeypatch.setattr(peaks, "_rate", lambda work, device, clock: rates[clock])
    assert peaks.known("fp32", "cpu", "cpu") == max(3.0, 2.0 * threads)
    assert peaks.bandwidth() == peaks.Peak(3.0, quiet=False), "threads share the memory"
    assert torch.get_num_threads() == threads
    rates[time.perf_counter] = 300.0
    assert peaks.known("fp32", "cpu", "cpu") == max(3.0, 2.0 * threads), "kept as long as it is so"
    loaded[0] = False
    assert peaks.known("fp32", "cpu", "cpu") == 300.0
    kept = json.loads(peaks.machine_file().read_text())
    assert [*kept.values()] == [300.0] and "beside" not in "".join(kept)


def test_three_measurements_agree_beside_two_programs_that_spin():
    """By processor time, whatever else runs."""
    work = peaks._products(torch.float32, (256,), "cpu")
    spin = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(spin) as one, subprocess.Popen(spin) as other:
        try:
            found = [peaks._rate(work[0], "cpu", time.thread_time) for _ in range(3)]
        finally:
            one.kill()
            other.kill()
    assert max(found) < 1.25 * min(found)


def test_int8_products_and_memory_are_measured_on_processors():
    assert 1e8 < peaks.matrix(torch.int8, [256]).value < 1e15
    assert 1e8 < peaks.bandwidth().value < 1e13


def test_the_limits_of_shortcuts_are_those_of_what_they_compute(load):
    """Operations of the products are those that were counted, call by call."""
    words = ("model=tiny_random", "rules=open", "model.steps=10", "shortcut=deepcache_tgate")
    config = load(*words)
    counted = cost.count(config, 2)
    works = roofline.works_of(config, 2, counted, [*schema.GROUPS["shortcut"]])
    assert list(works) == list(schema.GROUPS["shortcut"])
    h100 = roofline.PEAKS["NVIDIA H100 80GB HBM3"]
    rates = {name: work.images_per_second(h100) for name, work in works.items()}
    assert min(rates, key=lambda name: rates[name]) == "none"
    assert max(rates, key=lambda name: rates[name]) == "deepcache_tgate"
    for name in ("guidance_cutoff", "deepcache_tgate", "token_merging"):
        work = works[name]
        own = dataclasses.replace(config, shortcut=schema.GROUPS["shortcut"][name](name))
        unet = sum(share.calls * share.rows * share.row_flop for share in cost.count(own, 2).kinds)
        flop = sum(calls * each.flop for calls, found in work.unet for each in found)
        assert flop == pytest.approx(2 * unet, rel=1e-6), name


def test_arithmetic_that_a_processor_lacks_is_timed_at_the_first_size_alone(monkeypatch):
    """bf16 without BF16: a product of 512 rows took 0.2 s, one of 2,048 a minute."""
    monkeypatch.setattr(peaks, "LONG_S", 0.01)
    monkeypatch.setattr(peaks, "ALONE_S", 1e-4)  # of a busy machine; sleeping takes no such time
    tried = []

    def work(name, seconds):
        return 1.0, lambda: (tried.append(name), time.sleep(seconds))

    peaks._fastest([work("small", 0.03), work("large", 0.03)], "cpu")
    assert set(tried) == {"small"}
    peaks._fastest([work("small", 0.001), work("large", 0.001)], "cpu")
    assert set(tried) == {"small", "large"}
