"""Figures by prompt in every view: what is told apart, flips, what would tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sdxl.core.types import Prompt
from sdxl.quality.per_prompt import ANSWER, NUMBER, PerPrompt
from sdxl.report import apart, command, text
from sdxl.report.cells import Cells, load
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from tests.sweep_of_records import put, quantized, record

PROMPTS = [Prompt(row, f"a scene, number {row}", row) for row in range(64)]
BASE = np.random.default_rng(0).normal(30, 2, 64)
RIGHT = np.array([1.0] * 48 + [0.0] * 16)


def cell(folder: Path, made: dict, decibels: np.ndarray, right: np.ndarray, seed: int = 0) -> Path:
    """A record with these figures of 64 prompts beside it."""
    table = PerPrompt(PROMPTS)
    figures = {"psnr_db": [*decibels], "shape": [*right]}
    table.take(range(64), figures, {"psnr_db": NUMBER, "shape": ANSWER})
    folder.mkdir(parents=True, exist_ok=True)
    made["quality"]["per_prompt"] = table.write(folder)
    made["config"]["seed"] = seed
    return put(folder, made, None)


@pytest.fixture
def three(tmp_path: Path) -> Cells:
    """Level 1; level 2, equal to it but for noise; level 3, one dB and twelve answers worse."""
    baseline = put(tmp_path / "0" / "baseline", record(2.0), None)
    noise = np.random.default_rng(1).normal(0, 0.5, 64)
    noise += 0.01 - noise.mean()
    lost = np.where(np.arange(64) < 12, 0.0, RIGHT)
    for count, (decibels, right) in enumerate(
        ((BASE, RIGHT), (BASE + noise, RIGHT), (BASE - 1 + noise, lost))
    ):
        made = quantized(5.0 - count, 1 + count, 0.8, float(decibels.mean()), baseline)
        cell(tmp_path / str(count), made, decibels, right)
    return load([tmp_path])


def test_cells_are_told_apart_by_their_prompts(three: Cells):
    one, two, three_ = (c for c in three.cells if c.quantized)
    assert apart.alike(one, two) and apart.alike(two, one)
    assert not apart.alike(one, three_)


def test_every_view_says_worse_equal_flips_and_what_would_tell(three: Cells, capsys):
    (group,) = text.data(three, Limits())["groups"]
    by_cell = {row["cell"]: row for row in group["by_prompt"]}
    best = group["best"]
    _, two, worse = (c.number for c in three.cells if c.quantized)
    assert by_cell[two]["beside"] == best
    told = {each["metric"]: each for each in by_cell[worse]["figures"]}
    assert told["psnr_db"]["verdict"] == told["shape"]["verdict"] == "worse"
    assert (told["shape"]["right_to_wrong"], told["shape"]["wrong_to_right"]) == (12, 0)
    assert told["shape"]["p_value"] == pytest.approx(2 / 2**12)
    near = by_cell[two]["figures"][0]
    assert near["verdict"] == "equal" and near["prompts_needed"] > 64
    assert group["cannot_be_told_apart"] == ["in quality: int8 level 1, int8 level 2"]
    text.show(three, Limits())
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for view in (shown, text.markdown(three, Limits()), page(three, Limits())):
        assert "12 right to wrong, 0 wrong to right, p 0.00049" in view
        assert "worse by 0.99" in view
        assert "the resolution of 64 prompts" in view
        assert f"{near['prompts_needed']:,} would tell" in view
    assert "PSNR of the runner-up is equal within" in page(three, Limits())


def test_diff_compares_prompt_by_prompt(three: Cells, capsys):
    one, _, worse = (c for c in three.cells if c.quantized)
    assert command.main(["diff", str(one.path), str(worse.path)]) == 0
    out = capsys.readouterr().out
    assert "12 right to wrong" in " ".join(out.split())
    line = json.loads(out.splitlines()[-1])
    assert [each["verdict"] for each in line["paired"]] == ["worse", "worse"]
    assert line["unpaired"] is None


def test_what_are_no_pairs_is_said(tmp_path: Path, capsys):
    for count in range(2):
        cell(tmp_path / str(count), record(2.0 + count), BASE, RIGHT, seed=count)
    one, other = load([tmp_path]).cells
    assert not apart.alike(one, other)
    assert command.main(["diff", *(str(c.path) for c in (one, other))]) == 0
    out = capsys.readouterr().out
    assert "`seed` differs" in out and json.loads(out.splitlines()[-1])["paired"] == []
    (other.path.parent / "prompts.json").write_text("{")
    assert not apart.alike(one, other), "a damaged file takes no report away"


def test_further_metrics_stand_among_the_scores_with_their_direction(tmp_path: Path):
    for count in range(2):
        made = record(2.0 + count)
        made["quality"]["scores"] = {"extra": {
            "lpips": {"kind": "paired", "higher_is_better": False, "mean": 0.1 + count},
            "hps": {"kind": "single", "higher_is_better": True, "mean": 0.27},
            "cmmd": {"kind": "set", "higher_is_better": False}}}  # fmt: skip
        made["quality"]["reference"] = {"images": 3, "extra": {"cmmd": 0.5, "lpips": 0.1 + count}}
        made["config"]["precision"]["unet"] = ("fp16", "bf16")[count]
        put(tmp_path / str(count), made, None)
    found = load([tmp_path])
    head, rows = text.results(found.cells)
    shown = [[row[head.index(name)] for row in rows] for name in ("lpips ↓", "hps ↑", "cmmd ↓")]
    assert shown == [["0.1", "1.1"], ["0.27"] * 2, ["0.5"] * 2]
    assert "lpips ↓" in page(found, Limits()) and "lpips ↓" in text.markdown(found, Limits())
    assert text.data(found, Limits())["cells"][0]["scores"]["extra.lpips"] == pytest.approx(0.1)
