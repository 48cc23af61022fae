"""The Python interface: commands with typed results."""

import json
import os

import pytest

import sdxl
from sdxl.core import records as files
from sdxl.core.errors import UserError
from sdxl.core.record import Record
from sdxl.run import api
from tests.conftest import ROOT
from tests.sweep_of_records import put, quantized

FAKE = {"backend": "fake", "scenario.min_duration_ms": 0, "tracking": "off", "quality": "none"}


def test_a_run_is_a_record(tmp_path):
    folder = tmp_path / "it's here"
    record = sdxl.run({**FAKE, "limit": 4, "backend.sample_ms": 0.2}, folder=folder)
    assert isinstance(record, Record) and record.status == "ok"
    assert record.performance.images_per_second > 0
    assert sdxl.load_record(folder).id == record.id
    assert "limit=4" in record.command


def test_a_sweep_is_a_table(tmp_path):
    found = sdxl.sweep({**FAKE, "limit": [2, 4]}, folder=tmp_path)
    assert len(found) == 2 and {each.config["limit"] for each in found} == {2, 4}
    table = sdxl.records(tmp_path).to_dataframe()
    assert sorted(table["config.limit"]) == [2, 4]
    assert (table["images_per_second"] > 0).all() and set(table["status"]) == {"ok"}
    assert set(table["speed_means_nothing"]) == {"the fake backend runs no model"}


def test_a_pack_is_typed(tmp_path):
    words = ("model=tiny_random", "model.steps=2", "rules=open")
    record = Record(key="k", config={}, command=f"python run.py {' '.join(words)}", status="ok")
    files.write(record, tmp_path)
    made = sdxl.pack(tmp_path, to=tmp_path / "made" / "pack", as_="comfyui", check=0)
    assert made.folder == tmp_path / "made" / "pack" and (made.folder / "pack.json").is_file()
    assert made.verified is False and "ComfyUI" in made.reason and made.psnr_db is None
    with pytest.raises(UserError, match="in the way"):
        sdxl.pack(tmp_path, to=made.folder, as_="comfyui")


def test_mistakes_are_exceptions(tmp_path):
    with pytest.raises(UserError, match="limt"):
        sdxl.run({**FAKE, "limt": 4})
    with pytest.raises(UserError, match="no such record"):
        sdxl.load_record(tmp_path)
    with pytest.raises(AttributeError, match="nothing"):
        sdxl.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "tiny", "quant_level": 2.5}, ["model=tiny", "quant_level=2.5"]),
        ({"quality": {"baseline": False}}, ["quality.baseline=false"]),
        ({"limit": None, "backend.devices": [0, 1]}, ["limit=null", "backend.devices=[0,1]"]),
        ({"model.negative_prompt": "a, b: 'c'"}, [r"model.negative_prompt='a, b: \'c\''"]),
        (["model=tiny"], ["model=tiny"]),
    ],
)
def test_settings_are_words(settings, words):
    assert api.words(settings) == words


@pytest.mark.parametrize(
    "text",
    [
        "a, b: 'c'",
        "it's",
        "back\\slash",
        "end\\",
        "a\\'b",
        "{x}",
        "",
        "null",
        "1.0",
        "True",
        "ein roter W\u00fcrfel",
        "W\u00fcrfel",
        "~/sdxl",
    ],
)
def test_any_text_arrives_as_it_was(composed, text):
    assert composed(*api.words({"model.negative_prompt": text})).model.negative_prompt == text


def test_a_table_says_what_a_psnr_is_the_distance_to(tmp_path):
    made = quantized(3.0, 2.5, 0.5, 26.0, tmp_path / "record.json")
    made["quality"]["reference"] = {"images": 3, "psnr_db": 41.0}
    put(tmp_path, made, None)
    ((_, row),) = sdxl.records(tmp_path).to_dataframe().iterrows()
    assert (row["compared_with"], row["psnr_db"], row["baseline_psnr_db"]) == (
        "reference", 41.0, 26.0,
    )  # fmt: skip


def test_lists_are_values_of_a_sweep_or_one_value():
    assert api.words({"quant_level": [1, 3]}, sweeps=True) == ["quant_level=1,3"]
    assert api.words({"quant_level": (1, 3)}) == ["quant_level=[1,3]"]


def test_generate_names_the_pictures(monkeypatch):
    asked = []

    def answered(name, typed):
        asked.append([name, *typed])
        return {"exit_code": 0, "files": ["/a/0000.png"]}

    monkeypatch.setattr(api, "_command", answered)
    found = sdxl.generate("-a cube", {"model": "tiny"}, n=2, record="last")
    assert [path.name for path in found] == ["0000.png"]
    assert asked == [
        ["generate", "--n=2", "--seed=0", "--record=last", "--", "-a cube", "model=tiny"]
    ]


def test_the_notebook_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]))
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "api.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["record"].status == "ok" and len(names["table"]) == 3
    assert "limt" in capsys.readouterr().out
