"""Twelve INT8 settings from one calibration, against twelve calibrations by ModelOpt itself.

    python benchmarks/quant_grid.py                      32 prompts, 20 steps, bundled model
    python benchmarks/quant_grid.py --prompts 4 --steps 4

The grid is 4 levels x 3 alphas. Every scale and every weight of the twelve pairs must be equal to
the bit, and the shared grid must run the UNet exactly as often as one calibration does.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.config.schema import Config, Quant
from sdxl.core.paths import ROOT
from sdxl.quant import apply, calibrate, levels, statistics
from sdxl.quant.levels import Kind
from sdxl.quant.unquantized import Unquantized

LEVELS = (1, 2, 2.5, 3)
ALPHAS = (0.5, 0.8, 1.0)


def settings(arguments: argparse.Namespace) -> list[Config]:
    """The twelve configurations."""
    register()
    made = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for level in LEVELS:
            for alpha in ALPHAS:
                made.append(
                    load(
                        compose(
                            "quantize",
                            overrides=[
                                "quant=int8", f"quant_level={level}", f"alpha={alpha}",
                                f"calib_size={arguments.prompts}", "rules=open",
                                f"model.steps={arguments.steps}", "model.device=cpu",
                                *arguments.overrides,
                            ],
                        )
                    )
                )  # fmt: skip
    return made


def by_modelopt(unet: Any, quant: Quant, calibration: calibrate.Calibration, prompts: int) -> Any:
    """`mtq.quantize` on exact names with its own calibration."""
    import modelopt.torch.quantization as mtq

    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for layer in levels.select(levels.layers_of(unet), quant):
        axis = -1 if layer.kind is Kind.linear else None
        for part, at in (("weight", 0), ("input", axis)):
            entries.append(
                {"quantizer_name": f"{layer.name}.{part}_quantizer",
                 "cfg": {"num_bits": 8, "axis": at}}
            )  # fmt: skip

    def forward_loop(model: Any) -> None:
        calibration.stages.network = model
        for index in range(prompts):
            calibration.sampler.latents([index])

    algorithm = {"method": "smoothquant", "alpha": quant.alpha}
    return mtq.quantize(unet, {"quant_cfg": entries, "algorithm": algorithm}, forward_loop)


def main() -> None:
    """Run both grids and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--at-least", type=float, default=8.0, help="fail below this ratio")
    parser.add_argument("overrides", nargs="*", help="further key=value settings")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    grid = settings(arguments)
    texts = calibrate.calibration_prompts(grid[0].quant)
    calibration = calibrate.Calibration(grid[0], texts)
    unquantized = calibration.unet
    import modelopt.torch.quantization  # noqa: F401  both grids use it: not part of either time

    with tempfile.TemporaryDirectory() as store:
        os.environ["SDXL_STORE"] = store
        counted: list[Unquantized] = []
        plain = Unquantized.__init__

        def counting(self: Any, *args: Any) -> None:
            plain(self, *args)
            counted.append(self)

        Unquantized.__init__ = counting  # type: ignore[method-assign]
        began, began_cpu = time.perf_counter(), time.process_time()
        shared = []
        for config in grid:
            table = statistics.load(calibrate.get(config).path / calibrate.FILE)
            unet = copy.deepcopy(unquantized)
            chosen = levels.select(levels.layers_of(unet), config.quant)
            shared.append(apply.quantize(unet, chosen, table, config.quant).state_dict())
        shared_s, shared_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        Unquantized.__init__ = plain  # type: ignore[method-assign]
    forwards = sum(stage.forwards for stage in counted)
    assert forwards == arguments.prompts * arguments.steps, forwards

    separate_s = separate_cpu_s = 0.0
    calibration.stages.forwards = 0
    for number, (config, ours) in enumerate(zip(grid, shared, strict=True)):
        began, began_cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            unet = by_modelopt(
                copy.deepcopy(unquantized), config.quant, calibration, arguments.prompts
            )
        separate_s += time.perf_counter() - began
        separate_cpu_s += time.process_time() - began_cpu
        theirs = unet.state_dict()
        assert ours.keys() == theirs.keys()
        unequal = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert not unequal, unequal[:5]
        print(
            f"{number + 1:2}/12 level {config.quant.level:g} alpha {config.quant.alpha:g}: "
            f"{len(ours)} tensors equal, {separate_s:.0f} s so far",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    ratio = separate_s / shared_s
    result = {
        "settings": len(grid),
        "prompts": arguments.prompts,
        "steps": arguments.steps,
        "shared_s": round(shared_s, 2),
        "separate_s": round(separate_s, 2),
        "ratio": round(ratio, 2),
        # The same in processor time, which other programs on the machine do not change.
        "cpu_ratio": round(separate_cpu_s / shared_cpu_s, 2),
        "unet_forwards_shared": forwards,
        "unet_forwards_separate": calibration.stages.forwards,
        "identical": True,
    }
    print(json.dumps(result))
    if ratio < arguments.at_least:
        sys.exit(f"only {ratio:.1f} times faster, expected {arguments.at_least:g}")


if __name__ == "__main__":
    main()
