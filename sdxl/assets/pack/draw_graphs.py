"""Pictures of a prompt, with these graphs alone.   python draw.py "a red cube" picture.png"""

import json
import sys
from pathlib import Path

import numpy as np
from runtime import Graphs, versions
from tokenizers import Tokenizer


class Pack:
    """The graphs, the tokenizers, and the scheduler as a table: x' = a x + b e + carried + n z."""

    def __init__(self, folder: Path) -> None:
        self.told, self.versions = json.loads((folder / "pack.json").read_text()), versions()
        self.graphs, self.tokenizers = Graphs(folder, self.told), []
        for name in ("tokenizer", "tokenizer_2"):
            pad = json.loads((folder / name / "tokenizer_config.json").read_text())["pad_token"]
            made = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
            made.enable_truncation(77)
            made.enable_padding(length=77, pad_token=pad, pad_id=made.token_to_id(pad) or 0)
            self.tokenizers.append(made)

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states (1, 77, D) of both encoders, and the pooled output of the second."""
        names, found = self.told["names"], []
        for graph, words in zip(("text_encoder", "text_encoder_2"), self.tokenizers, strict=True):
            ids = np.asarray([words.encode(text).ids], np.int64)
            found.append(self.graphs.run(graph, {"input_ids": ids}))
        states = [each[name] for each, name in zip(found, names["hidden"], strict=True)]
        return np.concatenate(states, axis=-1), found[1][names["pooled"]]

    def draw(self, prompt: str, noise: np.ndarray, seed: int) -> np.ndarray:
        """One picture (H, W, 3); noise: (1, 4, h, w), of unit variance; seed: of noisy steps."""
        told, schedule, names = self.told["settings"], self.told["schedule"], self.told["names"]
        (hidden, pooled), size = self.encode(prompt), [told["height"], told["width"]]
        if schedule["guided"]:
            other, share = self.encode(told["negative_prompt"] or ""), 0 if schedule["zeros"] else 1
            hidden = np.concatenate([other[0] * share, hidden])
            pooled = np.concatenate([other[1] * share, pooled])
        rows = len(hidden)
        fixed = {"encoder_hidden_states": hidden, "text_embeds": pooled}
        fixed["time_ids"] = np.tile(np.asarray([[*size, 0, 0, *size]], np.float32), (rows, 1))
        if schedule["timestep_cond"]:
            fixed["timestep_cond"] = np.tile(np.asarray(schedule["timestep_cond"]), (rows, 1))
        latents, carried = noise * schedule["start"], np.zeros_like(noise)
        sample, random = latents * schedule["first"], stepwise(noise.shape, seed, schedule["noisy"])
        for at, after, a, b, c, d, n in schedule["rows"]:
            given = {"sample": np.tile(sample, (rows, 1, 1, 1)), "timestep": np.asarray([at])}
            found = self.graphs.run("unet", {**given, **fixed})[names["noise"]].astype(np.float32)
            if rows == 2:
                found = found[:1] + told["guidance"] * (found[1:] - found[:1])
            moved = a * latents + b * found + carried + n * next(random)
            latents, carried = moved, c * latents + d * found
            sample = latents * after
        scale, shift = (np.reshape(names[name], (1, -1, 1, 1)) for name in ("scale", "shift"))
        given = {names["latents"]: latents * scale + shift}
        image = self.graphs.run("vae_decoder", given)[names["image"]][0].astype(np.float32)
        return (np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8)


def stepwise(shape, seed, noisy):
    """The noise that each step adds; the record's own needs torch, which drew it."""
    if noisy:
        import torch

        generator = torch.Generator("cpu").manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator).numpy() if noisy else 0.0


if __name__ == "__main__":
    from PIL import Image

    pack = Pack(Path(__file__).resolve().parent)
    size = pack.told["settings"]["height"] // 8, pack.told["settings"]["width"] // 8
    start = np.random.default_rng().standard_normal((1, 4, *size), dtype=np.float32)
    Image.fromarray(pack.draw(sys.argv[1], start, 0)).save(sys.argv[2])
