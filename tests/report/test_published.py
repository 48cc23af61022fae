"""Published results beside measured ones: in the same table, never chosen, with the ratio."""

import json

import pytest

from sdxl.bench.mlperf import importing
from sdxl.report import cells, command, published
from sdxl.report.choose import answer
from sdxl.report.limits import Limits
from tests.sweep_of_records import CONFIG, ENVIRONMENT, record

H100 = "NVIDIA H100 80GB HBM3"
EDGE = "NVIDIA RTX 2000E Ada Generation"
H100_EACH = 18.1007 / 8
"""images/s of v5.1's only H100 submission, 5.1-0092."""


def measured(folder, speed=2.0, device=H100, scenario="Offline", shortcut="none", **model):
    """A record of the benchmark's work on a device."""
    config = json.loads(json.dumps(CONFIG))
    config["model"] |= {"height": 1024, "width": 1024, **model}
    config["scenario"] = {"name": scenario}
    config["shortcut"] = {"name": shortcut}
    environment = {**ENVIRONMENT, "accelerators": [{"name": device}]}
    found = record(speed, config=config, environment=environment)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(found))
    return folder


def test_the_best_published_result_stands_beside_a_measured_cell(tmp_path, capsys):
    place = measured(tmp_path / "mine")
    assert command.main([str(place), "--with-published", "--html", str(tmp_path / "r.html")]) == 0
    said = capsys.readouterr()
    assert "2.263/s, The_Stage 5.1-0092" in said.out and "0.88" in said.out
    page = (tmp_path / "r.html").read_text()
    assert "The_Stage 5.1-0092" in page and "0.88" in page
    assert command.main([str(place), "--with-published", "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out.splitlines()[-1])["cells"]
    assert cell["best_published"]["ratio"] == pytest.approx(2.0 / H100_EACH)
    assert cell["best_published"]["url"].endswith("inference_results_v5.1")
    assert command.main([str(place), "--json"]) == 0
    assert "best_published" not in json.loads(capsys.readouterr().out.splitlines()[-1])["cells"][0]


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ({"device": "NVIDIA B200"}, 32.5691 / 8),  # the best of eight submitters, each for one
        ({"device": "nvidia h200"}, 19.189 / 8),
        ({"scenario": "Server"}, 17.8585 / 8),
        (
            {"device": "NVIDIA RTX 2000E Ada Generation", "scenario": "SingleStream"},
            1e3 / 7479.3487,
        ),
        ({"device": "A GPU"}, None),
        ({"scenario": "SingleStream"}, None),  # nobody published one on an H100
        ({"steps": 4}, None),
        ({"height": 512}, None),
        ({"name": "tiny"}, None),
        ({"guidance": 0.0}, None),  # one UNet row a picture
        ({"shortcut": "deepcache"}, None),
    ],
)
def test_only_the_same_work_on_the_same_accelerator_is_compared(tmp_path, words, rate):
    found = cells.load([measured(tmp_path / "mine", **words)])
    assert published.mark(found) == (rate is not None)
    best = found.cells[0].best_published
    assert (best and best.rate) == (rate and pytest.approx(rate))


def test_several_devices_are_compared_one_by_one(tmp_path):
    place = measured(tmp_path / "mine", 16.0)
    path = place / "record.json"
    whole = json.loads(path.read_text())
    whole["config"]["backend"]["devices"] = list(range(8))
    path.write_text(json.dumps(whole))
    found = cells.load([place])
    published.mark(found)
    assert found.cells[0].best_published.ratio == pytest.approx(2.0 / H100_EACH)


def test_nothing_to_compare_is_said(tmp_path, capsys):
    place = measured(tmp_path / "mine", name="tiny")
    assert command.main([str(place), "--with-published", "--html", str(tmp_path / "r.html")]) == 0
    assert "no cell ran SDXL's 1024 x 1024" in capsys.readouterr().err


def test_imported_rows_are_in_the_table_and_never_the_answer(tmp_path, data, capsys):
    out = tmp_path / "published"
    assert importing.main([str(data / "mlperf/results_v5.1_sdxl.json"), "--out", str(out)]) == 0
    found = cells.load([measured(tmp_path / "mine"), out])
    group = found.groups["sdxl 1024 x 1024, 20 steps, Offline"]
    assert len(group) == 1 + 20 + 18  # ours, the systems, and one of each with several
    said = answer(group, Limits())
    assert "One cell" in said.sentence and not said.best
    assert any("38 rows are published" in note for note in said.notes)
    labels = {cell.label for cell in group}
    assert {"Dell: 8 x NVIDIA L40S, fp8", "Dell: each NVIDIA L40S, fp8"} <= labels
    other = found.groups["sdxl 1024 x 1024, 20 steps, Server"]
    assert "nothing was measured here" in answer(other, Limits()).sentence
    capsys.readouterr()
    assert command.main([str(tmp_path / "mine"), str(out), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "23.42" in text and "31.8" in text and "The\\_Stage" in text
    assert command.main(["diff", str(tmp_path / "mine"), str(out / next(
        path.name for path in out.iterdir() if "The_Stage" in path.name
    ))]) == 0  # fmt: skip


def test_the_shipped_table_says_what_mlcommons_table_says(data):
    """Figures and their source; every row of it, no other."""
    rows = json.loads((data / "mlperf/results_v5.1_sdxl.json").read_text())
    wanted = {(row["Submitter"], row["ID"], row["Scenario"]): row for row in rows}
    for name, accelerator in published._table()["accelerators"].items():
        for row in accelerator["results"]:
            for scenario in ("Offline", "Server", "SingleStream"):
                if scenario in row:
                    theirs = wanted.pop((row["submitter"], row["id"], scenario))
                    assert row[scenario] == theirs["Performance_Result"]
                    assert row["count"] == theirs["a#"] * theirs["Nodes"]
                    assert theirs["Accelerator"].endswith(name)
    assert not wanted


def test_the_page_says_which_gates_nobody_asked_for(tmp_path):
    """Of a quick run those of the round; of an imported official one all of them count."""
    out = tmp_path / "gates.html"
    row = {"gate": "queries", "required": "at least 459", "measured": "9", "pass": False}
    for duration, scope, word in ((0, "round", "not asked for"), (0, "run", "no"),
                                  (600_000, "round", "no")):  # fmt: skip
        place = measured(tmp_path / f"{duration}-{scope}")
        path = place / "record.json"
        whole = json.loads(path.read_text())
        whole["config"]["scenario"]["min_duration_ms"] = duration
        whole["verdict"] = [{**row, "scope": scope}]
        path.write_text(json.dumps(whole))
        assert command.main([str(place), "--html", str(out)]) == 0
        kind = "quiet" if word == "not asked for" else "bad"
        assert f'<span class="{kind}">{word}</span>' in out.read_text()
