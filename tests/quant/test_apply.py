"""Applying scales: equal to ModelOpt's own quantization, round trips, and loud failures."""

import contextlib
import copy
import dataclasses
import io
import json
import warnings

import modelopt.torch.opt as mto
import modelopt.torch.quantization as mtq
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from modelopt.torch.quantization.config import QuantizerAttributeConfig
from modelopt.torch.quantization.conversion import set_quantizer_attributes_full

from sdxl.backends.torch.simulated import restore
from sdxl.config.schema import Format
from sdxl.core.errors import SdxlError
from sdxl.model.checkpoint import LAYERS, WEIGHTS, Checkpoint
from sdxl.model.sources import open_source
from sdxl.quant import apply, calibrate
from sdxl.quant import statistics as tables
from sdxl.quant.levels import Kind, layers_of, select
from tests import small
from tests.quant.conftest import make, with_quant

NO_INPUT = ("int8_weight_only", "int4_weight_only")
CALLS = 2
"""Prompts here: a snapshot of the shared calibration, so that ModelOpt's own runs stay short."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of the small network: all kinds of layers, and a third of them for ModelOpt to calibrate."""
    network = tmp_path_factory.mktemp("network") / "unet.json"
    network.write_text(json.dumps(small.UNET))
    return make("quant=int8", "calib_size=4", f"model.unet_config={network}")


@pytest.fixture(scope="module")
def calibration(config):
    """The unquantized model and its loop; tests must not change its UNet."""
    return calibrate.Calibration(config, calibrate.calibration_prompts(config.quant))


@pytest.fixture
def fresh_unet(calibration):
    return lambda: copy.deepcopy(calibration.unet)


@pytest.fixture(scope="module")
def statistics(config, shared_store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(shared_store))
        return tables.load(
            calibrate.get(with_quant(config, calib_size=CALLS)).path / calibrate.FILE
        )


def chosen(unet, quant):
    return select(layers_of(unet), quant)


def configure_modelopt(unet, layers, quant):
    """ModelOpt's own settings of the same recipe, by exact names."""
    fp8 = {"num_bits": (4, 3), "axis": None}
    weight = {
        Format.fp8: fp8,
        Format.int4_weight_only: {"num_bits": 4, "block_sizes": {-1: quant.block_size}},
    }.get(quant.format, {"num_bits": 8, "axis": 0})
    axis = -1 if quant.smooth else None
    inputs = {
        Kind.conv: fp8 if quant.format is Format.fp8 else {"num_bits": 8, "axis": None},
        Kind.linear: fp8 if quant.format is Format.fp8 else {"num_bits": 8, "axis": axis},
    }
    mtq.quantize(unet, {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": None})

    def enable(kinds, suffixes, cfg):
        wanted = {f"{x.name}.{suffix}" for x in layers if x.kind in kinds for suffix in suffixes}
        attributes = QuantizerAttributeConfig(**cfg, enable=True)
        set_quantizer_attributes_full(unet, lambda name: name in wanted, attributes)

    enable((Kind.conv, Kind.linear), ["weight_quantizer"], weight)
    if quant.format.value not in NO_INPUT:
        for kind, cfg in inputs.items():
            enable((kind,), ["input_quantizer"], cfg)
    parts = [*(f"{part}_bmm_quantizer" for part in "qkv"), "softmax_quantizer"]
    enable((Kind.attention,), parts, fp8)


def by_modelopt(unet, quant, calibration, calls=CALLS):
    """ModelOpt's quantization with its own calibration over the same prompts."""
    layers = chosen(unet, quant)
    if any(layer.kind is Kind.attention for layer in layers):
        unet.set_attn_processor(AttnProcessor())
    mine = calibration.stages.network

    def forward_loop(model):
        calibration.stages.network = model
        for index in range(calls):
            calibration.sampler.latents([index])

    smooth = quant.format is Format.int8 and quant.smooth
    algorithm = {"method": "smoothquant", "alpha": quant.alpha} if smooth else "max"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            configure_modelopt(unet, layers, quant)
            return mtq.calibrate(unet, algorithm, forward_loop)
    finally:
        calibration.stages.network = mine


def assert_same_state(ours, theirs):
    """Every weight, amax and pre_quant_scale of every module, to the bit."""
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not differing, differing[:5]


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("level", [1, 2, 2.5, 3])
def test_every_level_and_alpha_equals_a_separate_mtq_quantize(
    level, alpha, statistics, calibration, fresh_unet
):
    quant = make("quant=int8", f"quant_level={level}", f"alpha={alpha}").quant
    unet = fresh_unet()
    ours = apply.quantize(unet, chosen(unet, quant), statistics, quant)
    assert_same_state(ours, by_modelopt(fresh_unet(), quant, calibration))


@pytest.mark.parametrize(
    "overrides",
    [["quant=fp8"], ["quant=int8", "quant.smooth=false"], ["quant=int8_weight_only"],
     ["quant=int4_weight_only"], ["quant=int4_weight_only", "quant.block_size=32"]],
    ids=" ".join,
)  # fmt: skip
def test_other_formats_equal_mtq_quantize(overrides, statistics, calibration, fresh_unet):
    quant = make(*overrides).quant
    unet = fresh_unet()
    ours = apply.quantize(unet, chosen(unet, quant), statistics, quant)
    assert_same_state(ours, by_modelopt(fresh_unet(), quant, calibration))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_equals_mtq_quantize(precision, config, store_at):
    words = ("quant=int8", "quant_level=3", "calib_size=1", f"precision={precision}")
    config = dataclasses.replace(make(*words), model=config.model)
    calibration = calibrate.Calibration(config, calibrate.calibration_prompts(config.quant))
    table = tables.load(calibrate.get(config).path / calibrate.FILE)
    theirs = by_modelopt(calibration.unet, config.quant, calibration, calls=1)
    unet = calibrate.Calibration(config, calibrate.calibration_prompts(config.quant)).unet
    ours = apply.quantize(unet, chosen(unet, config.quant), table, config.quant)
    assert_same_state(ours, theirs)


@pytest.fixture(scope="module")
def attention_statistics(config, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(tmp_path_factory.mktemp("attention")))
        few = with_quant(config, calib_size=CALLS)
        return tables.load(calibrate.get(few, attention=True).path / calibrate.FILE)


def test_fp8_attention_equals_mtq_quantize(attention_statistics, calibration, fresh_unet):
    quant = make("quant=fp8_mha").quant
    unet = fresh_unet()
    ours = apply.quantize(unet, chosen(unet, quant), attention_statistics, quant)
    attention = ours.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    assert attention.softmax_quantizer.is_enabled
    assert_same_state(ours, by_modelopt(fresh_unet(), quant, calibration))


def latents_of(calibration, unet):
    mine = calibration.stages.network
    calibration.stages.network = unet
    try:
        return calibration.sampler.latents([0])
    finally:
        calibration.stages.network = mine


@pytest.mark.parametrize(
    "recipe", ["int8", "int8_weight_only", "int4_weight_only", "fp8", "fp8_mha"]
)
def test_the_compact_checkpoint_gives_the_same_outputs(
    recipe, config, attention_statistics, calibration, fresh_unet, tmp_path
):
    quant = make(f"quant={recipe}").quant
    unet = fresh_unet()
    layers = chosen(unet, quant)
    apply.quantize(unet, layers, attention_statistics, quant)
    with torch.inference_mode():
        latents = latents_of(calibration, unet)
    apply.write(unet, layers, quant, tmp_path)
    cpu, meta = torch.device("cpu"), torch.device("meta")
    shapes = open_source(config.model, config.seed).component("unet", torch.float32, meta)
    restored = restore(shapes, tmp_path, torch.float32, cpu)
    assert torch.equal(latents_of(calibration, restored), latents)
    assert not any(p.is_meta for p in restored.parameters())


def test_the_compact_checkpoint_holds_8_bit_weights(statistics, fresh_unet, tmp_path):
    quant = make("quant=int8", "quant_level=3").quant
    unet = fresh_unet()
    whole = sum(p.numel() * 4 for p in unet.parameters())
    layers = chosen(unet, quant)
    apply.write(apply.quantize(unet, layers, statistics, quant), layers, quant, tmp_path)
    stored = Checkpoint(tmp_path)
    assert set(stored.layers) == {layer.name for layer in layers}
    assert {stored.tensor(f"{x.name}.weight").dtype for x in layers} == {torch.int8}
    in_8_bit = sum(layer.weights for layer in layers)
    assert (tmp_path / WEIGHTS).stat().st_size < whole - 3 * in_8_bit + 0.05 * whole


def test_modelopts_checkpoint_round_trips(statistics, calibration, fresh_unet, tmp_path):
    quant = make("quant=int8").quant
    unet = fresh_unet()
    apply.quantize(unet, chosen(unet, quant), statistics, quant)
    apply.save_modelopt(unet, tmp_path / "modelopt.pth")
    restored = mto.restore(fresh_unet(), tmp_path / "modelopt.pth", weights_only=True)
    assert_same_state(unet, restored)
    assert torch.equal(latents_of(calibration, unet), latents_of(calibration, restored))


def test_no_norm_is_touched(statistics, fresh_unet):
    quant = make("quant=int8", "quant_level=3").quant
    unet = fresh_unet()
    apply.quantize(unet, chosen(unet, quant), statistics, quant)
    enabled = {n for n, m in unet.named_modules() if getattr(m, "is_enabled", False) is True}
    assert enabled and not [name for name in enabled if "norm" in name]


@pytest.mark.parametrize("fault", ["norm", "nan", "zero", "missing"])
def test_a_wrong_result_fails_loudly(fault, statistics, fresh_unet):
    quant = make("quant=int8", "quant_level=1").quant
    unet = fresh_unet()
    layers = chosen(unet, quant)
    apply.quantize(unet, layers, statistics, quant)
    block = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0")
    conv = unet.get_submodule("mid_block.resnets.0.conv1")
    if fault == "norm":
        block.norm1.input_quantizer.enable()
        block.norm1.input_quantizer.amax = torch.tensor(1.0)
        expected = "transformer_blocks.0.norm1.input_quantizer"
    else:
        expected = "mid_block.resnets.0.conv1.input_quantizer"
        if fault == "missing":
            conv.input_quantizer.disable()
        else:
            conv.input_quantizer.amax = torch.tensor(float("nan") if fault == "nan" else 0.0)
    with pytest.raises(SdxlError) as caught:
        apply.check(unet, layers, quant)
    assert expected in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(statistics, fresh_unet, tmp_path):
    from sdxl.model import architecture
    from sdxl.model.seeded import RandomSource

    quant = make("quant=int8", "quant_level=1").quant
    unet = fresh_unet()
    layers = chosen(unet, quant)
    apply.write(apply.quantize(unet, layers, statistics, quant), layers, quant, tmp_path)
    other = {**architecture.TINY}
    other["unet"] = {**other["unet"], "layers_per_block": 2}
    shapes = RandomSource(other, 0).component("unet", torch.float32, torch.device("meta"))
    with pytest.raises(SdxlError, match="another model"):
        restore(shapes, tmp_path, torch.float32, torch.device("cpu"))
    (tmp_path / LAYERS).write_text("{}")
    with pytest.raises(SdxlError, match="not a quantized checkpoint"):
        Checkpoint(tmp_path)
