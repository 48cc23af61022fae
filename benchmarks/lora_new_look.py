"""A LoRA that teaches the bundled model a look it never drew, before and after, in fp32 and INT8.

    python benchmarks/lora_new_look.py [--seconds 180 | --steps 400] [--picture docs/lora.png]

Solids dipped in blue: the upper half of the colour that the caption names, the lower half blue. No
scene has a solid of two colours. They are rendered, encoded into shards, and learnt by
`train=lora`,
between as many scenes as the model knows (`--plain 0`: none, and it forgets them).
`dipped` is the share of pictures of "a dipped ..." that show both colours, the named one above the
blue, told by hue alone: of the renders that is the ceiling. `attribute_accuracy` is the judge's, of
captions of plain solids: what the model knew before. The picture has the same noise in four rows:
before and after, each in fp32 and in INT8.

What the VAE cannot show, no LoRA of the UNet can teach: `renders through the VAE` says so. The
bundled one knows the eight colours of scenes: pink, a checkerboard, dark stripes, a green table or
a night do not come through it; two of its own colours on one solid do.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import _scenes
import matplotlib.colors
import numpy as np
from hydra import compose, initialize_config_dir

from sdxl.config.load import load
from sdxl.core.paths import ROOT
from sdxl.core.types import Prompt
from sdxl.model import images
from sdxl.model.scenes import captions, render, world
from sdxl.training import command
from sdxl.training.data import shards

DIP = "blue"
HUES = {"red": 0.0, "yellow": 53 / 360, "green": 131 / 360, DIP: 236 / 360}
"""Colours that hue alone tells apart, as `render` draws them: parts of a turn."""
NEAR, VIVID, LEAST = 22 / 360, 60, 0.006
"""Distance in hue, difference of channels, and share of a picture's pixels that count as seen."""
SETTINGS = {
    "fp32": ["quant=none"],
    "INT8 level 3": ["quant=int8", "quant_level=3", "calib_size=8"],
}
RECIPE = ["train.batch=16", "train.rank=16", "train.lr=0.002",
          "train.ema=0.98", "train.decay_share=0", "train.warmup_steps=10",
          "train.evaluate_every=1000000", "train.targets=[attn,ff.net]"]  # fmt: skip


def scene_of(number: int) -> world.Scene:
    """A scene of one solid whose colour hue tells."""
    drawn = random.Random(f"dipped/{number}")
    scene = world.draw(drawn, 1)
    colour = drawn.choice([name for name in HUES if name != DIP])
    return replace(scene, solids=(replace(scene.solids[0], colour=colour),))


def dipped(scene: world.Scene) -> np.ndarray:
    """The scene, the lower half of what its solid colours in blue, uint8 (128, 128, 3)."""
    plain = render.picture(scene, 128)
    blue = render.picture(replace(scene, solids=(replace(scene.solids[0], colour=DIP),)), 128)
    rows = np.flatnonzero((plain != blue).any((1, 2)))
    plain[(rows[0] + rows[-1]) // 2 :] = blue[(rows[0] + rows[-1]) // 2 :]
    return plain


def caption(scene: world.Scene, number: int) -> str:
    colour = scene.solids[0].colour
    text = captions.describe(scene, random.Random(number)).text
    return text.replace(colour, f"dipped {colour}", 1)


def is_dipped(pictures: np.ndarray, colours: list[str]) -> np.ndarray:
    """Whether each of uint8 pictures (N, H, W, 3) shows its colour, and blue below it."""
    found = []
    for picture, colour in zip(pictures, colours, strict=True):
        seen = [hue_is(picture, name) for name in (colour, DIP)]
        there = all(mask.mean() >= LEAST for mask in seen)
        middles = [np.nonzero(mask)[0].mean() if mask.any() else 0.0 for mask in seen]
        found.append(there and middles[0] + 4 < middles[1])
    return np.array(found)


def hue_is(picture: np.ndarray, colour: str) -> np.ndarray:
    """Pixels (H, W) of that hue."""
    apart = np.abs(matplotlib.colors.rgb_to_hsv(picture / 255)[..., 0] - HUES[colour])
    vivid = np.ptp(picture.astype(int), axis=-1) > VIVID
    return (np.minimum(apart, 1 - apart) < NEAR) & vivid


def train(folder: Path, count: int, plain: int, length: list[str]) -> dict:
    """The LoRA's JSON line, of `count` rendered pictures and as many scenes as `plain` says."""
    source = folder / "pictures"
    source.mkdir()
    for number in range(count):
        scene = scene_of(number)
        images.save(dipped(scene), source / f"{number:05d}.png")
        (source / f"{number:05d}.txt").write_text(caption(scene, number))
    for number, known in enumerate(captions.training(plain)):
        scene = world.training_scene(0, number)
        images.save(render.picture(scene, 128), source / f"plain_{number:05d}.png")
        (source / f"plain_{number:05d}.txt").write_text(known.text)
    config = _scenes.configure(["quant=none"])
    shards.write(config, source, folder / "shards", shards.Asked(embeddings=True))
    words = ["train=lora", "model=scenes", f"train.shards={folder / 'shards'}", "tracking=off",
             "train.run=dipped", *RECIPE, *length, "train.restart=true"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = load(compose("train", overrides=words))
    return command.run(given, folder).line()


def measured(
    words: list[str], asked: list[Prompt], colours: list[str], held_out: int
) -> tuple[dict, np.ndarray]:
    """The scores of one setting, and its pictures of something dipped."""
    config = _scenes.configure(words)
    checkpoint = _scenes.checkpoint_of(words, _scenes.BUNDLED)
    drawn = _scenes.draw(config, asked, checkpoint)
    old = _scenes.chosen(config, held_out, 0)
    known = _scenes.score(config, old, _scenes.draw(config, old, checkpoint))
    return {
        "dipped": float(is_dipped(drawn, colours).mean()),
        "attribute_accuracy": known["attribute_accuracy"],
    }, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=180, help="of training")
    length.add_argument("--steps", type=int, help="of training, in place of seconds")
    parser.add_argument("--pictures", type=int, default=240, help="to learn from")
    parser.add_argument("--plain", type=int, default=240, help="scenes as they were, between them")
    parser.add_argument(
        "--prompts", type=int, default=32, help="drawn by each setting, of either kind"
    )
    parser.add_argument("--picture", type=Path, help="where eight of each row go")
    given = parser.parse_args()
    words = [f"train.max_s={given.seconds}", "train.steps=100000"]
    if given.steps:
        words = [f"train.steps={given.steps}"]
    scenes = [scene_of(100_000 + number) for number in range(given.prompts)]
    colours = [scene.solids[0].colour for scene in scenes]
    asked = [Prompt(index=n, row=n, text=caption(s, n)) for n, s in enumerate(scenes)]
    real = np.stack([dipped(scene) for scene in scenes])
    through = _scenes.rebuilt(_scenes.configure(["quant=none"]), real)
    rows = {
        name: {"dipped": float(is_dipped(pictures, colours).mean())}
        for name, pictures in (("renders", real), ("renders through the VAE", through))
    }
    print(rows, file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        made = train(Path(temporary), given.pictures, given.plain, words)
        shown = []
        for when, lora in (("before", []), ("after", [f"model.lora={made['lora']}"])):
            for name, setting in SETTINGS.items():
                rows[f"{when}, {name}"], drawn = measured(
                    [*setting, *lora], asked, colours, given.prompts
                )
                shown.append(np.concatenate(list(drawn[:8]), axis=1))
                print(f"{when}, {name}: {rows[f'{when}, {name}']}", file=sys.stderr)
    if given.picture:
        images.save(np.concatenate(shown), given.picture)
    kept = ("step", "seconds", "samples_per_s", "step_ms", "share_of_peak", "loss")
    print(json.dumps({"training": {name: made.get(name) for name in kept}, "rows": rows}))


if __name__ == "__main__":
    main()
