"""The report: what it claims, and that it escapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sdxl.core.errors import UserError
from sdxl.report import choose, command, text
from sdxl.report.cells import Cells, load, newest
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from tests.sweep_of_records import EVIL, put, quantized, record


def only(cells: Cells) -> list:
    (group,) = cells.groups.values()
    return group


def test_cells_are_named_by_what_differs(found: Cells):
    names = [cell.label for cell in found.cells[:6]]
    assert names[:3] == ["fp16", "int8 level 1 alpha 0.8", "int8 level 2.5 alpha 0.8"]
    assert len(set(names)) == len(names)
    assert [cell.number for cell in found.cells] == list(range(1, 9))


def test_a_half_written_record_is_named_and_passed_over(found: Cells):
    ((path, reason),) = found.unreadable
    assert path.parts[-2] == "7"
    assert "not JSON" in reason


def test_a_baseline_outside_the_given_places_is_found(folder: Path):
    cells = load([folder / "2" / "record.json"]).cells
    assert [cell.label for cell in cells] == ["fp16", "int8"]
    assert cells[1].baseline is cells[0]


def test_a_moved_sweep_keeps_its_baselines(folder: Path, tmp_path: Path):
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    for file in moved.rglob("record.json"):
        file.write_text(file.read_text().replace(str(folder), "/gone"))
    cells = load([moved]).cells
    assert cells[1].baseline is cells[0]


def _baselines(cells: Cells) -> dict[str, Path]:
    """Of each quantized cell's folder: where the baseline lies that it was joined to."""
    return {
        str(c.path.parent): c.baseline.path.parent
        for c in cells.cells
        if c.quantized and c.baseline
    }


def _pair(sweep: Path, speed: float) -> tuple[Path, Path]:
    """A sweep of one quantized cell; the folders of the cell and of its baseline."""
    baseline = put(sweep / "0" / "baseline", record(speed, id=f"baseline of {sweep.name}"))
    return put(sweep / "0", quantized(9.0, 1, 0.8, 30.0, baseline)).parent, baseline.parent


def test_a_baseline_that_is_not_given_is_not_taken_for_another_of_its_name(tmp_path: Path):
    (one, _), (other, baseline) = (_pair(tmp_path / name, 2.0) for name in ("one", "other"))
    given = [*one.rglob("record.json"), other / "record.json"]
    assert _baselines(load(given))[str(other)] == baseline


def test_the_baselines_of_two_moved_sweeps_stay_apart(tmp_path: Path):
    for name in ("one", "other"):
        _pair(tmp_path / name, 2.0)
    moved = Path(shutil.move(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved")))
    assert _baselines(load([moved])) == {
        str(moved / name / "0"): moved / name / "0" / "baseline" for name in ("one", "other")
    }
    shutil.move(moved, tmp_path)


def test_a_copied_sweep_has_its_own_copy_of_the_baseline(tmp_path: Path):
    cell, _ = _pair(tmp_path / "sweep", 2.0)
    copied = Path(shutil.copytree(cell, tmp_path / "elsewhere" / "7"))
    cells = load([copied])
    assert len(cells.cells) == 2
    assert _baselines(cells) == {str(copied): copied / "baseline"}


def test_best_is_the_fastest_valid_cell_within_the_limits(found: Cells):
    def best(**limits: float) -> str:
        chosen = choose.answer(only(found), Limits(**limits)).best
        return chosen.label if chosen else ""

    assert best() == "int8 level 3 alpha 0.8"  # the fastest one of all is INVALID
    assert best(min_psnr=25) == "int8 level 2.5 alpha 0.8"
    assert best(min_psnr=40) == "fp16"
    assert best(max_memory_gib=6, min_psnr=30) == ""
    assert best(max_latency_ms=400) == "int8 level 3 alpha 0.8"


def test_the_front_is_not_dominated(found: Cells):
    assert [c.label for c in choose.front(only(found))] == [
        "int8 level 3 alpha 0.8", "int8 level 2.5 alpha 0.8", "int8 level 1 alpha 0.8", "fp16",
    ]  # fmt: skip


def test_simulated_speed_chooses_nothing(tmp_path: Path):
    baseline = put(tmp_path / "0" / "baseline", record(2.0))
    for count, psnr in enumerate((30.0, 20.0)):
        made = quantized(9.0 + count, 1 + count, 0.8, psnr, baseline)
        made["performance"]["generator"]["simulated"] = True
        put(tmp_path / str(count), made)
    cells = load([tmp_path])
    said = choose.answer(only(cells), Limits())
    assert said.best is None
    assert said.sentence.startswith("No answer on speed")
    assert "int8 level 1" in said.sentence
    assert choose.front(only(cells)) == [cells.cells[0]]
    assert "<s title=" in page(cells, Limits())


def test_the_fake_backend_answers_nothing(tmp_path: Path):
    for count in range(2):
        made = record(2.0 + count)
        made["config"]["backend"]["name"] = "fake"
        put(tmp_path / str(count), made)
    assert "no model" in choose.answer(only(load([tmp_path])), Limits()).sentence


def test_settings_that_pictures_cannot_tell_apart_are_counted(tmp_path: Path):
    baseline = put(tmp_path / "0" / "baseline", record(2.0))
    for count, level in enumerate((1, 2)):
        made = quantized(9.0, level, 0.8, 25.0, baseline)
        made["performance"]["generator"]["simulated"] = True
        made["quality"]["baseline"]["pairs"] = [
            {"psnr_db": 25.0 + d * (-1) ** count} for d in (1, -1)
        ]
        put(tmp_path / str(count), made)
    said = choose.answer(only(load([tmp_path])), Limits()).sentence
    assert "1 more cannot be told" in said


def test_a_page_without_a_quality_axis_says_so(tmp_path: Path):
    for count in range(2):
        put(tmp_path / str(count), record(2.0 + count) | {"command": f"python run.py seed={count}"})
    assert "No quality axis" in page(load([tmp_path]), Limits())


class _Names(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_nothing_in_a_record_becomes_markup(html: str):
    parsed = _Names()
    parsed.feed(html)
    assert EVIL not in html
    assert "&lt;script&gt;" in html
    assert "script" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    links = [value or "" for name, value in parsed.attributes if name in ("src", "href")]
    assert links
    assert all(link.startswith("data:image/webp;base64,") for link in links)


def test_a_picture_outside_the_folder_of_its_record_is_not_embedded(tmp_path: Path):
    put(tmp_path / "secret", record())
    path = put(tmp_path / "cell", record())
    stored = json.loads(path.read_text())
    for image in stored["images"]:
        image["file"] = f"../secret/{image['file']}"
    path.write_text(json.dumps(stored))
    assert "data:image" not in page(load([path]), Limits())


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"key": 1, "config": [], "command": ""}'])
def test_a_file_that_is_no_record_is_an_error_of_the_user(tmp_path: Path, content: str):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError, match="no record"):
        load([tmp_path])


def test_a_record_with_almost_nothing_still_makes_a_page(tmp_path: Path):
    least = {"key": "k", "config": {}, "command": "", "status": "ok"}
    (tmp_path / "record.json").write_text(json.dumps(least))
    cells = load([tmp_path])
    assert "Not sampled" in page(cells, Limits())
    assert text.markdown(cells, Limits())


def test_power_is_shown_where_a_record_has_it(tmp_path: Path):
    made = record()
    made["performance"]["power"] = {"mean_w": 612.5, "energy_per_image_j": 306.0}
    put(tmp_path, made)
    assert "612.5" in page(load([tmp_path]), Limits())


def test_markdown_keeps_untrusted_text_as_text(found: Cells):
    written = text.markdown(found, Limits())
    assert "<script>" not in written
    assert "| int8 level 3 alpha 0.8 | valid | 3.420 | 1.71 |" in written
    assert "&lt;script&gt;" in written


def test_json_is_one_line_with_every_cell(folder: Path, capsys: pytest.CaptureFixture):
    assert command.main([str(folder), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert len(found["cells"]) == 8
    assert found["groups"][0]["pareto"] == [5, 3, 2, 1]


def test_the_command_writes_a_page_and_ends_with_json(folder: Path, tmp_path: Path, capsys):
    target = tmp_path / "new" / "page.html"
    assert command.main([str(folder), "--html", str(target), "--min-psnr", "25"]) == 0
    out = capsys.readouterr().out
    assert "level 2.5" in out
    assert json.loads(out.splitlines()[-1])["written"] == [str(target)]
    assert target.stat().st_size < 200_000


@pytest.mark.parametrize("words", [["/nowhere"], ["--min-psnr", "much"], ["--nope"]])
def test_mistakes_exit_with_2(words: list[str], capsys: pytest.CaptureFixture):
    assert command.main(words) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exit_code"] == 2


def test_the_newest_sweep_is_the_default(tmp_path: Path):
    put(tmp_path / "2026-11-21" / "23-00-00-1" / "0", record())
    put(tmp_path / "2026-11-22" / "run-08-00-00-1", record())
    put(tmp_path / "2026-11-22" / "09-00-00-1" / "0", record())
    (tmp_path / "2026-11-22" / "10-00-00-1").mkdir()
    assert newest(tmp_path).name == "09-00-00-1"


def test_plots_are_png_files(found: Cells, tmp_path: Path):
    pytest.importorskip("matplotlib")
    from sdxl.report.plots import draw

    written = draw(found, tmp_path)
    assert [path.name for path in written] == ["speed-1.png", "pareto-1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_importing_the_report_imports_no_framework():
    code = (
        "import sys, sdxl.report.command, sdxl.report.html.page, sdxl.report.diff;"
        "print(sorted({'torch', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "[]", done.stderr
