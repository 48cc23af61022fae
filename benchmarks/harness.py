"""What the harness costs, and what it gains over the MLCommons reference's loop.

    OMP_NUM_THREADS=1 python benchmarks/harness.py --rounds 5 --batches 4

On the bundled model in one process, in turn: the bare sampler loop; the same through LoadGen,
Offline; through LoadGen, Server at 0.9 of the bare rate, whose batches form as requests come and
wait as long as those of `+experiment=mlperf_server` (limit 20 s); the reference's way, diffusers'
own pipeline that encodes one prompt at a time, in batches of 8 and of one. Ratios are of processor
seconds, which other programs disturb least; medians of the paired ones. Exits 1 if Offline keeps
less than 0.97 of the bare loop, is not as cheap as the reference at equal batch, or if Server is
not 1.5 times as cheap as its batch of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
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
from sdxl.model.sources import open_source

BATCH = 8
WANTED = {
    ("Offline", "bare loop"): 0.97,
    ("Offline", "reference, batch 8"): 1.0,
    ("Server", "reference, batch 1"): 1.5,
}
"""Ours, the other: how many times as cheap ours must be."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="batches of 8 a round")
    chosen = parser.parse_args()
    count = BATCH * chosen.batches
    served: list[dict[str, float]] = []
    works = _works(count, served)
    spent: dict[str, list[float]] = {name: [] for name in works}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(chosen.rounds):
        for name, work in works.items():
            began, used = time.perf_counter(), time.process_time()
            drawn = work()
            spent[name].append((time.process_time() - used) / drawn)
            rates[name].append(drawn / (time.perf_counter() - began))
            print(f"{name}: {spent[name][-1]:.3f} CPU s an image", file=sys.stderr, flush=True)
    for name, found in spent.items():
        each = " ".join(f"{seconds:.3f}" for seconds in found)
        print(f"{name:18} {statistics.median(found):7.3f} CPU s an image of {each}, "
              f"{statistics.median(rates[name]):.3f} images/s")  # fmt: skip
    result, good = {}, True
    for (ours, other), wanted in WANTED.items():
        pairs = zip(spent[other], spent[ours], strict=True)
        ratio = statistics.median(theirs / mine for theirs, mine in pairs)
        print(f"{ours} over {other}: {ratio:.3f} (at least {wanted} wanted)")
        result[f"{ours} over {other}"], good = ratio, good and ratio >= wanted
    for each in served:
        print(f"Server's batches: {each['batch']:.2f} pictures, slowest answer "
              f"{each['slowest_s']:.1f} s (limit {each['limit_s']:.0f} s)")  # fmt: skip
    print(json.dumps({"ratios": result, "cpu_s": spent, "images_per_second": rates,
                      "server": served, "ok": good}))  # fmt: skip
    return 0 if good else 1


def _works(count: int, served: list[dict[str, float]]) -> dict[str, Callable[[], int]]:
    """What is measured in turn, each on `count` prompts; returns how many pictures it drew.

    `served` gets a line of each Server test: pictures a batch, its slowest answer.
    """
    register()
    words = [f"limit={count}", f"backend.batch_size={BATCH}", "scenario.min_duration_ms=0"]

    def composed(*more: str):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return load(compose("run", [*words, *more]), [*words, *more])

    config = composed()
    asked = prompts.load(config.dataset, config.limit, config.seed)
    generator = open_generator(config, {}, asked)
    pipeline = _pipeline(generator, config)

    def bare() -> int:
        for start in range(0, count, BATCH):
            generator.generate(list(range(start, start + BATCH)))
        return count

    def reference(batch: int) -> int:
        for start in range(0, count, batch):
            pipeline([prompt.text for prompt in asked[start : start + batch]])
        return count

    def through_loadgen(config) -> int:
        with tempfile.TemporaryDirectory() as folder:
            settings = loadgen.test_settings(config, count, loadgen.WarmUp(1.0, 1.0))
            keeper = Keeper(Path(folder) / "images", asked, BATCH, False)
            sut = loadgen.Test(
                config, settings, count, [generator.generate], keeper.take, _fail, Path(folder)
            ).run()
        if config.scenario.name == "Server":
            served.append({"batch": sut.counts.done / sut.counts.batches,
                           "slowest_s": max(sut.latencies_s),
                           "limit_s": config.scenario.target_latency_ms / 1e3})  # fmt: skip
        return sut.counts.done

    generator.keep_negative = False  # closed division, and the reference encodes it each time too
    generator.generate(list(range(BATCH)))
    reference(BATCH)
    began = time.perf_counter()
    bare()
    rate = 0.9 * count / (time.perf_counter() - began)
    server = composed(
        "scenario=Server",
        f"scenario.target_qps={rate}",
        f"scenario.min_query_count={count}",
        "scenario.max_wait_ms=3000",
    )
    return {
        "bare loop": bare,
        "Offline": lambda: through_loadgen(config),
        "reference, batch 8": lambda: reference(BATCH),
        "Server": lambda: through_loadgen(server),
        "reference, batch 1": lambda: reference(1),
    }


def _pipeline(generator, config):
    """diffusers' own pipeline on the same modules, prompts encoded one at a time."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    modules, model = generator.stages.modules, config.model
    first, second = open_source(model, config.seed).tokenizers()
    shared = torch.randn(1, 4, model.height // 8, model.width // 8)
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
            latents=shared.expand(len(texts), -1, -1, -1).clone(),
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
