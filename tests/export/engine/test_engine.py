"""Engines built by TensorRT-RTX on a machine without a GPU."""

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sdxl.config import engines
from sdxl.config import load as configuration
from sdxl.core import store
from sdxl.core.errors import ConfigError, SdxlError
from sdxl.core.types import Build
from sdxl.export import engine
from sdxl.export.engine import library, listen
from tests.conftest import ROOT
from tests.export import small_graph

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
RTX = ("backend=trt", "backend.flavor=rtx", "precision=fp16")


@pytest.fixture
def asked(load):
    return lambda *words: load(*RTX, *words)


@pytest.fixture(scope="module")
def usual(composed):
    return configuration.load(composed(*RTX))


def changed(config, name, value):
    """A copy with one setting changed, unchecked."""
    group, _, field = name.partition(".")
    other = copy.deepcopy(config)
    setattr(getattr(other, group), field, value)
    return other


def built(config, folder, kind="fp16", seen=None, **words):
    source = small_graph.artifact(small_graph.write(folder / f"{kind}{words}", kind, **words))
    return engine.get(config, "unet", source, (seen if seen is not None else []).append)


@pytest.mark.parametrize(
    ("kind", "targets", "eight_bit"),
    [("fp16", "sm75,sm80,sm89,sm120", 0), ("int8", "sm80", 3), ("fp8", "sm89,sm120", 3)],
)
def test_a_graph_becomes_an_engine_whose_layers_are_counted(
    asked, tmp_path, kind, targets, eight_bit
):
    seen = []
    config = asked(f"backend.compute_capabilities=[{targets}]")
    made = built(config, tmp_path, kind, seen)
    settings = made.manifest.settings
    assert {"model.engine", "build.log", "layers.json"} <= set(made.manifest.files)
    counts = settings["layers"]
    assert sum(counts[kind].get("8", 0) for kind in ("conv", "matmul")) == eight_bit
    assert sum(n for kind in ("conv", "matmul") for n in counts[kind].values()) == 4
    assert settings["targets"] == targets.split(",")
    assert settings["memory"]["weights_bytes"] > 0
    layers = json.loads((made.path / "layers.json").read_text())
    assert layers["summary"] == counts
    assert "Opset version" in (made.path / "build.log").read_text()
    assert made.manifest.versions == {"tensorrt_rtx": trt.__version__}
    assert made.manifest.peak_bytes > 0
    assert any("Timing" in message["text"] or "Optimizing" in message["text"] for message in seen)
    assert any(message.get("expected", 0) > 1 for message in seen)


def test_the_batch_is_free_from_1_to_4_images_with_guidance(asked, tmp_path):
    made = built(asked("backend.batch_size=4", "backend.opt_batch_size=2"), tmp_path)
    assert made.manifest.settings["rows"] == [2, 4, 8]
    assert "minShape is not the same as maxShape" in (made.path / "build.log").read_text()
    static = built(asked("backend.batch_size=4", "backend.static_batch=true"), tmp_path)
    assert static.manifest.settings["rows"] == [8, 8, 8]
    assert static.manifest.key != made.manifest.key


def test_a_second_request_finds_the_engine(usual, tmp_path):
    first = built(usual, tmp_path)
    began, seen = time.perf_counter(), []
    second = built(usual, tmp_path, seen=seen)
    assert second == first
    assert not seen
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend.batch_size", 2),
        ("backend.max_batch_size", 16),
        ("model.height", 160),
        ("backend.builder_optimization_level", 2),
        ("backend.workspace_gib", 1.0),
        ("backend.tf32", False),
        ("backend.weight_streaming", True),
        ("backend.compute_capabilities", ["sm89"]),
        ("model.guidance", 1.0),
    ],
)
def test_whatever_changes_the_engine_changes_its_settings(usual, name, value):
    assert engine.settings(changed(usual, name, value), "unet") != engine.settings(usual, "unet")


def test_what_does_not_reach_an_engine_leaves_its_settings_alone(usual):
    unet = engine.settings(usual, "unet")
    for name in ("backend.cuda_graphs", "backend.runtime_cache", "backend.timing_cache"):
        group, _, field = name.partition(".")
        other = changed(usual, name, not getattr(getattr(usual, group), field))
        assert engine.settings(other, "unet") == unet, name
    taller = changed(usual, "model.height", 160)
    assert engine.settings(taller, "text_encoder") == engine.settings(usual, "text_encoder")


def test_graph_version_and_targets_are_in_the_key(asked, tmp_path, monkeypatch):
    config = asked(f"build={Build.never.value}")

    def key(folder, **words):
        """The key, from the refusal to build."""
        with pytest.raises(SdxlError, match="is missing and building is switched off") as caught:
            built(config, folder, **words)
        return str(caught.value).split()[2]

    keys = {key(tmp_path / "a"), key(tmp_path / "b", opset=21), key(tmp_path / "c", kind="int8")}
    assert key(tmp_path / "d") in keys  # another place, the same graph
    monkeypatch.setattr(trt, "__version__", "1.8.0.0")
    keys.add(key(tmp_path / "e"))
    monkeypatch.setattr(engines, "USUAL_TARGETS", ("sm86",))
    keys.add(key(tmp_path / "f"))
    monkeypatch.setattr(engines.platform, "machine", lambda: "another processor")
    keys.add(key(tmp_path / "g"))
    assert len(keys) == 6


def test_an_engine_of_another_version_is_built_anew_beside_it(usual, tmp_path, monkeypatch):
    old = built(usual, tmp_path)
    monkeypatch.setattr(trt, "__version__", "1.8.0.0")
    new = built(usual, tmp_path)
    assert new.path != old.path
    assert new.manifest.settings["tensorrt"] == "1.8.0.0"
    assert (old.path / "model.engine").is_file()


def test_a_truncated_engine_is_refused_with_the_reason(usual, tmp_path):
    made = built(usual, tmp_path)
    file = made.path / "model.engine"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(SdxlError, match=r"model\.engine is missing or truncated"):
        built(usual, tmp_path)


def test_fp8_is_refused_for_targets_without_it_before_any_build(asked, load):
    with pytest.raises(ConfigError, match="sm80 sm86 cannot hold") as caught:
        load(*RTX, "quant=fp8", "backend.compute_capabilities=[sm80,sm86,sm89]")
    assert "FP8 tensor cores exist from sm89" in str(caught.value)
    assert engine.settings(asked("quant=fp8"), "unet")["targets"] == ["sm89", "sm120"]


def test_what_tensorrt_refuses_is_said_in_its_own_words(usual, tmp_path):
    folder = small_graph.write(tmp_path / "broken")
    import onnx

    model = onnx.load(folder / "model.onnx")
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(SdxlError, match="TensorRT does not take the graph") as caught:
        engine.get(usual, "unet", small_graph.artifact(folder), lambda _: None)
    assert "NoSuchOperator" in str(caught.value)
    assert "relu" in str(caught.value)


def test_the_library_may_talk_after_its_log_is_closed(tmp_path):
    """An exception in a logger ends the process: TensorRT calls it from C++."""
    with (tmp_path / "build.log").open("w") as file:
        log = listen.logger(trt, file)
        log.log(trt.ILogger.WARNING, "during")
    log.log(trt.ILogger.ERROR, "after")
    assert (tmp_path / "build.log").read_text() == "warning: during\n"
    assert log.errors == ["after"]


def test_a_workspace_too_small_fails_and_leaves_nothing(usual, tmp_path):
    config = changed(usual, "backend.workspace_gib", 0.00001)
    with pytest.raises(SdxlError, match="TensorRT built no engine of unet") as caught:
        built(config, tmp_path)
    assert "workspace_gib=null" in str(caught.value)
    assert not list((store.root() / "engine").glob("*/"))
    assert not list((store.root() / "tmp").iterdir())


def test_a_graph_for_another_batch_is_refused(asked, tmp_path):
    with pytest.raises(SdxlError, match="is for 4 rows only"):
        built(asked("backend.batch_size=4", "backend.static_batch=true"), tmp_path, rows=4)
    made = built(asked("backend.batch_size=2", "backend.static_batch=true"), tmp_path, rows=4)
    assert made.manifest.settings["rows"] == [4, 4, 4]


def test_a_killed_build_leaves_nothing_that_looks_like_an_engine(usual, tmp_path):
    small_graph.write(tmp_path / "graph")
    code = f"import sys; from {__name__} import slow_build; slow_build(sys.argv[1])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "graph")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdout.readline().strip() == "building"
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    left = [path for path in (store.root() / "tmp").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["build.log"]
    assert not [path for path in (store.root() / "engine").iterdir() if path.is_dir()]
    source = small_graph.artifact(tmp_path / "graph")
    made = engine.get(usual, "unet", source, lambda _: None)
    assert made.manifest.files["model.engine"]["bytes"] > 100_000
    assert not list((store.root() / "tmp").iterdir())


def slow_build(folder):
    """In a child: build, and stay in the first phase with steps until somebody kills us."""
    from pathlib import Path

    from hydra import compose, initialize_config_dir

    from sdxl.config import load as config

    def stay(message):
        if "expected" in message:
            print("building", flush=True)
            signal.pause()

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        asked = config.load(compose("run", overrides=list(RTX)))
    engine.get(asked, "unet", small_graph.artifact(Path(folder)), stay)


def test_refit_without_a_gpu_is_refused_before_the_build(asked, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for word in ("backend.refit=true", "backend.strip_plan=true"):
        with pytest.raises(ConfigError, match="refittable engines only on a machine with a GPU"):
            engine.settings(asked(word), "unet")


def test_data_centre_tensorrt_without_a_gpu_is_refused_before_the_build(load, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError) as caught:
        engine.settings(load("backend=trt", "backend.flavor=tensorrt"), "unet")
    assert "backend.flavor=rtx" in str(caught.value.problems[-1].fix)


def test_weights_may_be_streamed_and_flags_reach_the_builder(asked, tmp_path):
    config = asked("backend.weight_streaming=true", "backend.tf32=false")
    made = built(config, tmp_path)
    assert made.manifest.settings["flags"] == ["WEIGHT_STREAMING"]
    builder = trt.Builder(trt.Logger(trt.ILogger.ERROR))
    target = builder.create_builder_config()
    library.configure(trt, target, config)
    assert target.get_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    assert not target.get_flag(trt.BuilderFlag.TF32)
    assert target.num_compute_capabilities == len(engines.USUAL_TARGETS)


def test_the_profile_of_a_dynamic_graph_spans_the_sizes(asked, tmp_path):
    """Its range as TensorRT-RTX itself took it for a graph whose height and width are free."""
    from onnx import TensorProto, helper, save

    from sdxl.export.engine.build import _set_profile, settings

    shape = ["rows", 4, "height", "width"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
            for name in ("sample", "noise")]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Relu", ["sample"], ["noise"])], "g", *[[e] for e in ends]
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    log = trt.Logger()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse_from_file(str(tmp_path / "m.onnx"))
    taken = []

    class Target:
        def add_optimization_profile(self, profile):
            taken.append([tuple(dims) for dims in profile.get_shape("sample")])
            return builder.create_builder_config().add_optimization_profile(profile)

    config = asked("rules=open", "export.dynamic_size=true", "size=160x96", "backend.batch_size=2")
    _set_profile(builder, Target(), network, settings(config, "unet"), config)
    assert taken == [[(2, 4, 12, 12), (4, 4, 16, 16), (4, 4, 28, 28)]]
    fixed = settings(asked("rules=open", "size=160x96"), "unet")
    other = settings(config, "unet")
    assert fixed["size"] == [96, 160] and other["size"] == [[96, 96], [128, 128], [224, 224]]
