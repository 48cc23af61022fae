"""The ONNX Runtime backend draws what torch draws, in integer kernels where quantized."""

import contextlib
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from sdxl.backends.ort.config import Provider
from sdxl.backends.ort.session import OVERFLOW, Runtime, exact, providers_of
from sdxl.backends.ort.stages import OrtStages, is_simulated
from sdxl.config.load import load as check
from sdxl.config.plugins import backend_of
from sdxl.config.schema import DType, Format
from sdxl.core import environment, store
from sdxl.core.errors import ConfigError, SdxlError, StageError
from sdxl.model import prompts
from sdxl.model.images import load as picture
from sdxl.model.sampler import Sampler
from sdxl.model.schedulers import CHOICES
from sdxl.model.sources import open_source
from sdxl.quality.baseline import compare

CLEARLY = 5
"""dB: under a third of the squared error. Seen: 44.5 at level 1, 7.3 at level 3."""


def product(kind):
    """The bytes of a graph of one product, of 4 x 4 numbers."""
    a, b, c = (helper.make_tensor_value_info(n, kind, [4, 4]) for n in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", [a, b], [c])
    opset = helper.make_opsetid("", 22)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def largest_codes():
    """The bytes of a graph of an INT8 product: weights of the largest code, 64 a sum."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 64]) for n in "xy")
    unit, codes = np.float32(1 / 127), np.full((64, 64), 127, np.int8)
    constants = {"unit": unit, "zero": np.int8(0), "codes": codes}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "unit", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "unit", "zero"], ["input"]),
        helper.make_node("DequantizeLinear", ["codes", "unit", "zero"], ["weight"]),
        helper.make_node("MatMul", ["input", "weight"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph, opset = helper.make_graph(nodes, "g", [x], [y], tensors), helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@pytest.fixture
def draw(exported, composed, chain_of):
    """Words -> pictures of three prompts and the backend's facts."""

    def pictures(*words):
        config = check(composed(*exported.words, "limit=3", *words))
        chosen = prompts.load(config.dataset, config.limit, config.seed)
        stages = backend_of(config).open(config, chain_of(config).loads)
        sampler = Sampler(stages, open_source(config.model, config.seed), config, chosen)
        images = np.concatenate([sampler.generate([0, 1]), sampler.generate([2])])
        facts = sampler.describe()
        sampler.close()
        return images, facts

    return pictures


def test_both_backends_draw_the_same_through_loadgen(exported, cli):
    done = cli(
        "-m", "backend=torch,ort", "limit=2", "scenario.min_query_count=2",
        "scenario.min_duration_ms=0", "scenario.warmup_batches=1", "backend.batch_size=2",
        *exported.words, env={"SDXL_STORE": str(exported.store)}, timeout=900,
    )  # fmt: skip
    assert done.json["ok"] + done.json["invalid"] == 2, done.out + done.err
    folders = [done.dir / "0", done.dir / "1"]
    ours, theirs = ([picture(f / "images" / f"{n:06d}.png") for n in (0, 1)] for f in folders)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(mine.astype(int) - other).max() <= 2
    record = next(r for r in done.records() if r["config"]["backend"]["name"] == "ort")
    assert [a["kind"] for a in record["artifacts"]] == ["onnx"] * 4
    assert record["durations"]["export_s"] > 0
    unet = record["performance"]["generator"]["kernels"]["unet"]
    assert sum(unet["float"].values()) > 50 and not unet["integer"]


FEW = ("euler_a", "dpmpp_2m", "lcm")
"""Noise at each step, memory of a step, timesteps of its own."""


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CHOICES],
)
def test_every_scheduler_draws_what_torch_draws(draw, name):
    if name == "dpmpp_sde":
        pytest.importorskip("torchsde", reason="torchsde is not installed")
    words = (f"scheduler={name}", "model.steps=3", "model.noise=per_prompt")
    ours, facts = draw("backend=ort", *words)
    theirs, _ = draw("backend=torch", *words)
    assert facts["schedule"]["timesteps"] and np.abs(ours[0].astype(int) - ours[1]).max() > 8
    assert np.abs(ours.astype(int) - theirs).max() <= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_int8_through_loadgen_draws_what_the_simulation_draws(exported, cli):
    """Nearer to the simulated run than that is to its own baseline: CLEARLY dB at least.

    They cannot be equal: sums in another order flip ties, and a flipped code is a whole step.
    """
    levels = ("1", "3")
    done = cli(
        "-m", "backend=torch,ort", f"quant_level={','.join(levels)}", "quant=int8", "calib_size=1",
        "quant.report_prompts=0", "limit=4", "scenario.min_query_count=4",
        "scenario.min_duration_ms=0", "scenario.warmup_batches=1", "backend.batch_size=4",
        *exported.words, env={"SDXL_STORE": str(exported.store)}, timeout=900,
    )  # fmt: skip
    assert done.json["ok"] + done.json["invalid"] == 4, done.out + done.err
    records = done.records()
    for place, level in enumerate(levels):
        simulated, real = records[place], records[place + len(levels)]
        assert simulated["performance"]["generator"]["simulated"]
        assert not real["performance"]["generator"]["simulated"]
        kernels = real["performance"]["generator"]["kernels"]["unet"]
        assert sum(kernels["integer"].values()) > (level == "3") * sum(kernels["float"].values())
        folders = [done.dir / str(number) for number in (place, place + len(levels))]
        drawn = [[picture(f / "images" / f"{n:06d}.png") for n in range(4)] for f in folders]
        noise = simulated["quality"]["baseline"]["psnr_db"]
        found = compare(*drawn)["psnr_db"]
        print(f"level {level}: simulated to fp32 {noise:.1f} dB, to ONNX Runtime {found:.1f} dB")
        assert found > noise + CLEARLY, level


@pytest.mark.parametrize("words", [
    ["backend.optimization=disabled"],
    ["backend.prepack=false", "backend.arena=false", "backend.spin=false", "backend.threads=1"],
    ["backend.decode_batch_size=1"],
])  # fmt: skip
def test_settings_change_no_picture(draw, words):
    usual, _ = draw("backend=ort")
    other, facts = draw("backend=ort", *words)
    assert np.abs(usual.astype(int) - other).max() <= 2
    assert facts["device"] == "cpu" and facts["providers"] == ["CPUExecutionProvider"]


@pytest.mark.slow
def test_int8_is_simulated_where_no_integer_kernel_ran(draw):
    """Quantize, Dequantize and a float product each: the numbers of INT8, the speed of floats."""
    words = ("backend=ort", "quant=int8", "calib_size=1", "quant.report_prompts=0", "model.steps=2")
    for level, simulated in (("all", False), ("basic", True)):
        _, facts = draw(*words, f"backend.optimization={level}")
        assert facts["simulated"] is simulated
        assert bool(facts["kernels"]["unet"]["integer"]) is not simulated


@pytest.mark.parametrize(("number", "integer", "simulated"), [
    ("int8", {"QLinearMatMul": 9}, False), ("int8", {}, True), ("fp8", {}, True),
    ("auto_mixed", {}, True), ("int8_weight_only", {}, False), ("none", {}, False),
])  # fmt: skip
def test_what_is_simulated_is_what_no_integer_kernel_computed(number, integer, simulated):
    kernels = {"unet_deep": {"integer": integer}, "unet_shallow": {}, "vae_decoder": {}}
    assert is_simulated(Format(number), kernels) is simulated


def test_a_provider_that_does_not_load_is_no_success(composed, tmp_path):
    """ONNX Runtime warns, and would compute on the CPU."""
    path = tmp_path / "model.onnx"
    path.write_bytes(product(TensorProto.FLOAT))
    runtime = Runtime(check(composed("backend=ort")))
    assert runtime.session("unet", path, tmp_path / "profile").get_providers() == runtime.providers
    runtime.device = torch.device("cuda")  # the package here has no CUDA
    with pytest.raises(SdxlError, match="did not load CUDAExecutionProvider"):
        runtime.session("unet", path, tmp_path / "profile")


def test_tensorrt_keeps_the_engines_of_each_graph_apart():
    """Its names of engines know no weights; without a flag it computes 16 bits in 32."""

    def options(key, dtype):
        path = store.root() / "onnx" / key / "model.onnx"
        found = providers_of(Provider.tensorrt, torch.device("cuda:1"), path, DType(dtype))
        assert [name[:4] for name, _ in found] == ["Tens", "CUDA", "CPUE"]
        return found[0][1]

    one, other = options("aaa", "fp32"), options("bbb", "fp16")
    assert one["trt_engine_cache_path"] != other["trt_engine_cache_path"]
    assert "trt_fp16_enable" not in one and other["trt_fp16_enable"] == "1"


def test_a_picture_of_nan_is_refused(draw, monkeypatch):
    from sdxl.backends.ort import session

    plain = session.Graph.__call__
    monkeypatch.setattr(
        session.Graph, "__call__",
        lambda self, *t: {name: out * float("nan") for name, out in plain(self, *t).items()}
        if self._names == ("latents",) else plain(self, *t),
    )  # fmt: skip
    with pytest.raises(StageError, match="NaN"):
        draw("backend=ort")


@pytest.mark.parametrize(("words", "said"), [
    (["backend.threads=0"], "backend.threads"),
    (["model.device=cpu", "backend.provider=cuda"], "needs a CUDA device"),
    (["model.device=cuda", "backend.provider=cpu"], "would be ignored"),
    (["model.device=mps"], "no MPS provider"),
    (["export.opset=17"], r"export\.opset"),
    (["quant=int8", "backend.provider=tensorrt"], "which TensorRT does not take"),
    (["model.device=cpu", "precision.unet=bf16"], "no bf16 arithmetic on a CPU"),
    (["backend.provider=cpu", "precision.vae=bf16"], "no bf16 arithmetic on a CPU"),
])  # fmt: skip
def test_settings_that_cannot_be(composed, words, said):
    with pytest.raises(ConfigError, match=said):
        check(composed("backend=ort", *words))


def test_bf16_is_refused_before_anything_is_made_where_only_a_cpu_can_run_it(cli, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = cli("backend=ort", "precision=bf16")
    assert done.code == 2
    assert "bf16 for text_encoder, text_encoder_2, unet, vae_decoder" in done.err
    assert not list(store.root().glob("onnx/*"))


def test_the_cpu_provider_still_has_no_bf16_product():
    """If this fails, ONNX Runtime has learnt it: `sdxl.backends.ort` need not refuse."""
    kinds = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
    taken = set()
    for name, kind in kinds.items():
        with contextlib.suppress(NoKernel):
            onnxruntime.InferenceSession(product(kind), providers=["CPUExecutionProvider"])
            taken.add(name)
    assert taken == {"fp16"}


def test_sums_of_the_largest_codes_are_exact_also_without_vnni(load, tmp_path):
    (path := tmp_path / "model.onnx").write_bytes(largest_codes())
    runtime = Runtime(load("backend=ort", "quant=int8"))
    session = runtime.session("unet", path, tmp_path / "profile")
    (found,) = session.run(None, {"x": np.ones((2, 64), np.float32)})
    np.testing.assert_allclose(found, 64, rtol=1e-5)


@pytest.mark.parametrize(("words", "doubted"), [
    (["quant=int8"], False), (["quant=int8", "export.convolutions=conv"], True),
    (["quant=int8_weight_only"], False), ([], False),
])  # fmt: skip
def test_sums_that_cannot_be_made_exact_put_a_run_in_doubt(load, monkeypatch, words, doubted):
    config = load("backend=ort", *words)
    for lacks, device in ((True, "cpu"), (True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(environment, "lacks_vnni", lambda lacks=lacks: lacks)
        stages = SimpleNamespace(
            quantization=config.quant.format, exact=exact(config),
            runtime=SimpleNamespace(device=torch.device(device)),
        )  # fmt: skip
        expected = doubted and lacks and device == "cpu"
        assert OrtStages._doubts(stages) == ([OVERFLOW] if expected else [])


def test_a_provider_that_is_not_here_is_named(exported, composed, chain_of):
    config = check(composed(*exported.words, "backend=ort", "backend.provider=cuda"))
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    with pytest.raises(ValueError, match="cannot use CUDAExecutionProvider here"):
        backend_of(config).open(config, chain_of(config).loads)


@pytest.mark.gpu
def test_on_a_gpu_the_pictures_are_the_same(draw):
    torch = pytest.importorskip("torch")
    ort = pytest.importorskip("onnxruntime")
    if (
        not torch.cuda.is_available()
        or "CUDAExecutionProvider" not in ort.get_available_providers()
    ):
        pytest.skip("needs a CUDA device and onnxruntime-gpu")
    here, _ = draw("backend=ort", "backend.provider=cpu")
    there, facts = draw("backend=ort", "backend.provider=cuda")
    assert facts["providers"][0] == "CUDAExecutionProvider"
    assert np.abs(here.astype(int) - there).max() <= 3
