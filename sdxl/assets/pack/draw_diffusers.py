"""Pictures of a prompt, with diffusers alone.   python draw.py "a red cube" picture.png"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline


class Pack:
    """The pipeline of this folder, and the settings of the record."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "pack.json").read_text())
        self.settings, needed = told["settings"], told["needs"]
        self.versions = {name: importlib.metadata.version(name) for name in needed}
        if "torchao" in needed:
            import torchao  # noqa: F401  diffusers would say that it is missing in other words
        dtypes = {name: getattr(torch, each) for name, each in told["dtypes"].items()}
        self.pipe = DiffusionPipeline.from_pretrained(
            str(folder),
            torch_dtype={"default": torch.float32, **dtypes},
            local_files_only=True,
            add_watermarker=False,
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    def draw(self, prompt: str, noise: np.ndarray, seed: int) -> np.ndarray:
        """One picture (H, W, 3); noise: (1, 4, h, w), of unit variance; seed: of noisy steps."""
        unet, told = self.pipe.unet, self.settings
        with torch.inference_mode():
            drawn = self.pipe(
                prompt,
                negative_prompt=told["negative_prompt"],
                height=told["height"],
                width=told["width"],
                num_inference_steps=told["steps"],
                guidance_scale=told["guidance"],
                eta=told["eta"],
                latents=torch.from_numpy(noise.copy()).to(unet.device, unet.dtype),
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="np",
            ).images[0]
        return (drawn * 255).round().astype(np.uint8)


if __name__ == "__main__":
    from PIL import Image

    pack = Pack(Path(__file__).resolve().parent)
    size = pack.settings["height"] // 8, pack.settings["width"] // 8
    start = np.random.default_rng().standard_normal((1, 4, *size), dtype=np.float32)
    Image.fromarray(pack.draw(sys.argv[1], start, 0)).save(sys.argv[2])
