"""The `trt` backend without a GPU: which engines it refuses, and how it feeds one.

No GPU runs here, so an engine is played by a stand-in that reads and writes the memory whose
addresses it was given. What only the real library can show is marked `gpu`.
"""

import ctypes
import json
from types import SimpleNamespace

import pytest
import torch

from sdxl.backends.trt import engine as _trt_engine
from sdxl.backends.trt.engine import Engine, Recorded, check
from sdxl.config import engines
from sdxl.config.engines import Flavor
from sdxl.core.errors import SdxlError, UserError

GPU = {"name": "NVIDIA H100 80GB HBM3", "capability": "sm90"}


def folder_of(tmp_path, size=100, **changes):
    """A folder as the store publishes it."""
    settings = {
        "graph": "unet", "flavor": "tensorrt", "tensorrt": "10.13.3", "rows": [2, 4, 8],
        "host": engines.host(),
        "flags": [], "gpu": GPU, "hardware_compatibility": "none", **changes,
    }  # fmt: skip
    manifest = {
        "settings": settings,
        "files": {"model.engine": {"bytes": 100}},
        "kind": "engine",
        "key": "k",
    }
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model.engine").write_bytes(bytes(size))
    return tmp_path


def test_an_engine_of_this_library_and_gpu_is_taken(tmp_path):
    assert check(folder_of(tmp_path), "10.13.3", Flavor.tensorrt, GPU)["key"] == "k"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tensorrt": "10.2.0"}, "version"),
        ({"flavor": "rtx"}, "library"),
        ({"host": "win32 AMD64"}, "host"),
        ({"size": 60}, "size in bytes"),
        ({"gpu": {"name": "NVIDIA A100", "capability": "sm80"}}, "GPU's name"),
        (
            {"gpu": {"name": "NVIDIA H200", "capability": "sm89"},
             "hardware_compatibility": "same_compute_capability"},
            "GPU's capability",
        ),
    ],
)  # fmt: skip
def test_a_foreign_or_shortened_engine_is_refused_with_the_reason(tmp_path, changes, what):
    with pytest.raises(UserError, match=f"does not belong here: its {what} differs") as caught:
        check(folder_of(tmp_path, **changes), "10.13.3", Flavor.tensorrt, GPU)
    assert "export.py backend=trt" in str(caught.value)


def test_compatible_engines_may_come_from_another_gpu(tmp_path):
    other = {"name": "NVIDIA H200", "capability": "sm90"}
    same = folder_of(tmp_path, gpu=other, hardware_compatibility="same_compute_capability")
    check(same, "10.13.3", Flavor.tensorrt, GPU)
    older = {"name": "NVIDIA A100", "capability": "sm80"}
    plus = folder_of(tmp_path, gpu=older, hardware_compatibility="ampere_plus")
    check(plus, "10.13.3", Flavor.tensorrt, GPU)


def test_a_folder_without_a_manifest_is_no_engine(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"1")
    with pytest.raises(UserError, match="holds no engine of ours"):
        check(tmp_path, "10.13.3", Flavor.tensorrt, GPU)


class Context:
    """Plays an execution: noise = 2 x sample + timestep, on the addresses it was given."""

    def __init__(self):
        self.shapes, self.addresses, self.memory, self.streams = {}, {}, None, []

    def set_device_memory(self, address, size):
        self.memory = (address, size)

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return shape[0] <= 8

    def set_tensor_address(self, name, address):
        if address % _trt_engine.ALIGNMENT:
            return False
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        return self.shapes["sample"]

    def execute_async_v3(self, stream):
        self.streams.append(stream)
        count = torch.Size(self.shapes["sample"]).numel()
        sample, noise = (
            (ctypes.c_float * count).from_address(self.addresses[name])
            for name in ("sample", "noise")
        )
        step = ctypes.c_float.from_address(self.addresses["timestep"]).value
        for index in range(count):
            noise[index] = 2 * sample[index] + step
        return stream != 666


class FakeEngine:
    num_io_tensors = 3
    device_memory_size_v2 = 4096

    def __init__(self):
        self.contexts = []

    def get_tensor_name(self, index):
        return ("sample", "timestep", "noise")[index]

    def get_tensor_mode(self, name):
        return "output" if name == "noise" else "input"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        self.contexts.append(Context())
        return self.contexts[-1]


@pytest.fixture
def engine(tmp_path, load, monkeypatch):
    """An `Engine` whose library is the stand-in; torch's CPU memory begins at multiples of 64."""
    monkeypatch.setattr(_trt_engine, "ALIGNMENT", 64)
    fake = FakeEngine()
    trt = SimpleNamespace(
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: fake),
        TensorIOMode=SimpleNamespace(INPUT="input"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    )
    folder = folder_of(tmp_path / "engine")
    manifest = json.loads((folder / "manifest.json").read_text())
    log = SimpleNamespace(errors=["out of memory"])
    made = Engine(trt, log, folder, manifest, load("backend=trt").backend)
    made.use_memory(torch.empty(4096, dtype=torch.uint8))
    return made


def test_tensors_are_bound_where_they_are_without_a_copy(engine):
    sample, step = torch.randn(4, 3), torch.tensor([5.0])
    noise = engine.run({"sample": sample, "timestep": step}, stream=7)["noise"]
    assert torch.equal(noise, 2 * sample + 5)
    (context,) = engine.engine.contexts
    assert context.addresses["sample"] == sample.data_ptr()
    assert context.addresses["timestep"] == step.data_ptr()
    assert context.addresses["noise"] == noise.data_ptr()
    assert context.memory == (engine._memory.data_ptr(), 4096)
    assert context.streams == [7]
    engine.run({"sample": sample[:2], "timestep": step}, stream=7)
    assert len(engine.engine.contexts) == 1


def test_other_types_and_strides_are_converted(engine):
    sample = torch.randn(3, 4, dtype=torch.float64).t()
    noise = engine.run({"sample": sample, "timestep": torch.tensor([1])}, stream=7)["noise"]
    assert torch.equal(noise, 2 * sample.float() + 1)


def test_every_step_of_a_schedule_reaches_the_engine(engine):
    """A schedule's steps lie side by side: all but the first at addresses that TensorRT refuses."""
    sample = torch.zeros(4, 3)
    for step in torch.tensor([999.0, 949.0, 899.0]):
        noise = engine.run({"sample": sample, "timestep": step.reshape(1)}, stream=7)["noise"]
        assert torch.equal(noise, step.expand(4, 3))


def test_a_refused_address_is_no_silent_matter(engine):
    context = Context()
    context.set_tensor_address = lambda name, address: name == "sample"
    with pytest.raises(SdxlError, match="refuses the address of timestep"):
        engine.bind(context, {"sample": torch.zeros(4, 3), "timestep": torch.zeros(1)})


def test_a_short_batch_is_padded_and_cut_again(engine):
    sample = torch.randn(1, 3)
    noise = engine.run({"sample": sample, "timestep": torch.tensor([0.0])}, stream=7)["noise"]
    assert torch.equal(noise, 2 * sample)
    assert engine.engine.contexts[0].shapes["sample"] == (2, 3)


def test_a_batch_too_large_is_refused_by_name(engine):
    with pytest.raises(UserError, match="a batch of 9 rows is too large for the engine of unet"):
        engine.run({"sample": torch.randn(9, 3), "timestep": torch.tensor([0.0])}, stream=7)


def test_a_failed_execution_tells_what_tensorrt_said(engine):
    with pytest.raises(SdxlError, match="the execution failed") as caught:
        engine.run({"sample": torch.randn(4, 3), "timestep": torch.tensor([0.0])}, stream=666)
    assert "out of memory" in str(caught.value)


def test_a_recorded_execution_has_buffers_of_its_own(engine):
    engine.flavor = Flavor.rtx  # which records by itself: no CUDA graph of torch's
    engine._runtime_config = lambda strategy, cuda_graph: strategy if cuda_graph else None
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    first = {"sample": torch.randn(4, 3), "timestep": torch.tensor([1.0])}
    recorded = Recorded(engine, first, stream)
    second = {"sample": torch.randn(4, 3), "timestep": torch.tensor([2.0])}
    noise = recorded(second)["noise"]
    assert torch.equal(noise, 2 * second["sample"] + 2)
    assert recorded(first)["noise"].data_ptr() == noise.data_ptr()
    assert torch.equal(noise, 2 * first["sample"] + 1)


def test_the_real_library_reads_no_engine_here_and_the_reason_is_passed_on(tmp_path, load):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    from sdxl.backends.trt.stages import _logger

    folder = folder_of(tmp_path, flavor="rtx", tensorrt=trt.__version__, gpu=None)
    manifest = check(folder, trt.__version__, Flavor.rtx, GPU)
    with pytest.raises(SdxlError, match="calls the engine invalid: MALFORMED_ENGINE"):
        Engine(trt, _logger(trt), folder, manifest, load("backend=trt").backend)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: engines cannot run")
def test_the_whole_pipeline_on_a_gpu(cli):
    ours = cli("backend=trt", "precision=fp16", "limit=4", timeout=600)
    assert ours.code in (0, 3), ours.err
    assert ours.record["performance"]["stage_ms"].keys() >= {"encode", "unet", "decode", "rest"}
