"""What the harness costs: images/s through LoadGen over images/s of the bare sampler loop.

    python benchmarks/harness.py --rounds 5 --batches 4

One process, the two measured in turn, the median of the paired ratios printed, and beside it the
same work on diffusers' own pipeline, which encodes one prompt at a time as the MLCommons reference
does. Exits 1 if the harness keeps less than 0.97 of the bare rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hydra import compose, initialize_config_dir

from sdxl.bench import loadgen
from sdxl.bench.generators import open_generator
from sdxl.bench.keep import Keeper
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import ROOT
from sdxl.model import prompts

WANTED = 0.97


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="batches of 8 a round")
    chosen = parser.parse_args()
    count = 8 * chosen.batches
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = load(
            compose("run", [f"limit={count}", "backend.batch_size=8", "scenario.min_duration_ms=0"])
        )
    asked = prompts.load(config.dataset, config.limit, config.seed)
    generator = open_generator(config, {}, asked)
    generator.generate(list(range(8)))
    pipeline = _pipeline(generator)

    def bare() -> None:
        for start in range(0, count, 8):
            generator.generate(list(range(start, start + 8)))

    def harness() -> None:
        with tempfile.TemporaryDirectory() as folder:
            settings = loadgen.test_settings(config, count, loadgen.WarmUp(1.0, 1.0))
            keeper = Keeper(Path(folder) / "images", asked, 8, False)
            loadgen.Test(
                config, settings, count, [generator.generate], keeper.take, _fail, Path(folder)
            ).run()

    def plain() -> None:
        for start in range(0, count, 8):
            pipeline([prompt.text for prompt in asked[start : start + 8]])

    rates: dict[str, list[float]] = {"bare": [], "harness": [], "diffusers": []}
    for _ in range(chosen.rounds):
        for name, work in (("bare", bare), ("harness", harness), ("diffusers", plain)):
            began = time.perf_counter()
            work()
            rates[name].append(count / (time.perf_counter() - began))
    pairs = list(zip(rates["harness"], rates["bare"], rates["diffusers"], strict=True))
    ratio = statistics.median(h / b for h, b, _ in pairs)
    gain = statistics.median(h / d for h, _, d in pairs)
    for name, found in rates.items():
        each = " ".join(f"{rate:.3f}" for rate in found)
        print(f"{name:10} {statistics.median(found):8.3f} images/s   of {each}")
    print(f"harness / bare loop          {ratio:.3f}   (at least {WANTED} wanted)")
    print(f"harness / diffusers pipeline {gain:.3f}")
    print(json.dumps({"harness_over_bare": ratio, "harness_over_diffusers": gain}))
    return 0 if ratio >= WANTED else 1


def _pipeline(generator):
    """diffusers' own pipeline on the same modules, prompts encoded one at a time."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    from sdxl.model.tokenizer import tokenizers

    modules, model = generator.stages.modules, generator.model
    first, second = tokenizers()
    pipe = StableDiffusionXLPipeline(
        vae=modules["vae"],
        text_encoder=modules["text_encoder"],
        text_encoder_2=modules["text_encoder_2"],
        tokenizer=first,
        tokenizer_2=second,
        unet=modules["unet"],
        scheduler=type(generator.scheduler).from_config(generator.scheduler.config),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)

    def run(texts: list[str]):
        encoded = [
            pipe.encode_prompt(text, negative_prompt=model.negative_prompt) for text in texts
        ]
        positive, negative, pooled, negative_pooled = (
            torch.cat(part) for part in zip(*encoded, strict=True)
        )
        return pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled,
            latents=generator.shared.expand(len(texts), -1, -1, -1).clone(),
            num_inference_steps=model.steps,
            guidance_scale=model.guidance,
            height=model.height,
            width=model.width,
            output_type="np",
        ).images

    return run


def _fail(error: BaseException) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main())
