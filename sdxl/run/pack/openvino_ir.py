"""ONNX graphs of a pack as OpenVINO's IR, under the file names of optimum-intel."""

from __future__ import annotations

import shutil
from pathlib import Path

from sdxl.backends.openvino import ir
from sdxl.config import graphs

IR = "openvino_model.xml"


def convert(folder: Path) -> None:
    """Each graph in the place of its ONNX files; its configuration stays."""
    for graph in graphs.GRAPHS:
        place, made = folder / graph, folder / f"{graph}.ir"
        made.mkdir()
        ir.convert(place / graphs.MODEL, made / IR, graph)
        shutil.move(place / "config.json", made / "config.json")
        shutil.rmtree(place)
        made.rename(place)
