"""Calibration: snapshots, continuation, interruption, keys, and what is measured."""

import copy

import pytest
import torch
from torch import nn

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model.sampler import Sampler
from sdxl.quant import calibrate, collect
from sdxl.quant import statistics as tables
from sdxl.quant.levels import Kind, layers_of
from tests.quant.conftest import CALLS, make, with_quant


@pytest.fixture
def forwards(monkeypatch):
    """UNet calls made by calibrations from here on."""
    counted = []
    plain = calibrate.Unquantized.unet
    monkeypatch.setattr(
        calibrate.Unquantized, "unet", lambda *args: counted.append(1) or plain(*args)
    )
    return counted


def data(artifact):
    return (artifact.path / calibrate.FILE).read_bytes()


def sized(config, size):
    return with_quant(config, calib_size=size)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_snapshot_is_a_calibration_of_its_size_bit_for_bit(
    config, statistics, warm_store, forwards, monkeypatch, tmp_path, size
):
    from_larger = data(calibrate.get(sized(config, size)))
    # 1 and 2 were snapshots on the way to 4; 3 continues from 2 by one prompt.
    assert len(forwards) == (config.model.steps if size == 3 else 0)
    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    forwards.clear()
    assert data(calibrate.get(sized(config, size))) == from_larger
    assert len(forwards) == size * config.model.steps


def test_the_same_size_again_runs_nothing(config, statistics, warm_store, forwards):
    calibrate.get(config)
    assert not forwards


def test_an_interrupted_calibration_resumes(config, statistics, store_at, forwards, monkeypatch):
    plain = Sampler.latents

    def interrupted(self, indices, on_step=None):
        if list(indices) == [CALLS - 1]:
            raise KeyboardInterrupt
        return plain(self, indices, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "latents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calibrate.get(config)
    forwards.clear()
    resumed = tables.load(calibrate.get(config).path / calibrate.FILE)
    assert len(forwards) == config.model.steps  # prompts 1 to 3 were kept
    assert torch.equal(resumed.per_tensor, statistics.per_tensor)
    assert torch.equal(resumed.channel_max, statistics.channel_max)
    assert torch.equal(resumed.channel_min, statistics.channel_min)
    assert not list((store_at / "tmp").glob("*.partial"))


def test_values_are_those_of_a_plain_restatement(config, statistics, calibration):
    unet = calibration.unet
    seen: dict[str, list[list[torch.Tensor]]] = {}
    now = {}

    def record(name):
        def hook(module, args):
            x = args[0].float()
            amax = x.abs().amax(tuple(range(x.dim() - 1))) if isinstance(module, nn.Linear) else (
                x.abs().max()
            )  # fmt: skip
            now.setdefault(name, []).append(amax)

        return hook

    handles = [
        m.register_forward_pre_hook(record(n))
        for n, m in unet.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    for index in range(CALLS):
        now.clear()
        calibration.sampler.latents([index])
        for name, values in now.items():
            seen.setdefault(name, []).append(values)
    for handle in handles:
        handle.remove()
    layers = [layer for layer in layers_of(unet) if layer.kind is not Kind.attention]
    assert len(layers) == len(seen)
    for layer in layers:
        table = torch.stack([torch.stack(steps) for steps in seen[layer.name]])
        if layer.kind is Kind.conv:
            assert torch.equal(statistics.tensor(layer.name), table)
        else:
            assert torch.equal(statistics.channel(layer.name), table.amax(0))
            assert torch.equal(statistics.channel(layer.name, smallest=True), table.amin(0))


def test_steps_are_keyed_by_their_timestep(config, statistics):
    assert len(statistics.timesteps) == config.model.steps
    assert statistics.timesteps == sorted(statistics.timesteps, reverse=True)


def test_calls_at_one_timestep_share_a_slot(calibration):
    unet = copy.deepcopy(calibration.unet)
    collector = collect.Collector(unet)
    conv = unet.conv_in
    for value, timestep in ((1.0, 900.0), (3.0, 500.0), (2.0, 500.0), (-5.0, 100.0)):
        collector.step(0, timestep)
        with torch.inference_mode():
            conv(torch.full((1, 4, 8, 8), value))
    collector.close()
    per_tensor, _ = collector.end_of_prompt()
    column = collector.tensors.index("conv_in")
    assert collector.timesteps == [900.0, 500.0, 100.0]
    assert per_tensor[:, column].tolist() == [1.0, 3.0, 5.0]


def test_closing_leaves_the_model_as_it_was(calibration):
    unet = copy.deepcopy(calibration.unet)
    collector = collect.Collector(unet, attention=True)
    collector.close()
    for module in unet.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
        assert "get_attention_scores" not in vars(module)


def test_attention_parts_are_measured(config, store_at):
    table = tables.load(calibrate.get(sized(config, 1), attention=True).path / calibrate.FILE)
    attention = [x.name for x in layers_of(calibrate.Calibration(
        sized(config, 1), calibrate.calibration_prompts(sized(config, 1).quant)).unet)
        if x.kind is Kind.attention]  # fmt: skip
    for name in attention:
        assert (table.tensor(f"{name}:softmax") <= 1).all()
        assert (table.tensor(f"{name}:softmax") > 0).all()
        assert all((table.tensor(f"{name}:{part}") > 0).all() for part in "qkv")


def key(config, attention=False):
    return calibrate.key_of(
        calibrate.settings_of(config, attention), calibrate.calibration_prompts(config.quant)
    )


def test_the_key_ignores_level_alpha_and_percentile(config):
    same = [{"level": 1.0}, {"alpha": 0.5}, {"percentile": 0.5}, {"exclude": []}, {"name": "x"}]
    assert {key(with_quant(config, **change)) for change in same} == {key(config)}


def test_the_key_follows_what_decides_the_numbers(config):
    others = [
        make("quant=int8", "calib_size=4", override)
        for override in (
            "model.steps=3", "model.guidance=5", "precision=bf16", "seed=1", "model.height=96",
            "model.negative_prompt=ugly", "model.noise=per_prompt", "calib_size=3",
        )
    ]  # fmt: skip
    keys = {key(each) for each in [config, *others]} | {key(config, attention=True)}
    assert len(keys) == len(others) + 2


def test_too_few_calibration_prompts(config):
    with pytest.raises(UserError, match="calib_size") as caught:
        calibrate.calibration_prompts(with_quant(config, calib_size=65).quant)
    assert "at most 64" in str(caught.value)


def test_building_can_be_forbidden(store_at):
    with pytest.raises(UserError, match="building is switched off"):
        calibrate.get(make("quant=int8", "calib_size=1", "build=never"))


def test_unusable_values_are_named(statistics):
    broken = copy.deepcopy(statistics)
    broken.per_tensor[0, 0, broken.tensors.index("conv_out")] = float("nan")
    name = next(iter(broken.channels))
    broken.channel_max[:, broken.channels[name]] = 0
    with pytest.raises(UserError, match="2 layers") as caught:
        broken.check()
    assert "conv_out" in str(caught.value) and name in str(caught.value)


def test_a_file_that_is_no_statistics(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a statistics file"):
        tables.load(tmp_path / "x.safetensors")


def test_snapshot_sizes():
    assert calibrate.snapshot_sizes(1) == [1]
    assert calibrate.snapshot_sizes(8) == [1, 2, 4, 8]
    assert calibrate.snapshot_sizes(48) == [1, 2, 4, 8, 16, 32, 48]


def test_manifest_says_what_it_is(config, statistics, warm_store):
    manifest = calibrate.get(config).manifest
    assert manifest.kind == "statistics"
    assert manifest.settings["prompts"] == CALLS
    assert (
        store.sha256(calibrate.get(config).path / calibrate.FILE)
        == (manifest.files[calibrate.FILE]["sha256"])
    )
