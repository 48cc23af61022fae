"""Twelve quantized graphs, four levels by three alphas, from one export of the bundled UNet.

    python benchmarks/qdq_grid.py

Fails if the export and the twelve edits take more than 1.5 times the export and twelve times 2 s,
if an edit takes more than 2 s of CPU, or if a graph brings weights of its own. Calibration and
checkpoints are timed apart.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from sdxl.config import graphs
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import ROOT
from sdxl.export import onnx
from sdxl.export.qdq import artifact
from sdxl.model import checkpoint
from sdxl.quant import build

LEVELS, ALPHAS = (1, 2, 2.5, 3), (0.5, 0.8, 1.0)
EDIT_S, SHARE = 2.0, 1.5


def main() -> int:
    """Print seconds and bytes; 0 if both bounds are kept."""
    register()
    with tempfile.TemporaryDirectory() as store:
        os.environ["SDXL_STORE"] = store
        began = time.perf_counter()
        graph = onnx.get(config(), "unet")
        export_s = time.perf_counter() - began
        edits, edits_cpu, checkpoints_s, own = [], [], 0.0, []
        for level in LEVELS:
            for alpha in ALPHAS:
                cell = config("quant=int8", f"quant_level={level}", f"alpha={alpha}",
                              "calib_size=4")  # fmt: skip
                began = time.perf_counter()
                made = build.prepare(cell)
                checkpoints_s += time.perf_counter() - began
                began, cpu = time.perf_counter(), time.process_time()
                found = artifact.get(cell, graph, made)
                edits.append(time.perf_counter() - began)
                edits_cpu.append(time.process_time() - cpu)
                own.append((found.path / graphs.MODEL).stat().st_size)
                assert linked(found.path, graph.path, made.path), "weights were copied"
    total, bound = export_s + sum(edits), SHARE * export_s + len(edits) * EDIT_S
    print(f"export of the UNet          {export_s:8.2f} s")
    print(f"{len(edits)} edits                    {sum(edits):8.2f} s, longest {max(edits):.2f} s "
          f"({max(edits_cpu):.2f} s of CPU)")  # fmt: skip
    print(f"calibration, 12 checkpoints {checkpoints_s:8.2f} s")
    print(f"bytes of a graph's own      {max(own):8,d}; weights are hard links")
    print(f"export and edits            {total:8.2f} s, bound {bound:.2f} s")
    return int(total > bound or max(edits_cpu) > EDIT_S)


def config(*words: str):
    """A checked configuration of the bundled model for ONNX Runtime."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("run", overrides=["backend=ort", *words]))


def linked(folder: Path, graph: Path, made: Path) -> bool:
    """Whether a quantized graph's weights are the files of its parents."""
    pairs = ((graph, graphs.WEIGHTS), (made, checkpoint.WEIGHTS))
    return all((folder / name).samefile(place / name) for place, name in pairs)


if __name__ == "__main__":
    sys.exit(main())
