"""Every command in the README runs: on small settings and, for real weights, a miniature SDXL."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).resolve().parent.parent
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.strip()
    for block in SHELL_BLOCK.findall((ROOT / "README.md").read_text())
    for line in block.splitlines()
    if line.strip()
]
PYTHON = [command for command in COMMANDS if command.startswith("python ")]
MAKE = [command for command in COMMANDS if command.startswith("make ")]
SMALL = ["limit=2", "scenario.min_query_count=2", "scenario.min_duration_ms=0",
         "scenario.warmup_batches=1", "backend.batch_size=null"]  # fmt: skip
FINISHED = (0, 3)
"""Too few queries for early stopping make LoadGen say INVALID, which is not what is tested here."""


def test_every_line_is_a_command_we_know_how_to_run() -> None:
    assert len(PYTHON) > 10
    assert sorted(PYTHON + MAKE) == sorted(COMMANDS)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as the downloads would leave it: a miniature SDXL and a few captions."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    from sdxl.model import architecture
    from sdxl.model.seeded import RandomSource
    from sdxl.model.tokenizer import tokenizers

    folder = tmp_path_factory.mktemp("store")
    source = RandomSource(architecture.TINY, 0)
    first, second = tokenizers()
    names = ("text_encoder", "text_encoder_2", "unet", "vae")
    parts = {n: source.component(n, torch.float32, torch.device("cpu")) for n in names}
    pipe = StableDiffusionXLPipeline(
        **parts, tokenizer=first, tokenizer_2=second, scheduler=source.scheduler(),
        add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "sdxl")
    (folder / "coco").mkdir()
    rows = "\n".join(f"{n}\t{n}\tA red cube, number {n}.\t64\t64\tx.jpg\tx" for n in range(5000))
    header = "id\timage_id\tcaption\theight\twidth\tfile_name\tcoco_url\n"
    (folder / "coco" / "captions_source.tsv").write_text(header + rows + "\n")
    (folder / "coco" / "calibration_captions.tsv").write_text(header + rows + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", PYTHON)
def test_command_runs(command: str, store: Path, tmp_path: Path) -> None:
    words = shlex.split(command)
    if words[1] in ("run.py", "quantize.py", "export.py") and "--help" not in words:
        words += shrunk(words, tmp_path)
    if words[1:4] == ["-m", "sdxl", "report"]:
        words.append(str(a_sweep(tmp_path)))
    if words[1:4] == ["-m", "sdxl", "generate"]:
        words += ["--to", str(tmp_path / "pictures"), "model.steps=2"]
    environment = os.environ | {
        "SDXL_STORE": str(store),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
    }
    done = forked.run(words[1:], cwd=ROOT, env=environment, timeout=280)
    assert done.returncode in FINISHED, done.stdout[-3000:] + done.stderr[-3000:]
    if not {"--help", "--markdown"} & set(words):
        assert done.stdout.splitlines()[-1].startswith('{"status": ')


def a_sweep(folder: Path) -> Path:
    """Two cells to report on."""
    words = ["-m", "seed=1,2", "backend=fake", "tracking=off", f"hydra.sweep.dir={folder}/two"]
    forked.run(["run.py", *words], cwd=ROOT, env=os.environ, timeout=100).check_returncode()
    return folder / "two"


def shrunk(words: list[str], folder: Path) -> list[str]:
    """Overrides that make a command take seconds and keep its results out of the project."""
    extra = [f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep"]
    text = " ".join(words)
    if "-m" not in words and "tracking" not in text:  # the sweeps' runs go to MLflow
        extra.append("tracking=off")
    if "plan=true" in words:
        return extra
    if words[1] == "run.py":
        extra += [o for o in SMALL if not ("mode=accuracy" in text and "min_query_count" in o)]
        if "MultiStream" in text or "+sweep=scenarios" in text:
            extra.remove("scenario.min_query_count=2")
    if "-m" in words:  # scores are what a single run's command shows
        extra.append("quality=none")
    if "model=sdxl " in f"{text} ":
        extra += ["model.height=128", "model.width=128", "model.steps=4", "rules=open"]
    if "precision=" in text:
        extra += ["model.steps=4", "rules=open"]
    if "+sweep=ship" in text:
        extra.append("+candidate=torch_fp32,torch_int8_3")
    if "quant" in text or "calib_size" in text:
        extra += ["calib_size=1", "model.steps=4", "rules=open"]
    return extra


@pytest.mark.parametrize("command", MAKE)
def test_make_target_exists(command: str) -> None:
    """CI runs `make test` itself, and `make run` starts with the same rule."""
    target = command.split()[1]
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout
