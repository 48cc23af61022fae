"""`train.py` as typed: what it plans, and mistakes it names."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from sdxl.config import rules_train as rules
from sdxl.config.choices import DType
from sdxl.config.load import load as checked
from sdxl.core import disk
from sdxl.core.errors import SdxlError, UserError
from sdxl.training import command, kept, loop, mllog
from sdxl.training.data import scene_data
from sdxl.training.stages import unet, vae


def test_the_plan_says_what_is_done_and_trains_nothing(cli, tmp_path):
    done = cli("train=unet", "plan=true", script="train.py")
    assert done.code == 0, done.err
    assert done.json["plan"]["steps_done"] == 0
    assert done.json["plan"]["samples"] == done.json["plan"]["steps"] * 32
    assert not (tmp_path / "store" / "training").exists()


def test_mistakes_are_named_with_the_line_to_type(cli):
    wrong = cli("train=vae", "train.size=60", script="train.py")
    assert wrong.code == 2 and "multiple of 8" in wrong.err
    never = cli("train=vae", "train.evaluate_every=0", script="train.py")
    assert never.code == 2 and "evaluate_every" in never.err
    few = cli("train=clip", "train.scenes=100", script="train.py")
    assert few.code == 2 and "more than the 512" in few.err
    unknown = cli("train=vea", script="train.py")
    assert unknown.code == 2 and "vae" in unknown.err
    many = cli("train=vae", "train.clip_norm=-1", "train.ema=1", "train.decay_share=2",
               "train.lr=0", script="train.py")  # fmt: skip
    assert many.code == 2
    for said in ("4 problems", "`train.clip_norm`", "`train.ema`", "`train.decay_share`",
                 "`train.lr`"):  # fmt: skip
        assert said in many.err
    ignored = cli("train=vae", "quant=int8", script="train.py")
    assert ignored.code == 2 and "`quant` would be ignored" in ignored.err


def test_other_settings_are_refused_before_anything_is_written(composed, tmp_path, monkeypatch):
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=1", "train.batch=2")
    given = checked(composed(*words, "train.restart=false", "tracking=off", name="train"))
    command.run(given, tmp_path)
    folder = tmp_path / "store" / "training" / "smoke" / "vae"
    before = {file: file.read_bytes() for file in folder.glob("*.*") if file.is_file()}
    other = dataclasses.replace(given, train=dataclasses.replace(given.train, lr=0.5))
    with pytest.raises(UserError, match="other settings: lr"):
        command.run(other, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(vae.Stage, "identity", {"look": -1})  # scenes are drawn otherwise now
        with pytest.raises(UserError, match="other settings: look"):
            command.run(given, tmp_path)
    assert {file: file.read_bytes() for file in before} == before
    half = dataclasses.replace(given.train, arithmetic=DType.fp16)
    with pytest.raises(UserError, match="loss scaling"):
        rules.check(half)
    with pytest.raises(UserError, match="not of the chosen file"):
        rules.check(dataclasses.replace(given.train, name="qat"))


def test_a_disk_that_cannot_hold_a_checkpoint_is_named_before_a_step(
    composed, tmp_path, monkeypatch
):
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=1", "train.batch=2")
    given = checked(composed(*words, "train.restart=false", "tracking=off", name="train"))
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(disk, "SMALL_BYTES", 1)
    with monkeypatch.context() as patch, pytest.raises(SdxlError, match="too full") as caught:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        command.run(given, tmp_path)
    folder = tmp_path / "store/training/smoke/vae"
    assert [file.name for file in folder.iterdir()] == [".lock"], "nothing is written"
    command.run(given, tmp_path)
    written = [file for file in folder.rglob("*.safetensors") if file.is_file()]
    said = float(caught.value.problems[0].expected.split()[1]) * 1e9
    assert said == pytest.approx(sum(file.stat().st_size for file in written), rel=0.1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    command.run(given, tmp_path)  # done: it needs no more room


@pytest.mark.slow
def test_stages_follow_each_other_in_one_command(cli, tmp_path):
    """The first in bf16, the second in fp32, of which the third takes captions and pictures."""
    few = ("train.scenes=514", "train.size=32", "train.steps=1", "train.batch=2", "train.run=three",
           "train.compile=false")  # fmt: skip
    done = cli("-m", "train=vae,clip,unet", *few, script="train.py", timeout=400)
    assert done.code == 0, done.err
    assert done.json["cells"] == done.json["ok"] == 3
    for stage in ("vae", "clip", "unet"):
        assert (tmp_path / "store/training/three" / stage / "model").is_dir()


def test_a_run_that_was_stopped_is_no_success_in_the_log(composed, tmp_path, monkeypatch):
    """The program's first job began with the program, its others when they did."""
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=9", "train.batch=2")
    given = checked(composed(*words, "train.max_s=0", "tracking=off", name="train"))
    monkeypatch.setattr(command, "_first", [1000])
    moments = []
    for _ in range(2):
        before = mllog.now_ms()
        command.run(given, tmp_path)
        lines = (tmp_path / "store/training/smoke/vae/mllog.txt").read_text().splitlines()
        said = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
        moments += [line["time_ms"] for line in said if line["key"] == "init_start"]
    assert moments[0] == 1000 and len(moments) == 2 and moments[1] >= before
    assert {line["key"]: line["value"] for line in said}["train_samples"] == 2
    origin = {name: said[-1]["metadata"].pop(name) for name in ("file", "lineno")}
    assert said[-1]["key"] == "run_stop" and said[-1]["metadata"] == {"status": "aborted"}
    assert origin["file"] == "sdxl/training/mllog.py"


def test_a_compiled_training_says_that_its_first_step_takes_long(
    composed, tmp_path, monkeypatch, capsys
):
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=1", "train.batch=2")

    def begins(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", begins)
    for said in (False, True):
        given = composed(*words, "tracking=off", f"train.compile={said}", name="train")
        with pytest.raises(KeyboardInterrupt):
            command.run(checked(given), tmp_path)
        assert ("the first step compiles" in capsys.readouterr().err) is said


def test_a_stage_out_of_its_turn_is_named_before_anything_is_made(composed, monkeypatch):
    monkeypatch.setattr(scene_data, "pictures", lambda *_: pytest.fail("rendered"))
    given = checked(composed("train=unet", "tracking=off", name="train")).train
    with pytest.raises(UserError, match="stage `clip` of run"):
        unet.Stage(given, 0)
    monkeypatch.setattr(scene_data, "tokenizers", lambda _: (None, None))
    monkeypatch.setattr(unet.Stage, "_network", lambda _: None)
    with pytest.raises(UserError, match="stage `vae` of run"):
        unet.Stage(given, 0)


def test_a_log_has_each_step_once_after_a_kill(composed, tmp_path):
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=1", "train.batch=2")
    given = checked(composed(*words, "train.restart=false", "tracking=off", name="train"))
    command.run(given, tmp_path)
    log = tmp_path / "store" / "training" / "smoke" / "vae" / "log.jsonl"
    with log.open("a") as stream:  # steps after the last checkpoint, the last one half written
        stream.write('{"kind": "step", "step": 2, "loss": -1}\n{"kind": "st')
    longer = dataclasses.replace(given, train=dataclasses.replace(given.train, steps=2))
    command.run(longer, tmp_path)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("step", 1), ("evaluation", 1), ("step", 2), ("evaluation", 2),
    ]  # fmt: skip
    assert lines[2]["loss"] > 0


def test_a_finished_training_typed_again_changes_nothing_and_one_command_has_a_folder(
    composed, tmp_path
):
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=1", "train.batch=2")
    given = checked(composed(*words, "train.restart=false", "tracking=off", name="train"))
    first = command.run(given, tmp_path)
    folder = tmp_path / "store" / "training" / "smoke" / "vae"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    half = folder / ".model.17" / "vae", folder / "series" / ".step_num=1-samples_count=2.17"
    for left in half:
        left.mkdir(parents=True)
    (folder / f".{loop.FILE}.17").write_text("half")
    (folder / "series" / "step_num=2-samples_count=4").mkdir()
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="another command is writing"):
        command.run(given, tmp_path)
    assert (folder / "series" / "step_num=2-samples_count=4").is_dir()
    again = command.run(given, tmp_path)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert not any(left.exists() for left in half)
    assert again.record == first.record and again.figures["loss"] == first.figures["loss"]
    assert again.figures["resumed_at"] == again.figures["step"] == 1


def test_a_training_begun_anew_does_not_keep_the_figures_of_the_one_before(
    composed, tmp_path, monkeypatch
):
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=1", "train.batch=2")
    given = checked(composed(*words, "train.restart=false", "tracking=off", name="train"))
    first = command.run(given, tmp_path)
    anew = dataclasses.replace(given, train=dataclasses.replace(given.train, restart=True))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kept, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        command.run(anew, tmp_path)  # killed when all but its record is written
    assert not Path(first.record).exists()
    second = command.run(given, tmp_path)
    assert second.record == first.record and Path(second.record).is_file()
    assert second.figures["psnr_db"] == first.figures["psnr_db"], "its weights are evaluated again"
