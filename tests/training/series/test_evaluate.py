"""`evaluate=FOLDER`: scores that do not depend on who drew what, and where a log then ends."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

from sdxl.core import store
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.progress import Progress, silent
from sdxl.training import mllog
from sdxl.training.series import evaluate, parts, weights
from tests.conftest import ROOT
from tests.training.test_mllog import accepted

LOOK = Progress("evaluate", silent)


def job(config, series, *words):
    given = config(f"evaluate={series}", *words)
    return evaluate.opened(given, series, *weights.found(series))


def scores(job, world):
    """Of the first weights, as `world` processes would find them."""
    kept = job.series[0]
    done = evaluate.drawn(job, kept)
    for rank in range(world):
        evaluate.draw(job, kept, done, (rank, world), LOOK)
    return evaluate.added_up(job, kept)


def test_the_number_of_processes_changes_nothing(config, series):
    given = job(config, series)
    one = scores(given, 1)
    for world in (2, 3):
        assert scores(given, world) == pytest.approx(one, rel=1e-4)
    kept = given.series[0]
    evaluate.draw(given, kept, set(), (1, 2), LOOK)  # the other process was killed
    done = evaluate.drawn(given, kept)
    assert done == {1, 3, 5, 7}
    part = next((given.folder / kept.folder.name).rglob(parts.PATTERN))
    part.with_name(f".{part.name}.99.npz").write_bytes(b"half of one")  # killed while it wrote it
    for rank in range(3):  # and three go on
        evaluate.draw(given, kept, done, (rank, 3), LOOK)
    assert evaluate.added_up(given, kept) == pytest.approx(one, rel=1e-4)
    assert [file.name for file in (given.folder / kept.folder.name).iterdir()] == [evaluate.SCORES]
    evaluate.draw(given, kept, set(), (0, 2), LOOK)
    with pytest.raises(UserError, match="5 of 9"):
        evaluate.added_up(given, kept)


def test_one_command_at_a_time_scores(config, series, monkeypatch):
    given = job(config, series)
    monkeypatch.setattr(evaluate, "opened", lambda *_: given)
    monkeypatch.setattr(evaluate, "_scored", lambda *_: pytest.fail("drawn"))
    given.folder.mkdir(parents=True)
    held = pytest.raises(UserError, match="another command")
    with FileLock(given.folder / ".lock"), held as caught:
        evaluate.run(given.config, [])
    assert caught.value.problems[0].fix == "the same command again, once that one has ended"


def test_the_joined_log_is_written_before_another_command_may_score(config, series, monkeypatch):
    given = job(config, series)

    def told(*_):
        with pytest.raises(Timeout):
            FileLock(given.folder / ".lock").acquire(timeout=0)
        return {"written": True}

    monkeypatch.setattr(evaluate, "opened", lambda *_: given)
    monkeypatch.setattr(evaluate, "_scored", lambda *_: {"FID": 1.0, "CLIP": 1.0})
    monkeypatch.setattr(evaluate, "_told", told)
    assert evaluate.run(given.config, []).figures == {"written": True}


def test_a_picture_is_of_its_prompt_not_of_its_batch(config, series):
    given = job(config, series)
    given.pictures.load(given.series[0].folder)
    together = given.pictures.draw(given.prompts)
    alone = given.pictures.draw(given.prompts[6:7])
    assert abs(together[6].astype(int) - alone[0]).max() <= 1
    assert abs(together[6].astype(int) - together[5]).max() > 20


def test_captions_that_were_padded_have_the_scores_of_those_that_were_not(
    config, series, training_files, tmp_path
):
    rows = [f"{n + 40}\t{n + 1}\tthe cat and {n} caps" for n in range(9)]
    for kept in weights.found(series)[0][1:]:
        kept.folder.unlink()
    found = []
    for name, fill in (("plain", []), ("padded", [rows[-1].replace("\t9\t", "\t0\t")] * 7)):
        path = tmp_path / f"{name}.tsv"
        path.write_text("\n".join(["image_id\tid\tcaption", *rows, *fill]) + "\n")
        words = (*training_files, "dataset=coco_30k", f"dataset.path={path}")
        line = evaluate.run(config(f"evaluate={series}", *words, "train.eval_steps=1"), ()).line()
        assert line["fillers"] == len(fill) and line["pictures"] == 9
        found.append(line["scored"])
    assert found[0] == found[1]
    with pytest.raises(UserError, match=r"train\.eval_prompts=9"):
        job(config, series, *words, "train.eval_prompts=16")


@pytest.mark.parametrize(("scores", "step", "points"), [
    ({2: (200, 0.05), 4: (80, 0.2), 6: (70, 0.3)}, 4, 2),
    ({2: (80, 0.2), 4: (95, 0.2), 6: (70, 0.3)}, 2, 2),  # the log's rules want two
    ({2: (80, 0.1), 4: (95, 0.2), 6: (89, 0.15)}, 6, 3),
    ({2: (200, 0.1), 4: (95, 0.2), 6: (89, 0.14)}, None, 3),
])  # fmt: skip
def test_the_log_ends_at_the_first_weights_that_pass(
    config, series, training_files, monkeypatch, scores, step, points
):
    given = {
        n: dict(zip(("FID", "CLIP"), map(float, each), strict=True)) for n, each in scores.items()
    }
    monkeypatch.setattr(evaluate, "added_up", lambda _, kept: given[kept.step])
    monkeypatch.setattr(evaluate, "draw", lambda *_: None)
    words = ("dataset=builtin", *training_files)
    line = evaluate.run(config(f"evaluate={series}", *words), ()).line()
    assert len(line["scored"]) == points and line["not_scored"] == 3 - points
    told = [
        json.loads(text.removeprefix(mllog.MARK))
        for text in Path(line["log"]).read_text().splitlines()
    ]
    keys = [each["key"] for each in told]
    assert keys.count("run_stop") == 1
    assert {each["key"]: each["value"] for each in told}["eval_samples"] == 9
    assert accepted(line["log"]) == (step is not None)
    if step is None:
        assert line["passed"] is None and told[-1]["metadata"]["status"] == "aborted"
        return
    stop = told[keys.index("run_stop")]
    assert line["passed"] == {"step": step, "samples": 16 * step}
    ends = {each["metadata"]["samples_count"]: each["time_ms"] for each in told
            if each["key"] == "block_stop"}  # fmt: skip
    assert stop["time_ms"] == ends[16 * step] == max(ends.values())
    assert stop["metadata"]["status"] == "success"
    after = told[keys.index("run_stop") + 1 :]
    assert {each["key"] for each in after} <= {"eval_accuracy"}
    assert len(after) == (2 if step == 2 else 0)
    assert line["minutes_to_target"] == pytest.approx((ends[16 * step] - 2_000) / 60e3)


def test_own_scores_have_no_target(config, series, monkeypatch):
    monkeypatch.setattr(evaluate, "added_up", lambda *_: {"FID": 0.0, "CLIP": 1.0})
    monkeypatch.setattr(evaluate, "draw", lambda *_: None)
    line = evaluate.run(config(f"evaluate={series}"), ()).line()
    assert line["passed"] is None and line["targets"] is None and len(line["scored"]) == 3


def test_scores_are_kept_for_the_weights_that_they_are_of(config, series, monkeypatch):
    given = config(f"evaluate={series}")
    line = evaluate.run(given, ()).line()
    monkeypatch.setattr(evaluate, "draw", lambda *_: pytest.fail("drawn again"))
    again = evaluate.run(given, ()).line()
    assert again["scored"] == line["scored"]
    first, last = weights.found(series)[0][::2]
    last.folder.unlink()
    shutil.copytree(first.folder, last.folder)
    with pytest.raises(pytest.fail.Exception):
        evaluate.run(given, ())


def test_scores_are_kept_for_what_the_files_hold_not_for_their_names(
    config, series, training_files, tmp_path
):
    captions, statistics = tmp_path / "captions.tsv", tmp_path / "statistics.npz"
    captions.write_text("caption\n" + "a cat\n" * 9)
    published = next(word for word in training_files if ".statistics=" in word).partition("=")[2]
    shutil.copy(published, statistics)
    words = (*training_files, f"quality.statistics={statistics}", "dataset=coco_30k",
             f"dataset.path={captions}")  # fmt: skip
    folders = [job(config, series, *words).folder for _ in range(2)]
    captions.write_text("caption\n" + "a dog\n" * 9)
    folders.append(job(config, series, *words).folder)
    with np.load(published) as stored:
        np.savez(statistics, mu=stored["mu"] + 1, sigma=stored["sigma"])
    folders.append(job(config, series, *words).folder)
    assert folders[0] == folders[1] and len({*folders}) == 3


def test_scores_of_before_are_taken_over_where_no_file_has_changed_since(
    config, series, training_files, tmp_path, monkeypatch
):
    captions = tmp_path / "captions.tsv"
    captions.write_text("caption\n" + "a cat\n" * 9)
    words = (*training_files, "dataset=coco_30k", f"dataset.path={captions}")
    given = job(config, series, *words)
    monkeypatch.setattr(evaluate, "opened", lambda *_: given)
    monkeypatch.setattr(evaluate, "draw", lambda *_: None)
    monkeypatch.setattr(evaluate, "added_up", lambda *_: {"FID": 9.0, "CLIP": 0.0})
    before = given.folder.with_name(evaluate._key(given.config, []))
    assert before != given.folder

    def scored():
        line = evaluate.run(given.config, ()).line()
        return [each["FID"] for each in line["scored"]]

    for change, expected in (
        (lambda: None, 200.0),
        (lambda: os.utime(captions, (1, 1)), 9.0),  # a copy with the date of its original
    ):
        shutil.rmtree(given.folder, ignore_errors=True)
        for kept in given.series:
            (before / kept.folder.name).mkdir(parents=True)
            facts = {"FID": 200.0, "CLIP": 0.1, "weights": store.fingerprint(kept.folder)}
            store.write_json(before / kept.folder.name / evaluate.SCORES, facts)
        time.sleep(0.02)  # a file system's clock
        change()
        assert scored() == [expected] * 3


def test_mistakes_are_named(config, series, tmp_path):
    captions = tmp_path / "captions.tsv"
    captions.write_text("caption\n" + "a cat\n" * 9)
    for words, said in (
        (["quality=fast"], "no scores of a training benchmark"),
        (["dataset=coco_30k", f"dataset.path={captions}"], "know captions of scenes only"),
        (["quality=mlperf_training"], "ViT-H-14"),
    ):
        with pytest.raises((UserError, ConfigError), match=said):
            job(config, series, *words)
    facts = json.loads((series / "series/series.json").read_text())
    weights.begin(series, {**facts, "parts": "another"}, 9)
    with pytest.raises(UserError, match="other parts beside its UNet"):
        job(config, series)
    weights.begin(series, {**facts, "stage": "finetune"}, 9)
    with pytest.raises(UserError, match="another stage"):
        job(config, series)
    for stage, fix in (("lora", "-m model=tiny 'model.lora="), ("vae", None)):
        weights.begin(series, {**facts, "stage": stage, "words": ["quant=int8"]}, 9)
        with pytest.raises(UserError, match="not for train=") as caught:
            evaluate.run(config(f"evaluate={series}"), [f"evaluate={series}"])
        said = caught.value.problems[0].fix
        assert said == fix or (fix in said and said.count("step_num=") == 3)
    with pytest.raises(ConfigError, match=r"`train\.lr` would be ignored"):
        evaluate.run(config(f"evaluate={series}"), ["train.lr=1"])


@pytest.mark.slow
def test_two_processes_have_the_scores_of_one(series, cli):
    words = ["train=sd2_mlperf", f"evaluate={series}", "train.eval_prompts=7"]
    alone = cli(*words, script="train.py", timeout=300)
    assert alone.code == 0, alone.err
    folder = next((series / evaluate.FOLDER).iterdir())
    shutil.move(folder, series / "alone")
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29715"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    pair = subprocess.run(
        [sys.executable, *command, "train.py", *words],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert pair.returncode == 0, pair.stderr[-3000:]
    line = json.loads(pair.stdout.splitlines()[-1])
    for one, other in zip(alone.json["scored"], line["scored"], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert not list(folder.rglob(parts.PATTERN))
