"""`plan=true`: what is missing, and the exit code that the run would have."""

from __future__ import annotations

import importlib
import json

import pytest

from sdxl.core.errors import OK, USER, ConfigError
from sdxl.run import export
from sdxl.run.doctor import preflight
from sdxl.run.plan import show_plan
from tests.model import folders


def test_missing_weights_are_said_and_end_it_as_they_would_end_the_run(load, tmp_path, capsys):
    config = load("model=sdxl", f"model.path={tmp_path}/nowhere", "limit=4", "plan=true")
    outcome = show_plan(config, tmp_path)
    out, err = capsys.readouterr()
    assert (outcome.status, outcome.exit_code) == ("failed", USER)
    assert outcome.figures["plan"]["missing"] == ["there is no folder or file with SDXL's weights"]
    assert "missing" in out and "TFLOP" in out, "the plan itself is shown all the same"
    assert "python -m sdxl download sdxl" in err


def test_a_missing_package_is_said(load, monkeypatch, capsys):
    module = importlib.import_module("sdxl.run.doctor.preflight")  # its function has its name
    monkeypatch.setattr(module, "installed", lambda name: name != "mlperf_loadgen")
    outcome = show_plan(load("backend=fake", "plan=true"))
    assert outcome.exit_code == USER and "LoadGen" in (outcome.reason or "")
    assert "pip install" in capsys.readouterr().err


def test_a_missing_gpu_is_said(load, capsys):
    from sdxl.core import gpu

    if gpu.find()[0]:
        pytest.skip("there is a GPU")
    outcome = show_plan(load("backend=trt", "plan=true"))
    assert outcome.exit_code == USER and "GPU" in (outcome.reason or "")


def test_nothing_missing_is_a_plan(load):
    outcome = show_plan(load("backend=fake", "plan=true"))
    assert outcome.exit_code == OK and "missing" not in outcome.figures["plan"]


def test_a_sweeps_plan_says_what_each_cell_lacks(cli, tmp_path):
    done = cli("-m", "model=sdxl", f"model.path={tmp_path},{tmp_path}/nowhere", "limit=2",
               "plan=true")  # fmt: skip
    assert done.code == 2 and (done.json["failed"], done.json["planned"]) == (2, 0)


def test_dpmpp_sde_without_its_package_is_said(load, monkeypatch):
    module = importlib.import_module("sdxl.run.doctor.preflight")
    monkeypatch.setattr(module, "installed", lambda name: name != "torchsde")
    assert module.preflight(load()) == []
    (problem,) = module.preflight(load("scheduler=dpmpp_sde", "rules=open"))
    assert "torchsde" in problem.what and "'.[sde]'" in problem.fix


def test_a_folder_of_dpmpp_sde_needs_its_package_too(load, monkeypatch, tmp_path):
    module = importlib.import_module("sdxl.run.doctor.preflight")
    monkeypatch.setattr(module, "installed", lambda name: name != "torchsde")
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"_class_name": "DPMSolverSDEScheduler"}')
    folder = ("model=sdxl", f"model.path={tmp_path}", "rules=open")
    assert "torchsde" in module.preflight(load(*folder))[0].what
    assert module.preflight(load(*folder, "scheduler=euler")) == []


def test_components_without_a_file_of_weights_are_said(load, tmp_path, capsys):
    folder = folders.folder(tmp_path / "mixed")
    words = ("model=sdxl", f"model.path={folder}", "rules=open", "plan=true")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    outcome = show_plan(load(*words))
    assert outcome.exit_code == USER
    assert outcome.figures["plan"]["missing"] == ["there is no whole plain file of unet"]
    assert "model.variant=fp16" in capsys.readouterr().err
    assert preflight(load(*words, "model.variant=fp16")) == []
    assert preflight(load(*words, "model.unet=elsewhere")) == []
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.bin"))
    (problem,) = preflight(load(*words, "model.variant=fp16"))
    assert problem.what == "there is no whole file of the variant fp16 of vae"
    assert "pickled" in str(problem.got)


def test_a_plan_of_an_export_checks_the_model_too(load, tmp_path):
    folder = folders.folder(tmp_path / "inpainting")
    config = folder / "unet/config.json"
    told = json.loads(config.read_text()) | {"in_channels": 9}
    config.unlink()
    config.write_text(json.dumps(told))
    words = ("model=sdxl", f"model.path={folder}", "rules=open", "backend=ort", "plan=true")
    with pytest.raises(ConfigError, match="an inpainting model"):
        export.run(load(*words), tmp_path)


def test_layers_that_compute_in_8_bits_hold_a_byte_a_weight(load):
    words = ("quant=int8", "quant_level=3", "rules=open")
    plain, real = (
        show_plan(load(*words, *more)).figures["plan"] for more in ([], ["backend.execution=real"])
    )
    share = next(row["parameter_share"] for row in real["levels"] if row["chosen"])
    saved = plain["weight_bytes"] - real["weight_bytes"]
    assert saved == pytest.approx(3 * share * real["parameters"]["unet"], abs=1)
