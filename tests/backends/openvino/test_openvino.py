"""The openvino backend draws what torch draws, in integer kernels where quantized."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdxl.backends.openvino import exact, ir, rules
from sdxl.config.load import load as check
from sdxl.config.plugins import backend_of
from sdxl.core import store
from sdxl.core.errors import ConfigError
from sdxl.export.qdq.artifact import KIND as QDQ
from sdxl.model import prompts
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from sdxl.run import export_plan
from sdxl.run.doctor import checks
from sdxl.run.doctor.preflight import preflight
from tests.conftest import ROOT

needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="OpenVINO: pip install -e .[openvino]"
)
INT8 = ("quant=int8", "calib_size=1", "quant.report_prompts=0", "quant_level=3")


@pytest.fixture
def opened(exported, composed, chain_of):
    """Words -> the configuration, its chain, the stages and a sampler on three prompts."""

    def open_(*words):
        config = check(composed(*exported.words, "limit=3", *words))
        chain = chain_of(config)
        stages = backend_of(config).open(config, chain.loads)
        chosen = prompts.load(config.dataset, config.limit, config.seed)
        return (
            config,
            chain,
            Sampler(stages, open_source(config.model, config.seed), config, chosen),
        )

    return open_


@pytest.fixture
def draw(opened):
    """Words -> pictures of three prompts, in two batches of unlike sizes, and the facts."""

    def pictures(*words):
        _, _, sampler = opened(*words)
        images = np.concatenate([sampler.generate([0, 1]), sampler.generate([2])])
        facts = sampler.describe()
        sampler.close()
        return images, facts

    return pictures


@needs_openvino
def test_every_setting_draws_what_torch_draws(draw):
    theirs, _ = draw("backend=torch")
    for words in (
        [],
        ["backend.streams=2", "backend.threads=2"],
        ["backend.static_batch=true", "backend.batch_size=2"],
        ["backend.static_batch=true", "backend.batch_size=2", "backend.streams=2",
         "backend.decode_batch_size=1"],
    ):  # fmt: skip
        ours, facts = draw("backend=openvino", *words)
        assert np.abs(ours.astype(int) - theirs).max() <= 2, words
        assert facts["arithmetic"]["unet"] == "fp32" and facts["device"] == "cpu"
        assert not facts["kernels"]["unet"]["integer"] and facts["kernels"]["unet"]["float"]


@needs_openvino
def test_int8_runs_in_integer_kernels_from_an_ir_in_the_store(opened):
    config, chain, sampler = opened("backend=openvino", *INT8)
    assert [piece.manifest["kind"] for piece in chain.pieces[-4:]] == [ir.KIND] * 4
    unet = chain.piece("unet").manifest
    assert unet["parents"] == [
        next(p.manifest["key"] for p in chain.pieces if p.manifest["kind"] == QDQ)
    ]
    rows = export_plan.rows(config)
    assert [row["key"] for row in rows[-4:]] == [p.manifest["key"] for p in chain.pieces[-4:]]
    assert all(row["there"] for row in rows)
    ours, facts = sampler.generate([0]), sampler.describe()
    kernels = facts["kernels"]["unet"]
    selected = chain.pieces[0].manifest["settings"]["layers"]
    assert sum(kernels["integer"].values()) == selected["conv"] + selected["linear"]
    assert not facts["simulated"] and ours.std() > 1
    again, *_ = opened("backend=openvino", *INT8, "build=never")
    assert again.build.value == "never"


@needs_openvino
def test_sums_that_overflow_without_vnni_put_a_run_in_doubt(opened, monkeypatch):
    flags = Path("/proc/cpuinfo").read_text().split() if sys.platform == "linux" else []
    if "avx2" in flags:
        assert exact.overflows() == (not {"avx512_vnni", "avx_vnni"} & {*flags})
    for overflow, expected in ((True, [exact.OVERFLOW]), (False, [])):
        monkeypatch.setattr(exact, "overflows", lambda overflow=overflow: overflow)
        *_, sampler = opened("backend=openvino", *INT8)
        assert sampler.describe()["warnings"] == expected
    monkeypatch.setattr(exact, "overflows", lambda: True)
    *_, sampler = opened("backend=openvino")
    assert sampler.describe()["warnings"] == [], "nothing is quantized"


@needs_openvino
def test_what_a_device_cannot_compute_is_computed_in_fp32_or_refused(draw, load, monkeypatch):
    _, facts = (
        draw("backend=openvino", "backend.precision_hint=bf16")
        if ("BF16" in rules.devices()["CPU"])
        else (None, {"arithmetic": {"unet": "bf16"}, "precision": {"unet": "fp32"}})
    )
    assert facts["arithmetic"]["unet"] == "bf16" and facts["precision"]["unet"] == "fp32"
    monkeypatch.setattr(rules, "devices", lambda: {"CPU": ["FP32", "INT8"]})
    config = load("backend=openvino", "backend.precision_hint=bf16")
    (problem,) = preflight(config)
    assert problem.what == "this cpu has no bf16 arithmetic"
    (problem,) = preflight(load("backend=openvino", "backend.device_name=gpu"))
    assert problem.what == "OpenVINO has no gpu here" and problem.got == "CPU"
    assert not preflight(load("backend=openvino", "backend.precision_hint=fp32"))


@pytest.mark.parametrize(("words", "said"), [
    (["quant=fp8"], "no FP8 kernels"),
    (["backend.threads=0"], "backend.threads"),
    (["backend.streams=4", "backend.threads=2"], "each stream needs a thread"),
    (["model.device=cuda"], "model.device` would be ignored"),
    (["backend.device_name=npu"], "one size only"),
    (["backend.device_name=gpu", "backend.threads=2"], "backend.threads` would be ignored"),
    (["backend.device_name=gpu", "backend.devices=[0,1]"], "share one gpu"),
    (["export.opset=17"], r"export\.opset"),
])  # fmt: skip
def test_settings_that_cannot_be(composed, words, said):
    with pytest.raises(ConfigError, match=said):
        check(composed("backend=openvino", *words))


def test_without_the_package_a_run_and_an_export_say_the_extra(load, monkeypatch):
    monkeypatch.setattr(rules, "find_spec", lambda _name: None)
    config = load("backend=openvino")
    for runs in (True, False):
        (problem,) = preflight(config, runs=runs)
        assert problem.what == "OpenVINO is not installed" and "'.[openvino]'" in problem.fix
    (found,) = checks.openvino()
    assert found.state == "warning" and "'.[openvino]'" in found.fix
    assert {row["key"] for row in export_plan.rows(config) if row["kind"] == ir.KIND} == {None}


@needs_openvino
def test_the_doctor_names_the_devices_and_their_formats():
    (found,) = checks.openvino()
    assert found.state == "ok" and "CPU (" in found.text and "FP32" in found.text


@needs_openvino
def test_the_import_tells_nobody():
    """Alone in a process: its telemetry speaks at the first import, to whoever listens."""
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; from sdxl.backends.openvino import library, rules\n"
         "print(rules.devices()); print(sys.modules[library.TELEMETRY])"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "None", done.stderr


@needs_openvino
def test_a_graph_that_it_does_not_take_is_named(load, tmp_path):
    from sdxl.core.errors import SdxlError

    def build(folder):
        (folder / "model.onnx").write_bytes(b"no graph")
        return {}

    broken = store.get("onnx", "0123456789abcdef", build, settings={})
    with pytest.raises(SdxlError, match="OpenVINO does not take the graph of unet"):
        ir.get(load("backend=openvino"), "unet", broken)
    assert not list((store.root() / ir.KIND).glob("*/manifest.json"))


@needs_openvino
def test_a_static_model_drops_no_rows(opened):
    *_, sampler = opened("backend=openvino", "backend.static_batch=true", "backend.batch_size=1")
    with pytest.raises(ValueError, match="longer"):
        sampler.generate([0, 1])
