"""Two records side by side: what differs, and what is only noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdxl.report import command
from sdxl.report.cell import Cell
from sdxl.report.cells import load
from sdxl.report.diff import diff, numbers, pictures
from tests.sweep_of_records import put, quantized, record


def cell(path: Path) -> Cell:
    return next(c for c in load([path]).cells if c.path == path.resolve())


def repeated(tmp_path: Path, name: str, values: list[float]) -> Cell:
    made = record(values[0])
    made["performance"]["repeats"] = values
    return cell(put(tmp_path / name, made, None))


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([2.0, 2.1, 1.9], [2.05, 2.0, 2.1], "noise"),
        ([2.0, 2.1, 1.9], [2.5, 2.4, 2.6], "differs"),
        ([2.0, 2.1, 1.9], [1.5, 2.0, 2.5], "same"),
        ([2.0], [2.01], "unknown spread"),
        ([2.0, 2.2], [2.0], "noise"),
    ],
)
def test_a_gap_inside_the_spread_is_noise(tmp_path: Path, first, second, verdict):
    a, b = repeated(tmp_path, "a", first), repeated(tmp_path, "b", second)
    assert numbers(a, b)[0].verdict == verdict


def test_settings_and_environment(tmp_path: Path):
    baseline = put(tmp_path / "baseline", record(2.0))
    other = quantized(3.0, 2.5, 0.5, 26.0, baseline)
    other["environment"]["packages"]["torch"] = "9.9"
    other["environment"]["parallel_region"] = {"threads": 2, "before_us": 1.2}  # its own
    other["config"]["tracking"]["uri"] = "sqlite:///elsewhere.db"
    found = diff(cell(baseline), cell(put(tmp_path / "b", other, 12.0)))
    assert found.settings["quant.format"] == ("none", "int8")
    assert found.settings["quant.alpha"] == (0.8, 0.5)
    assert not [name for name in found.settings if name.startswith("tracking")]
    assert found.environment == {"packages.torch": ("2.13.0", "9.9")}
    assert found.numbers[0].change == pytest.approx(0.5)


def test_a_distance_to_the_reference_is_not_one_to_the_baseline(tmp_path: Path):
    """Each measure has its own line; one that a record lacks is compared with nothing."""
    baseline = put(tmp_path / "baseline", record(2.0))
    referred = quantized(3.0, 2.5, 0.5, 26.0, baseline)
    referred["quality"]["reference"] = {"images": 3, "psnr_db": 41.0, "ssim": 0.97}
    a = cell(put(tmp_path / "a", referred, 12.0))
    b = cell(put(tmp_path / "b", quantized(3.0, 2.5, 0.5, 30.0, baseline), 12.0))
    found = {each.name: each for each in numbers(a, b)}
    near, far = found["PSNR to the baseline, dB"], found["PSNR to the reference, dB"]
    assert (near.one, near.other, near.verdict) == (26.0, 30.0, "differs")
    assert (far.one, far.other, far.verdict) == (41.0, None, "only one")
    assert found["SSIM to the reference"].one == 0.97
    assert found["SSIM to the baseline"].one == 26.0 / 40


def test_pictures_by_hash_then_by_psnr(tmp_path: Path):
    one, same, noisy = (
        cell(put(tmp_path / name, record(), noise))
        for name, noise in (("a", 0.0), ("b", 0.0), ("c", 12.0))
    )
    equal = pictures(one, same)
    assert (equal.shared, equal.equal, equal.comparison) == (3, 3, None)
    unlike = pictures(one, noisy)
    assert unlike.equal == 0
    assert unlike.comparison
    assert unlike.comparison["psnr_db"] == pytest.approx(26.9, abs=1.0)
    (noisy.path.parent / "images/000001.png").unlink()
    assert pictures(one, noisy).missing == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    a, b = put(tmp_path / "a", record(2.0)), put(tmp_path / "b", record(3.0))
    assert command.main(["diff", str(a.parent), str(b)]) == 0
    out = capsys.readouterr().out
    assert "+50.0%" in out
    assert "3 of 3 equal" in out
    line = json.loads(out.splitlines()[-1])
    assert line["images"]["equal"] == 3
    assert line["settings"] == {}


def test_a_folder_of_many_records_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name in "ab":
        put(tmp_path / name, record(), None)
    assert command.main(["diff", str(tmp_path), str(tmp_path / "a")]) == 2
    assert "holds 2 records" in capsys.readouterr().err
