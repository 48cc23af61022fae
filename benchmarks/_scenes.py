"""What the quality benchmarks share: pictures of scenes by one setting, and their scores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from sdxl.config.load import load
from sdxl.config.plugins import backends
from sdxl.config.registry import register
from sdxl.config.schema import Config, Format
from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED, ROOT
from sdxl.core.types import Prompt
from sdxl.model import architecture, prompts
from sdxl.model.sampler import Sampler
from sdxl.model.scenes import render, world
from sdxl.model.seeded import RandomSource
from sdxl.model.sources import open_source
from sdxl.quality import baseline, fast, fast_scorer
from sdxl.quant import build
from sdxl.training.data import encoded

SETTINGS = {
    "unquantized": ["quant=none"],
    "int8_level1": ["quant=int8", "quant_level=1", "quant.calib_dataset=scenes"],
    "int8_level3": ["quant=int8", "quant_level=3", "quant.calib_dataset=scenes"],
    "int4_weights": ["quant=int4_weight_only"],
    "random": ["quant=none"],
}
"""Words of run.py; `random` has the same shapes with random weights in the UNet."""
_LINKS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "vae",
          "model_index.json")  # fmt: skip


def configure(
    words: Sequence[str], seed: int = 0, model: Path = BUNDLED, noise: str = "per_prompt"
) -> Config:
    """A setting on the bundled model, or on that of a diffusers folder of 128 pixels."""
    register()
    other = ["model=sdxl", f"model.path={model}", "model.height=128", "model.width=128"]
    base = [
        *(["model=scenes"] if model == BUNDLED else other), "dataset=scenes", "quality=fast",
        "rules=open", "tracking=off", f"model.noise={noise}", f"seed={seed}",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("run", overrides=[*base, *words]))


def random_model(folder: Path, model: Path = BUNDLED) -> Path:
    """The model with random weights in its UNet, in `folder`."""
    for name in _LINKS:
        (folder / name).symlink_to((model / name).resolve())
    source = RandomSource({"unet": architecture.SCENES["unet"]}, 0)
    unet = source.component("unet", torch.float32, torch.device("cpu"))
    unet.save_pretrained(folder / "unet")
    return folder


def chosen(config: Config, count: int, seed: int) -> list[Prompt]:
    """`count` held-out captions, others for each seed."""
    every = prompts.load(config.dataset)
    rows = every[seed * count : (seed + 1) * count]
    if seed < 0 or len(rows) < count:
        raise UserError(
            "there are too few captions for seeds of their own", f"seed {seed}, {count} captions",
            f"--prompts times one more than the largest seed: at most {len(every):,}",
        )  # fmt: skip
    return rows


def draw(config: Config, asked: Sequence[Prompt], checkpoint: Path | None, batch: int = 16):
    """uint8 pictures (N, 128, 128, 3) by the torch backend and the one denoise loop."""
    artifacts = {"unet": checkpoint} if checkpoint else {}
    stages = backends()["torch"].open(config, artifacts)
    sampler = Sampler(stages, open_source(config.model, config.seed), config, asked)
    places = range(len(asked))
    made = [sampler.generate(places[i : i + batch]) for i in range(0, len(asked), batch)]
    sampler.close()
    return np.concatenate(made)


def checkpoint_of(words: Sequence[str], model: Path) -> Path | None:
    """The quantized UNet as `quantize.py` makes it, whatever the pictures' seed and noise."""
    config = configure(words, 0, model, "shared")
    return None if config.quant.format is Format.none else build.prepare(config).path


def rendered(asked: Sequence[Prompt]) -> np.ndarray:
    """Real pictures: renders of the scenes that the captions describe."""
    scenes = (world.held_out_scene(0, prompt.row) for prompt in asked)
    return render.render(scenes, fast_scorer.BUNDLED_SIZE)


def rebuilt(config: Config, pictures: np.ndarray) -> np.ndarray:
    """uint8 pictures (N, H, W, 3) as the model's VAE shows them."""
    source = open_source(config.model, config.seed)
    return encoded.rebuilt(source.component("vae", torch.float32, torch.device("cpu")), pictures)


def score(config: Config, asked: Sequence[Prompt], pictures: np.ndarray) -> dict[str, float]:
    """The scene scores of `quality=fast`, and `clip_shuffled`: every picture, another caption."""
    scorer = fast_scorer.Scenes(config, asked)
    for start in range(0, len(pictures), 64):
        places = range(start, min(start + 64, len(pictures)))
        scorer.add(places, pictures[places.start : places.stop])
    return scorer.metrics() | {"clip_shuffled": scorer.unrelated()}


def against(config: Config, theirs: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    """Distances to the unquantized baseline's pictures."""
    found = baseline.compare(list(theirs), list(ours))
    near = fast.beside_baseline(config, list(theirs), list(ours))
    return {"psnr_db": found["psnr_db"] or float("nan"), "ssim": found["ssim"], **near}


def measure(
    names: Sequence[str], count: int, seeds: Sequence[int], model: Path = BUNDLED,
    tuned: dict[str, Path] | None = None, say=lambda line: None,
) -> dict[str, list[dict[str, float]]]:  # fmt: skip
    """Scores by setting, one row for each seed; `unquantized` is always drawn.

    `real` are renders, `rebuilt` the same through the model's VAE.

    `tuned`: checkpoint folders of `train=qat` by the setting they began with, rows `SETTING+qat`.
    """
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        random = random_model(Path(temporary), model) if "random" in names else model
        runs = {"unquantized": (SETTINGS["unquantized"], None)}
        for name in names:
            if name not in ("real", "rebuilt"):
                runs[name] = (SETTINGS[name], checkpoint_of(SETTINGS[name], model))
        for name, folder in (tuned or {}).items():
            words = [*SETTINGS[name], f"quant.tuned={folder}"]
            runs[f"{name}+qat"] = (words, checkpoint_of(words, model))
        for seed in seeds:
            base = None
            plain = configure(SETTINGS["unquantized"], seed, model)
            asked = chosen(plain, count, seed)
            for name in (n for n in ("real", "rebuilt") if n in names):
                shown = rendered(asked) if name == "real" else rebuilt(plain, rendered(asked))
                found.setdefault(name, []).append(score(plain, asked, shown))
            for name, (words, checkpoint) in runs.items():
                config = configure(words, seed, random if name == "random" else model)
                pictures = draw(config, asked, checkpoint)
                base = pictures if base is None else base
                row = score(plain, asked, pictures)
                if name not in ("unquantized", "random"):
                    row |= against(plain, base, pictures)
                found.setdefault(name, []).append(row)
                say(f"seed {seed} {name}: fid_scenes {row['fid_scenes']:.2f}")
    return found
