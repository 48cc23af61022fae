"""Does memory stay flat while an accuracy run is scored? Peak RSS after 500 and 2,000 pictures.

    python benchmarks/scoring_memory.py --shallow      # 2,000 pictures in minutes
    python benchmarks/scoring_memory.py
    python benchmarks/scoring_memory.py --counts 16 32  # the whole networks' peak

Pictures of 1024 x 1024 pass through what takes them in an accuracy run: they are checked, written
as PNG, and scored by the metric networks in their true sizes, with random weights. Nearly all the
time goes into Inception and CLIP's vision tower. `--shallow` keeps of each the part that needs the
most memory, Inception's first five convolutions at full width and one layer of CLIP: only one
layer's activations live at a time. At each count FID is computed as well. Exits 1 if the peak grew
by more than 5 % or lies more than 2.5 GB above the loaded networks.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional

from sdxl.bench.keep import Keeper
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import ROOT
from sdxl.core.types import Prompt, Sample
from sdxl.quality.inception import FEATURES, INPUT, Inception
from sdxl.quality.scoring import Scoring

GROWTH, ABOVE_BYTES = 1.05, 2.5e9
BATCH = 8
GIB = 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--size", type=int, default=1024, help="pixels of the pictures")
    parser.add_argument("--shallow", action="store_true", help="the networks' hungry parts only")
    chosen = parser.parse_args()
    register()
    with tempfile.TemporaryDirectory() as folder:
        write_networks(Path(folder), 1 if chosen.shallow else 12)
        if chosen.shallow:
            Inception.forward = first_convolutions
        words = [
            "backend=fake", "mode=accuracy", "quality=full",
            f"quality.inception={folder}/inception.pth", f"quality.clip={folder}/clip.safetensors",
            f"quality.vocabulary={folder}/bpe.txt", f"quality.statistics={folder}/statistics.npz",
        ]  # fmt: skip
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = load(compose("run", words))
        prompts = [Prompt(n, f"picture {n} of many", n) for n in range(max(chosen.counts))]
        keeper = Keeper(Path(folder) / "images", prompts, len(prompts), accuracy=True)
        scoring = Scoring(config, prompts)
        scoring.begin()
        networks = psutil.Process().memory_info().rss
        said = f"networks loaded: {networks / GIB:.3f} GiB, peak {peak() / GIB:.3f} GiB"
        print(said, flush=True)
        reset_peak()
        peaks = measure(keeper, scoring, sorted(chosen.counts), chosen.size)
        written = keeper.finish(None)
        assert len(written) == max(chosen.counts)
    growth, above = peaks[-1] / peaks[0], peaks[-1] - networks
    print(f"peak at the last count over the first: {growth:.4f}   (at most {GROWTH} wanted)")
    print(f"above the networks: {above / 1e9:.2f} GB   (at most {ABOVE_BYTES / 1e9} wanted)")
    print(json.dumps({"growth": growth, "above_networks_bytes": above, "peaks": peaks}))
    return 0 if growth <= GROWTH and above <= ABOVE_BYTES else 1


def measure(keeper: Keeper, scoring: Scoring, counts: list[int], side: int) -> list[int]:
    """Peak memory by then, bytes, at each count of pictures."""
    rng, made, peaks, began = np.random.default_rng(0), 0, [], time.perf_counter()
    for count in counts:
        while made < count:
            size = min(BATCH, count - made)
            small = rng.integers(0, 256, (size, side // 16, side // 16, 3), np.uint8)
            pictures = small.repeat(16, axis=1).repeat(16, axis=2)
            batch = [Sample(n, made + n) for n in range(size)]
            keeper.take(batch, pictures)
            scoring.take(batch, pictures)
            made += size
        while_scoring = peak()
        scoring.finish(lambda _: None)
        peaks.append(peak())
        print(
            f"{count:6} pictures: peak {while_scoring / GIB:.3f} GiB while scoring, "
            f"{peaks[-1] / GIB:.3f} GiB with FID, {time.perf_counter() - began:.0f} s, "
            f"{time.process_time():.0f} s of processor",
            flush=True,
        )
    return peaks


def first_convolutions(self: Inception, x: torch.Tensor) -> torch.Tensor:
    """Inception up to 71 x 71 pixels; 192 channels, mixed into as many features as it has."""
    x = functional.interpolate(x, (INPUT, INPUT), mode="bilinear", align_corners=False)
    x = 2 * x - 1
    for name, module in islice(self.named_children(), 5):
        x = module(functional.max_pool2d(x, 3, 2) if name == "Conv2d_3b_1x1" else x)
    mixed = torch.randn(x.shape[1], FEATURES, generator=torch.Generator().manual_seed(0))
    return x.mean((2, 3)) @ mixed


def peak() -> int:
    """Peak resident memory since `reset_peak`, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    """Forget the peak of loading, where the kernel can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"the peak of loading stays in: {error}")


def write_networks(folder: Path, layers: int) -> None:
    """Inception and CLIP ViT-B/32 in the files' layouts, random weights, and statistics."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    from sdxl.model.clip_vocabulary import MERGES, vocabulary_of

    torch.manual_seed(0)
    torch.save(Inception().state_dict(), folder / "inception.pth")
    letters = list(vocabulary_of([]))[:256]
    merges = list(islice(product(letters, letters), MERGES))
    lines = ["#version", *(" ".join(pair) for pair in merges)]
    (folder / "bpe.txt").write_text("\n".join(lines))
    clip = CLIPModel(
        CLIPConfig(
            text_config={"vocab_size": len(vocabulary_of(merges)), "num_hidden_layers": layers},
            vision_config={"num_hidden_layers": layers, "patch_size": 32},
        )
    )
    save_file(
        {n: v.contiguous() for n, v in clip.state_dict().items()}, folder / "clip.safetensors"
    )
    np.savez(folder / "statistics.npz", mu=np.zeros(FEATURES), sigma=np.eye(FEATURES))


if __name__ == "__main__":
    sys.exit(main())
