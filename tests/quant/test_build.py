"""From a configuration to a checkpoint in the store, to pictures; and the command."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.paths import ROOT
from sdxl.model import checkpoint
from sdxl.model.sources import open_source
from sdxl.quality import baseline
from sdxl.quant import build, calibrate, command, layer_errors
from sdxl.quant.statistics import load
from tests.quant.conftest import CALLS, FAST, make, with_quant

RECIPES = sorted(file.stem for file in (ROOT / "conf/quant").glob("*.yaml"))


@pytest.fixture
def no_calibration(monkeypatch):
    monkeypatch.setattr(calibrate, "_calibrate", lambda *_: pytest.fail("calibrated again"))


def test_a_grid_costs_one_calibration(config, statistics, warm_store, no_calibration):
    keys = set()
    for level in (1.0, 3.0):
        for alpha in (0.5, 1.0):
            made = build.prepare(with_quant(config, level=level, alpha=alpha))
            keys.add(made.manifest.key)
            assert made.manifest.parents == [calibrate.get(config).manifest.key]
    assert len(keys) == 3  # at level 1, alpha changes nothing


def test_a_checkpoint_is_found_again(config, statistics, warm_store, monkeypatch):
    made = build.prepare(config)
    monkeypatch.setattr(build, "_quantized", lambda *_: pytest.fail("built again"))
    assert build.prepare(config).path == made.path
    assert made.manifest.settings["layers"] == {"conv": 26, "linear": 88, "attention": 0}
    assert made.manifest.versions["nvidia-modelopt"]


def test_weight_only_needs_no_calibration(warm_store, no_calibration):
    assert build.prepare(make("quant=int8_weight_only")).manifest.parents == []


def test_building_can_be_forbidden(store_at):
    with pytest.raises(UserError, match="building is switched off") as caught:
        build.prepare(make("quant=int8", "quant.calib_size=2", "alpha=0.6", "build=never"))
    (problem,) = caught.value.problems
    assert problem.fix == "build=auto, or first quantize.py with the same settings"


def test_nothing_to_quantize(store_at):
    with pytest.raises(UserError, match="nothing to quantize"):
        build.prepare(make("quant=none"))


def test_modelopts_own_checkpoint_on_request(config, statistics, warm_store):
    made = build.prepare(with_quant(config, modelopt=True))
    own = store.find(build.MODELOPT_KIND, made.manifest.key)
    assert own and (own.path / build.MODELOPT_FILE).is_file()
    assert made.path == build.prepare(config).path


def test_statistics_from_a_file(config, statistics, warm_store, tmp_path, no_calibration):
    file = tmp_path / "mine.safetensors"
    statistics.save(file)
    made = build.prepare(make("quant=int8", f"quant.statistics={file}"))
    assert made.manifest.parents == [store.sha256(file)]
    weights = made.path / "unet.safetensors"
    ours = build.prepare(config).path / "unet.safetensors"
    assert weights.read_bytes() == ours.read_bytes()
    foreign = copy.deepcopy(statistics)
    foreign.settings["model"]["weights"]["seed"] = 7
    foreign.save(file)
    with pytest.raises(UserError, match="another model"):
        build.prepare(make("quant=int8", f"quant.statistics={file}"))
    with pytest.raises(UserError, match="is not there"):
        build.prepare(make("quant=int8", "quant.statistics=nowhere.safetensors"))


def test_a_truncated_tuned_checkpoint_is_not_copied(store_at, tmp_path):
    words = "quant=int8_weight_only"
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint.write(folder, [], {"conv_in.bias": torch.zeros(100)})
    facts = {"checkpoint": build.key_of(make(words)), "settings": {}}
    (folder / checkpoint.TUNED).write_text(json.dumps(facts))
    config = make(words, f"quant.tuned={folder}")
    weights = (folder / checkpoint.WEIGHTS).read_bytes()
    (folder / checkpoint.WEIGHTS).write_bytes(weights[:-10])
    with pytest.raises(UserError, match=r"`quant\.tuned` is damaged") as caught:
        build.prepare(config)
    assert str(folder) in str(caught.value) and "rm -r" not in str(caught.value)
    assert not list(store_at.glob("checkpoint/*/manifest.json"))


def test_a_bad_unet_of_ones_own_is_not_the_stores_fault(store_at, tmp_path):
    unet = open_source(make().model, 0).component("unet", torch.float32, torch.device("meta"))
    unet.save_config(tmp_path / "unet")
    with pytest.raises(UserError, match=r"`model\.unet` cannot be loaded") as caught:
        build.prepare(make("quant=int8_weight_only", f"model.unet={tmp_path / 'unet'}"))
    assert str(tmp_path / "unet") in str(caught.value) and str(store_at) not in str(caught.value)


def test_plan_builds_nothing(store_at):
    rows = build.plan(make("quant=fp8_mha", "calib_size=4", "plan=true"))
    assert [row["level"] for row in rows] == [1, 2, 2.5, 3, 4]
    assert [row["chosen"] for row in rows] == [False] * 4 + [True]
    assert {row["checkpoint"] for row in rows} == {False}
    assert not store_at.exists()


def test_plan_knows_what_is_there(config, statistics, warm_store):
    build.prepare(config)
    rows = build.plan(config)
    assert all(row["statistics"] for row in rows)
    assert next(row for row in rows if row["chosen"])["checkpoint"]


def test_plan_of_sdxl_needs_no_weights(store_at):
    rows = build.plan(
        make("model=sdxl", "model.path=./nowhere", "plan=true", "quant=int8",
             "model.height=1024", "model.width=1024")
    )  # fmt: skip
    assert [f"{row['mac_share']:.1%}" for row in rows] == ["23.0%", "64.7%", "79.4%", "87.4%"]
    assert {row["checkpoint"] for row in rows} == {None}


def test_layer_report(config, statistics, warm_store):
    made = build.prepare(with_quant(config, level=3.0))
    rows = layer_errors.layer_report(with_quant(config, level=3.0), made)
    assert len(rows) == 26 + 124
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0 and errors[0] < 0.2
    assert layer_errors.layer_report(with_quant(config, report_prompts=0), made) == []


def generator(config, checkpoint=None):
    from sdxl.backends.torch import BACKEND
    from sdxl.model.prompts import load as load_prompts
    from sdxl.model.sampler import Sampler
    from sdxl.model.sources import open_source

    artifacts = {"unet": checkpoint.path} if checkpoint else {}
    stages = BACKEND.open(config, artifacts)
    prompts = load_prompts(config.dataset, limit=2)
    return Sampler(stages, open_source(config.model, config.seed), config, prompts)


def test_a_quantized_model_draws_nearly_the_same_pictures(config, statistics, warm_store):
    plain = generator(make("quant=none"))
    images = plain.generate([0, 1])
    quantized = generator(config, build.prepare(config))
    assert quantized.describe()["quantization"] == "int8"
    assert quantized.describe()["simulated"]
    verdict = baseline.compare(images, quantized.generate([0, 1]))
    assert verdict["images"] == 2
    assert verdict["max_deviation"] > 0
    assert verdict["psnr_db"] > 15


def test_all_recipes_can_be_planned(store_at):
    for recipe in RECIPES:
        text = (ROOT / f"conf/quant/{recipe}.yaml").read_text()
        first = text.splitlines()[0]
        assert re.match(r"# \S.+   python (run|quantize)\.py ", first), recipe
        config = make(f"quant={recipe}", "plan=true")
        rows = build.plan(config)
        assert bool(rows) == (recipe not in ("auto", "none")), recipe


def test_command_outcome(config, statistics, warm_store, tmp_path, capsys):
    outcome = command.run(config, tmp_path).line()
    assert outcome["status"] == "ok" and outcome["exit_code"] == 0
    assert outcome["worst_layer"]["error"] > 0
    assert json.dumps(outcome)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_command_line(tmp_path):
    words = ["quant=int8", "quant_level=2.5", "percentile=0.5", "calib_size=2", *FAST]
    done = subprocess.run(
        [sys.executable, "quantize.py", *words, f"hydra.run.dir={tmp_path}"], cwd=ROOT,
        capture_output=True, text=True, timeout=250,
        env={"SDXL_STORE": str(tmp_path / "store"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path),
             "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["layers"] == {"conv": 26, "linear": 88, "attention": 0}
    assert "calibration: 2/2" in done.stderr
    assert "relative output error" in done.stderr


def test_identical_pictures_are_identical():
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    verdict = baseline.compare(image, image)
    assert verdict["psnr_db"] is None and verdict["identical"] == 2
    assert verdict["ssim"] == pytest.approx(1)
    assert verdict["max_deviation"] == 0


def test_baseline_figures_by_hand():
    one = np.zeros((1, 32, 32, 3), np.uint8)
    other = one.copy()
    other[0, :, :, 0] = 51  # a fifth of the range in a third of the values
    verdict = baseline.compare(one, other)
    assert verdict["max_deviation"] == 51
    assert verdict["psnr_db"] == pytest.approx(-10 * np.log10(0.04 / 3), abs=1e-6)
    with pytest.raises(ValueError, match="pairs"):
        baseline.compare(one, other[:0])


def test_loading_keeps_the_tables(statistics, tmp_path):
    statistics.save(tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.calls == CALLS
    assert torch.equal(again.per_tensor, statistics.per_tensor)
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
