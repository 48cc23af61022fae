"""Folders of SDXL's form made from the bundled model: other schedulers, an LCM UNet."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sdxl.core.paths import BUNDLED

PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
WIDTH = 64
"""Of the guidance scale's embedding."""
SIZE = ("model=sdxl", "model.height=64", "model.width=64", "model.noise=per_prompt",
        "model.guidance=4", "rules=open", "backend.loop=scheduler")  # fmt: skip
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "beta_start": 0.00085,
         "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "timestep_spacing": "trailing"}  # fmt: skip
SDE = {"_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012,
       "beta_schedule": "scaled_linear", "algorithm_type": "sde-dpmsolver++", "steps_offset": 1,
       "use_karras_sigmas": True, "timestep_spacing": "leading"}  # fmt: skip


def folder(out: Path, scheduler: dict | None = None, index: dict | None = None) -> Path:
    """The bundled model as an ordinary folder: weights linked, changed files its own."""
    out.mkdir(parents=True)
    for part in PARTS:
        shutil.copytree(
            BUNDLED / part, out / part, copy_function=lambda a, b: Path(b).symlink_to(a)
        )
    (out / "scheduler").mkdir()
    own = json.loads((BUNDLED / "scheduler/scheduler_config.json").read_text())
    given = scheduler if scheduler and "_class_name" in scheduler else {**own, **(scheduler or {})}
    (out / "scheduler/scheduler_config.json").write_text(json.dumps(given))
    told = json.loads((BUNDLED / "model_index.json").read_text()) | (index or {})
    told["scheduler"] = ["diffusers", given["_class_name"]]
    (out / "model_index.json").write_text(json.dumps(told))
    return out


def lcm(out: Path) -> Path:
    """A folder whose UNet takes an embedding of the guidance scale, with weights that count."""
    made = folder(out, {"_class_name": "LCMScheduler", "beta_schedule": "scaled_linear",
                        "beta_start": 0.00085, "beta_end": 0.012})  # fmt: skip
    file, config = (made / "unet" / name for name in
                    ("diffusion_pytorch_model.safetensors", "config.json"))  # fmt: skip
    state = load_file(file)
    inner = state["time_embedding.linear_1.weight"].shape[1]
    drawn = 0.3 * np.random.default_rng(0).standard_normal((inner, WIDTH))
    like = state["conv_in.weight"].dtype
    state["time_embedding.cond_proj.weight"] = drawn.astype(like)
    said = json.loads(config.read_text()) | {"time_cond_proj_dim": WIDTH}
    for path in (file, config):
        path.unlink()
    save_file(state, file, {"format": "pt"})
    config.write_text(json.dumps(said))
    return made
