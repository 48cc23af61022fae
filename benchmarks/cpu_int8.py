"""One UNet forward of SDXL's real shapes on a CPU: fp32, bf16, and INT8 computed for real.

    python benchmarks/cpu_int8.py
    python benchmarks/cpu_int8.py --latent 128 --rows 1 --threads 1

One process, the same weights and input, one after the other: bf16 eager (whose first pass gives
the calibration statistics), fp32 eager, real INT8 in bf16, simulated INT8 in bf16. Weights are
random, so pictures would mean nothing; shapes, speed and rounding errors are SDXL's. Processor
seconds are printed beside wall seconds, because a shared machine stretches only the latter. Needs
12 GB of memory and 3 GB of disk.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Threads that wait must not spin: on a shared machine they would burn the other's time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def inputs(config: Any, rows: int, latent: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a sampler hands to the UNet."""
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    pixels = float(latent * 8)
    times = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * rows, dtype=dtype)
    return {
        "sample": draw(rows, 4, latent, latent),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": draw(rows, 77, config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": draw(rows, pooled), "time_ids": times},
        "return_dict": False,
    }


def forward(unet: Any, given: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return unet(**given)[0]


def measured(name: str, unet: Any, given: dict[str, Any], runs: int) -> tuple[Any, torch.Tensor]:
    """Time some passes, print the fastest and its share by kind of module; and its output."""
    from sdxl.bench.profile import ModuleTimes

    rows: list[dict[str, Any]] = []
    for _ in range(runs):
        began, spent = time.perf_counter(), time.process_time()
        with ModuleTimes(unet) as times:
            output = forward(unet, given)
        kinds = times.by_kind()
        rows.append(
            {
                "wall_s": round(time.perf_counter() - began, 3),
                "processor_s": round(time.process_time() - spent, 3),
                "share": {k: round(s / sum(kinds.values()), 3) for k, s in kinds.items()},
            }
        )
    best = min(rows, key=lambda row: row["processor_s"])
    best["wall_s"] = min(row["wall_s"] for row in rows)
    print(f"{name:16}", json.dumps(best), flush=True)
    return best, output


def cast(unet: Any, dtype: torch.dtype) -> None:
    """One tensor at a time: both dtypes of all would not fit."""
    for part in unet.modules():
        for tensor in part._parameters.values():
            if tensor is not None:
                tensor.data = tensor.data.to(dtype)


def calibrated(unet: Any, given: dict[str, Any]) -> Any:
    """Statistics of this one input."""
    from sdxl.quant import calibrate
    from sdxl.quant.collect import Collector

    collector = Collector(unet)
    collector.step(0, 500.0)
    forward(unet, given)
    tensors, channels = collector.end_of_prompt()
    collector.close()
    table = calibrate.empty(collector, {})
    table.add(tensors, channels)
    return table


def checkpoint(unet: Any, statistics: Any, level: float, folder: Path) -> None:
    """Quantize `unet` (which cannot be used afterwards) and write its compact checkpoint."""
    from sdxl.config import schema
    from sdxl.quant import apply, levels

    quant = schema.Quant(
        "int8", schema.Format.int8, level=level, exclude=list(levels.NVIDIA_EXCLUDED)
    )
    chosen = levels.select(levels.layers_of(unet), quant)
    apply.write(apply.quantize(unet, chosen, statistics, quant), chosen, quant, folder)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of `other`."""
    return float((one.float() - other.float()).norm() / other.float().norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--rows", type=int, default=2, help="2: guidance")
    parser.add_argument("--level", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=2, help="timed passes each")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model", choices=("sdxl", "tiny"), default="sdxl")
    parser.add_argument("--json", type=Path, help="write the result here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    from sdxl.backends.torch import real, simulated
    from sdxl.model import architecture
    from sdxl.model.seeded import RandomSource

    configs = architecture.SDXL if arguments.model == "sdxl" else architecture.TINY
    source = RandomSource(configs, 0, through_fp32=False)
    cpu, bf16 = torch.device("cpu"), torch.bfloat16
    result: dict[str, Any] = {
        "torch": torch.__version__, "threads": arguments.threads, "rows": arguments.rows,
        "latent": arguments.latent, "level": arguments.level,
    }  # fmt: skip

    unet: Any = source.component("unet", bf16, cpu).to(memory_format=torch.channels_last)
    given = inputs(unet.config, arguments.rows, arguments.latent, bf16)
    full = inputs(unet.config, arguments.rows, arguments.latent, torch.float32)
    statistics = calibrated(unet, given)
    result["bf16"], plain = measured("bf16 eager", unet, given, arguments.runs)
    cast(unet, torch.float32)
    forward(unet, full)
    result["fp32"], wanted = measured("fp32 eager", unet, full, arguments.runs)
    cast(unet, bf16)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoint(unet, statistics, arguments.level, folder)
        del unet
        gc.collect()

        def shapes() -> Any:
            return source.component("unet", bf16, torch.device("meta"))

        unet, choice = real.restore(shapes(), folder, bf16, cpu)
        unet.to(memory_format=torch.channels_last)
        forward(unet, given)
        result["real"], real = measured("INT8 real", unet, given, arguments.runs)
        del unet
        gc.collect()
        unet = simulated.restore(shapes(), folder, bf16, cpu)
        unet.to(memory_format=torch.channels_last)
        result["simulated"], simulated = measured("INT8 simulated", unet, given, 1)

    found = choice.describe()
    result["kernels"], result["fallbacks"] = found["kernels"], found["fallbacks"]
    result["shapes"] = found["shapes"]
    for base in ("fp32", "bf16"):
        result[f"speed_up_over_{base}"] = {
            unit: round(result[base][unit] / result["real"][unit], 3)
            for unit in ("wall_s", "processor_s")
        }
    result["relative_distance"] = {
        "real to simulated": distance(real, simulated),
        "simulated to bf16": distance(simulated, plain),
        "real to bf16": distance(real, plain),
        "bf16 to fp32": distance(plain, wanted),
    }
    result["peak_rss_gb"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "shapes"}))


if __name__ == "__main__":
    main()
