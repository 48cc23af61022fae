"""The calibration captions: made of the annotations, or taken from a file."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sdxl.core.errors import OK, USER, UserError
from sdxl.model import caption_files
from sdxl.model.download import catalogue
from tests.model.download.conftest import Server, left, offered


def _annotations(path: Path, rows: list[list[str]]) -> None:
    """COCO's annotations as a zip, with the rows' captions in disorder and more beside them."""
    facts = [dict(zip(catalogue.COLUMNS, row, strict=True)) for row in rows]
    images = {
        int(fact["image_id"]): {
            "id": int(fact["image_id"]), "file_name": fact["file_name"],
            "height": int(fact["height"]), "width": int(fact["width"]), "coco_url": "http://x",
        }
        for fact in facts
    }  # fmt: skip
    captions = [
        {"id": int(f["id"]), "image_id": int(f["image_id"]), "caption": f" {f['caption']}\n"}
        for f in reversed(facts)
    ]
    other = {"id": 10**7, "image_id": captions[0]["image_id"], "caption": "another"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        content = {"images": list(images.values()), "annotations": [other, *captions]}
        archive.writestr(catalogue.ANNOTATIONS, json.dumps(content))
        archive.writestr("annotations/instances_train2014.json", "{}")


ROWS = [
    ["7", "70", 'A "red" bus, late.', "480", "640", "COCO_train2014_000000000070.jpg"],
    ["12", "50", "Two dogs\ton grass", "375", "500", "COCO_train2014_000000000050.jpg"],
    ["300", "70", "The bus again", "480", "640", "COCO_train2014_000000000070.jpg"],
]


def _calibration(server: Server, tmp_path: Path) -> dict[str, Any]:
    """A catalogue entry like the real one, over three captions."""
    _annotations(tmp_path / "made.zip", ROWS)
    ids = "7\n12\n300"
    server.files |= {"/c.zip": (tmp_path / "made.zip").read_bytes(), "/ids.txt": ids.encode()}
    digest = hashlib.sha256(ids.encode()).hexdigest()
    archive = offered(server, "c.zip", server.files["/c.zip"])
    listed = {"path": "things/ids.txt", "urls": [f"{server.url}/ids.txt"], "ids_sha256": digest}
    made = {"path": "things/c.tsv", "make": "calibration", "ids_sha256": digest}
    return {**made, "inputs": [archive, listed]}


def test_calibration_is_made_of_the_annotations(server, command, root, tmp_path):
    run = command([_calibration(server, tmp_path)])
    code, outcome, _ = run()
    assert (code, outcome["files"][0]["state"]) == (OK, "made")
    with (root / "things/c.tsv").open(newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [list(catalogue.COLUMNS), *ROWS]
    assert caption_files.read_tsv(root / "things/c.tsv")[0] == ('A "red" bus, late.', "7")
    assert left(root) == ["c.tsv", "c.zip", "ids.txt"]
    assert run()[1]["files"][0]["state"] == "there"


def test_calibration_from_local_files(server, command, root, tmp_path):
    run = command([_calibration(server, tmp_path)])
    usb = tmp_path / "usb"
    usb.mkdir()
    code, _, told = run("--from", str(usb))
    assert code == USER
    assert "lacks files" in told

    (usb / "c.zip").write_bytes(server.files["/c.zip"])
    (usb / "ids.txt").write_text("7\n12\n300\n")
    code, outcome, _ = run("--from", str(usb))
    assert (code, outcome["files"][0]["state"]) == (OK, "made")
    assert left(root) == ["c.tsv"]  # the zip is read where it lies
    assert server.asked == []

    shutil.move(root / "things/c.tsv", usb / "mine.tsv")
    assert run("--from", str(usb / "c.zip"))[1]["files"][0]["state"] == "made"
    assert [asked["path"] for asked in server.asked] == ["/ids.txt"]
    (root / "things/c.tsv").unlink()
    assert run("--from", str(usb / "mine.tsv"))[1]["files"][0]["state"] == "copied"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id\tcaption\n7\ta bus\n12\ta dog\n", "ids_sha256"),
        ("id\ttext\n7\thello\n", "no `caption` column"),
        ("id\tcaption\n7\ta bus\tmore\n", "malformed rows"),
        ("caption\na bus\n", "ids_sha256"),
    ],
)
def test_calibration_from_a_wrong_tsv(server, command, root, tmp_path, text, said):
    mine = tmp_path / "mine.tsv"
    mine.write_text(text)
    code, _, told = command([_calibration(server, tmp_path)])("--from", str(mine))
    assert code == USER
    assert said in told
    assert left(root) == []


def test_annotations_without_the_captions(tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("7\n12\n301")
    _annotations(tmp_path / "c.zip", ROWS)
    with pytest.raises(UserError, match="lacks captions"):
        catalogue.calibration_tsv(tmp_path / "c.zip", ids, tmp_path / "out.tsv")
    (tmp_path / "c.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be used"):
        catalogue.calibration_tsv(tmp_path / "c.zip", ids, tmp_path / "out.tsv")


def test_the_published_calibration_file_is_reproduced_to_the_byte(shared, tmp_path):
    real = shared / "calibration_captions.tsv"
    with real.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    _annotations(tmp_path / "c.zip", rows)
    (tmp_path / "ids.txt").write_text("\n".join(row[0] for row in rows))
    catalogue.calibration_tsv(tmp_path / "c.zip", tmp_path / "ids.txt", tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_bytes() == real.read_bytes()
