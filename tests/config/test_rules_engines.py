"""Settings of engines: what is refused, on whatever machine, and what a machine lacks."""

import copy

import pytest

from sdxl.config import engines, graphs, ranges, rules_engines
from sdxl.config.choices import Convolutions
from sdxl.config.engines import Flavor
from sdxl.core import gpu
from sdxl.core.errors import ConfigError
from sdxl.core.gpu import Gpu
from sdxl.model import guidance

RTX4090 = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30, "580.1")
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30, "580.1")
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 40 << 30, "580.1")


@pytest.fixture(scope="module")
def trt(load):
    base = load("backend=trt", "precision=fp16")

    def make(**settings):
        made = copy.deepcopy(base)
        for name, value in settings.items():
            setattr(made.backend, name, value)
        return made

    return make


@pytest.fixture
def machine(monkeypatch):
    """A machine with these libraries and this GPU (or none)."""

    def have(*libraries, device=None, torch="2.13.0"):
        monkeypatch.setattr(gpu, "find", lambda: (device, "" if device else "no driver"))
        monkeypatch.setattr(engines, "installed", lambda flavor: flavor in libraries)
        monkeypatch.setattr(rules_engines, "installed", lambda flavor: flavor in libraries)
        monkeypatch.setattr(rules_engines, "version", lambda _: torch)

    return have


def said(problems):
    return [problem.what for problem in problems]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"min_batch_size": 0}, "`backend.min_batch_size` is too small"),
        ({"min_batch_size": 9}, "do not fit together"),
        ({"max_batch_size": 4}, "do not fit together"),
        ({"opt_batch_size": 4, "max_batch_size": 2}, "do not fit together"),
        ({"static_batch": True, "max_batch_size": 8}, "backend.max_batch_size=8 would be ignored"),
        ({"builder_optimization_level": 6}, "no such level"),
        ({"workspace_gib": 0.0}, "must be positive"),
        ({"weight_streaming_budget_gib": 1.0}, "would be ignored"),
        ({"compute_capabilities": ["sm90"]}, "no such target"),
        ({"compute_capabilities": ["sm89"], "flavor": Flavor.tensorrt}, "would be ignored"),
        ({"decode_batch_size": 0}, "`backend.decode_batch_size` is too small"),
    ],
)
def test_a_setting_that_cannot_be_is_named(trt, settings, what):
    config = trt(**settings)
    (problem, *_) = [*ranges.problems_of(config), *rules_engines.problems_of(config)]
    assert what in problem.what


def test_the_usual_settings_have_no_problem(trt):
    assert not list(rules_engines.problems_of(trt()))
    assert not list(rules_engines.problems_of(trt(min_batch_size=2, max_batch_size=16)))
    assert not list(rules_engines.problems_of(trt(static_batch=True)))


def test_nemos_names_are_accepted_on_the_command_line(load):
    config = load(
        "backend=trt", "backend.min_batch_size=1", "backend.max_batch_size=8",
        "backend.static_batch=false", "backend.builder_optimization_level=4",
    )  # fmt: skip
    assert engines.images(config) == (1, 8, 8)
    with pytest.raises(ConfigError, match="do not fit together"):
        load("backend=trt", "backend.min_batch_size=4", "scenario=SingleStream")


def test_guidance_is_counted_once(trt):
    config = trt(batch_size=4)
    assert engines.rows(config, "unet", guidance.rows_of(config)) == (2, 8, 8)
    assert engines.rows(config, "vae_decoder", guidance.rows_of(config)) == (1, 4, 4)
    assert engines.rows(config, "text_encoder", guidance.rows_of(config)) == (
        1,
        8,
        8,
    )  # the negative prompt may come alone
    config.model.guidance = 1.0
    assert engines.rows(config, "unet", guidance.rows_of(config)) == (1, 4, 4)
    static = trt(batch_size=4, static_batch=True)
    assert (
        engines.rows(static, "unet", guidance.rows_of(static))
        == engines.rows(static, "text_encoder", guidance.rows_of(static))
        == (8, 8, 8)
    )
    assert engines.rows(trt(batch_size=4, decode_batch_size=2), "vae_decoder", 2) == (1, 2, 2)


def test_an_engine_takes_the_rows_of_a_call_without_guidance(load):
    words = ("backend=trt", "precision=fp16", "rules=open", "backend.batch_size=4",
             "backend.min_batch_size=2")  # fmt: skip
    cut = load(*words, "shortcut=deepcache_cutoff")
    for graph in graphs.unets(cut.shortcut):
        assert engines.rows(cut, graph, 2) == (2, 8, 8)
    assert engines.rows(cut, "vae_decoder", 2) == (2, 4, 4)
    gated = load(*words, "shortcut=deepcache_tgate", "backend.min_batch_size=null",
                 "backend.static_batch=true")  # fmt: skip
    found = {graph: engines.rows(gated, graph, 2) for graph in graphs.unets(gated.shortcut)}
    assert list(found.values()) == [(8, 8, 8), (8, 8, 8), (4, 4, 4), (4, 4, 4)]


def test_auto_takes_what_is_installed_and_fits(trt, machine):
    both = (Flavor.tensorrt, Flavor.rtx)
    for libraries, device, wanted in (
        (both, H100, Flavor.tensorrt),
        (both, None, Flavor.rtx),
        ((Flavor.rtx,), RTX4090, Flavor.rtx),
        ((Flavor.tensorrt,), None, Flavor.tensorrt),
        ((), None, Flavor.tensorrt),
    ):
        machine(*libraries, device=device)
        assert engines.choose(trt()) is wanted
    assert engines.choose(trt(flavor=Flavor.rtx)) is Flavor.rtx


def test_targets_are_those_asked_for_or_this_gpus_or_what_the_format_needs(trt, load, machine):
    machine(Flavor.rtx)
    assert engines.targets(trt()) == ["sm80", "sm86", "sm89", "sm120"]
    assert engines.targets(load("backend=trt", "quant=fp8")) == ["sm89", "sm120"]
    machine(Flavor.rtx, device=RTX4090)
    assert engines.targets(trt()) == ["sm89"]
    asked = trt(compute_capabilities=["sm120", "sm75", "sm120"])
    assert engines.targets(asked) == ["sm75", "sm120"]


def test_convolutions_as_products_are_refused_before_anything_is_built(trt):
    config = trt()
    assert not list(rules_engines.problems_of(config))
    config.export.convolutions = Convolutions.product
    (problem,) = rules_engines.problems_of(config)
    assert problem.fix == "export.convolutions=conv"


def test_without_a_gpu_run_says_what_can_be_done_here(trt, machine):
    machine(Flavor.rtx)
    (problem,) = rules_engines.missing(trt())
    assert problem.what == "backend=trt needs an NVIDIA GPU to run on"
    assert problem.got == "no driver"
    assert "export.py backend=trt backend.flavor=rtx" in problem.fix
    assert "backend=ort" in problem.fix
    assert not list(rules_engines.missing(trt(), run=False))  # but RTX engines can be built


def test_a_missing_library_is_named_with_the_line_that_installs_it(trt, machine):
    machine()
    library, device = rules_engines.missing(trt())
    assert library.got == "no module `tensorrt` or `tensorrt_rtx`"
    assert ".[rtx]" in library.fix
    assert "GPU" in device.what
    machine(device=H100)
    (library,) = rules_engines.missing(trt())
    assert ".[trt]" in library.fix
    machine(Flavor.tensorrt, device=H100)
    library, _ = rules_engines.missing(trt(flavor=Flavor.rtx))  # nor does RTX list this GPU
    assert library.got == "no module `tensorrt_rtx`"


def test_a_gpu_that_rtx_does_not_list_is_refused_unless_targets_are_named(trt, machine):
    machine(Flavor.rtx, device=H100)
    (problem,) = rules_engines.missing(trt())
    assert problem.got == "NVIDIA H100 80GB HBM3, sm90"
    assert "backend.compute_capabilities=[sm80]" in problem.fix
    assert not list(rules_engines.missing(trt(compute_capabilities=["sm80"])))


def test_the_hardware_gate_gives_the_reason(load, machine):
    machine(Flavor.tensorrt, device=A100)
    (problem,) = rules_engines.missing(load("backend=trt", "quant=fp8"))
    assert problem.expected == "FP8 tensor cores exist from sm89 (Ada, Hopper)"
    assert problem.got == "NVIDIA A100-SXM4-40GB, sm80"
    machine(Flavor.tensorrt, device=H100)
    assert not list(rules_engines.missing(load("backend=trt", "quant=fp8")))


def test_a_torch_without_cuda_is_found_before_the_build(trt, machine):
    machine(Flavor.tensorrt, device=H100, torch="2.13.0+cpu")
    assert said(rules_engines.missing(trt())) == [
        "this PyTorch cannot reach the GPU, and TensorRT works in its buffers"
    ]
    assert not list(rules_engines.missing(trt(), run=False))


def test_run_stops_before_any_build(cli, monkeypatch):
    done = cli("backend=trt", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.code == 2
    assert "needs an NVIDIA GPU" in done.err
    assert "building" not in done.err + done.out
    assert "exporting" not in done.err + done.out
    assert not (done.dir / "worker.log").exists()


def test_the_gpu_is_the_first_that_cuda_would_show(monkeypatch):
    for hidden in ("", "-1", " "):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpu.find() == (None, "CUDA_VISIBLE_DEVICES hides every GPU")
    assert H100.target == "sm90"
    assert all(target in engines.RTX_TARGETS for target in engines.USUAL_TARGETS)
    assert set(graphs.GRAPHS) == {"text_encoder", "text_encoder_2", "unet", "vae_decoder"}
