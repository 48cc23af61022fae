"""A small SDXL whose four graphs `export.py` itself exports once, for all tests and workers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sdxl.export import trace
from sdxl.model import architecture
from tests import forked

ROOT = Path(__file__).resolve().parents[1]
UNET = {
    **architecture.TINY["unet"],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1],
    "attention_head_dim": [2, 4],
}
"""SDXL's kinds of layers in a third of the layers of `tiny`: tests pay the exporter's time."""


@dataclass
class Exported:
    """The store with the graphs, the words that name them, and what `export.py` said."""

    store: Path
    words: list[str]
    outcome: dict[str, Any]
    screen: str

    def folder(self, graph: str) -> Path:
        return next(Path(p["path"]) for p in self.outcome["pieces"] if p["graph"] == graph)


def export(folder: Path, traces: Path) -> Exported:
    """The graphs in `folder`; whoever comes first exports, other processes wait and read."""
    words = ["model=tiny_random", f"model.unet_config={folder}/unet.json", "model.height=64",
             "model.width=64", "model.steps=2", "rules=open"]  # fmt: skip
    said = folder / "said.json"
    with FileLock(f"{folder}.lock"):
        if not said.exists():
            (folder / "store").mkdir(parents=True, exist_ok=True)
            (folder / "store" / trace.KIND).symlink_to(traces)
            (folder / "unet.json").write_text(json.dumps(UNET))
            done = forked.run(
                [str(ROOT / "export.py"), "export.parity=true", "tracking=off", *words,
                 f"hydra.run.dir={folder}/run"],
                cwd=folder, env=os.environ | {"SDXL_STORE": str(folder / "store")}, timeout=900,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            said.write_text(json.dumps([done.stdout.splitlines()[-1], done.stderr]))
    outcome, screen = json.loads(said.read_text())
    return Exported(folder / "store", words, json.loads(outcome), screen)
