"""The roofline against the figures of the literature's arithmetic (32 images in a batch)."""

import pytest
import torch

from sdxl.bench import roofline

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
    assert roofline.peaks_of("NVIDIA H100 80GB HBM3") is roofline.PEAKS["H100 80GB HBM3"]
    assert roofline.peaks_of("NVIDIA H200") is roofline.PEAKS["H200"]
    for other in ("NVIDIA H100 PCIe", "NVIDIA H200 NVL", "cpu"):
        assert roofline.peaks_of(other) is None


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
