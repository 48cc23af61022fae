"""What an image costs, against the published figures and against a real forward."""

import pytest
import torch

from sdxl.model import cost


@pytest.mark.slow
def test_sdxl_costs_what_the_arithmetic_says(load):
    """6.7612 TFLOP a UNet forward; 2 x (20 forwards + 1 encoding) + 1 decoding = 281.14 TFLOP."""
    found = cost.count(load("model=sdxl_random", "precision=fp16"), 1)
    assert found.unet_flop / 1e12 == pytest.approx(6.7612, abs=5e-5)
    assert found.image_flop / 1e12 == pytest.approx(281.14, abs=5e-3)
    assert found.rows_per_image == 2
    assert found.parameters["unet"] == 2_567_463_684
    assert found.weight_bytes["unet"] == 2 * 2_567_463_684
    assert found.weight_bytes["vae"] == 4 * found.parameters["vae"], "fp16 keeps the VAE in fp32"


def test_cost_grows_as_the_settings_say(load):
    whole = cost.count(load("model=tiny_random"), 1)
    half = cost.count(load("model=tiny_random", "rules=open", "model.steps=10"), 1)
    alone = cost.count(load("model=tiny_random", "rules=open", "model.guidance=1"), 1)
    assert whole.image_flop - half.image_flop == 20 * whole.unet_flop
    assert alone.rows_per_image == 1
    assert whole.image_flop - alone.image_flop == 20 * whole.unet_flop + whole.encode_flop
    assert (
        cost.count(load("model=tiny_random", "backend.decode_batch_size=8"), 8).peak_bytes
        == 8 * whole.peak_bytes
    )
    assert (whole.encodings, alone.encodings) == (2, 1)
    nothing = load("model=tiny_random", "rules=open", "model.negative_prompt=null")
    assert cost.count(nothing, 1).encodings == 1 and whole.rows_per_image == 2


def test_the_vae_holds_the_slice_that_it_decodes_at_once(load):
    """Of SDXL's shapes it is the VAE that needs most."""
    one, eight, sliced = (
        cost.count(load("model=sdxl_random", f"backend.decode_batch_size={size}"), batch).peak_bytes
        for batch, size in ((1, 1), (8, 8), (8, 2))
    )
    assert eight == 8 * one and sliced == 2 * one


def test_the_memory_count_is_that_of_a_real_forward(load):
    """Activations alive at once on the meta device are those on the CPU."""
    from sdxl.model.architecture import TINY
    from sdxl.model.seeded import RandomSource

    source, peaks = RandomSource(TINY, 0), []
    for device in (torch.device("meta"), torch.device("cpu")):
        unet = source.component("unet", torch.float32, device)
        with torch.inference_mode():
            peaks.append(
                cost._forward(
                    unet,
                    torch.zeros(1, 4, 16, 16, device=device),
                    torch.zeros((), device=device),
                    torch.zeros(1, 77, 96, device=device),
                    added_cond_kwargs={
                        "text_embeds": torch.zeros(1, 64, device=device),
                        "time_ids": torch.zeros(1, 6, device=device),
                    },
                )
            )
    (meta_flop, meta_peak), (flop, peak) = peaks
    assert meta_flop >= flop, "the CPU kernel of attention goes uncounted, never the other way"
    assert meta_peak == pytest.approx(peak, rel=0.2)


def test_equal_networks_are_counted_once_and_others_apart(load, monkeypatch):
    counted, forward = [], cost._forward

    def watch(function, *args, **kwargs):
        counted.append(function)
        return forward(function, *args, **kwargs)

    monkeypatch.setattr(cost, "_seen", {})
    monkeypatch.setattr(cost, "_forward", watch)
    first = cost.count(load("model=tiny_random"), 1)
    assert len(counted) == 4, "UNet, VAE and both text encoders"
    assert cost.count(load("model=tiny_random", "seed=7", "quant=int8"), 1) == first
    assert len(counted) == 4
    larger = cost.count(load("model=tiny_random", "rules=open", "model.height=256"), 1)
    assert len(counted) == 6 and larger.unet_flop > 1.9 * first.unet_flop
    assert larger.encode_flop == first.encode_flop
    halves = cost.count(load("model=tiny_random", "precision=bf16"), 1)
    assert halves.unet_flop == first.unet_flop and halves.peak_bytes < first.peak_bytes
    trained = cost.count(load("model=tiny"), 1)
    assert trained.unet_flop != first.unet_flop


@pytest.mark.slow
def test_the_plan_of_sdxl_prints_the_figures(cli):
    done = cli("model=sdxl_random", "model.device=meta", "plan=true", "precision=fp16")
    assert done.code == 0, done.err
    for text in ("2,567,463,684", "281.1 TFLOP", "6.761"):
        assert text in done.out
    assert done.json["plan"]["tflop_per_image"] == pytest.approx(281.14, abs=5e-3)


def test_a_shortcut_costs_what_its_calls_compute(load):
    words = ("model=tiny_random", "rules=open", "model.steps=10")
    whole = cost.count(load(*words), 1)
    assert whole.image_flop == whole.closed_flop and whole.unet_rows == 20
    cut = cost.count(load(*words, "shortcut=guidance_cutoff"), 1)
    assert cut.closed_flop == whole.closed_flop and cut.unet_rows == 15
    assert whole.image_flop - cut.image_flop == 5 * whole.unet_flop
    cached = cost.count(load(*words, "shortcut=deepcache", "shortcut.interval=5"), 1)
    deep, shallow = cached.kinds
    assert (deep.calls, shallow.calls, deep.row_flop) == (2, 8, whole.unet_flop)
    assert 0 < shallow.row_flop < 0.3 * whole.unet_flop
    assert whole.image_flop - cached.image_flop == 16 * (whole.unet_flop - shallow.row_flop)
    everything = cost.count(load(*words, "shortcut=deepcache", "shortcut.branch=5"), 1)
    assert everything.kinds[1].row_flop < whole.unet_flop, "all but the middle block"
    gated = cost.count(load(*words, "shortcut=tgate"), 1)
    assert [(each.kind, each.calls, each.rows) for each in gated.kinds] == [
        ("deep-guided", 4, 2), ("deep-gated", 6, 1),
    ]  # fmt: skip
    assert gated.kinds[1].row_flop < whole.unet_flop == gated.kinds[0].row_flop
    assert gated.describe()["closed"]["unet_rows"] == 20 and gated.describe()["unet_rows"] == 14
    (merged,) = cost.count(load(*words, "shortcut=token_merging"), 1).kinds
    assert (merged.kind, merged.calls) == ("deep-guided-merged", 10)
    fewer = cost.count(load(*words, "shortcut=token_merging", "shortcut.ratio=0.75"), 1)
    assert fewer.kinds[0].row_flop < merged.row_flop
