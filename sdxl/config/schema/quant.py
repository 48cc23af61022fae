"""Settings of a quantization recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from omegaconf import MISSING

from sdxl.config.choices import Calls, Format, Steps


@dataclass
class Quant:
    """A recipe; `quant_level`, `alpha`, `percentile`, `calib_size` at top level override it."""

    name: str = MISSING  # the recipe: the option of `quant=`
    format: Format = Format.none  # numbers of the quantized UNet; none: nothing is quantized
    level: float = 2.5  # 1 conv, 2 + ff.net, 2.5 + to_q/k/v, 3 every Linear, 4 + attention in FP8
    include: list[str] = field(default_factory=list)  # regular expressions: added to the level
    exclude: list[str] = field(default_factory=list)  # regular expressions: kept in 16 or 32 bits
    smooth: bool = True  # SmoothQuant on the inputs of INT8 Linears
    alpha: float = 0.8  # SmoothQuant migration strength, 0 to 1
    alpha_only: Optional[str] = None  # regular expression: Linears that `alpha` rules, others 1.0
    percentile: float = 1.0  # fraction of the first denoising steps that vote on input ranges
    calls: Calls = Calls.max  # combination over calibration calls, within a step
    steps: Steps = Steps.max  # combination over those first steps
    linear_ranges: bool = False  # `percentile`, `calls`, `steps` rule Linear inputs too
    block_size: int = 128  # weights per scale, INT4 only
    calib_size: int = 32  # calibration prompts
    calib_dataset: str = "builtin"  # builtin (of a scenes model: scenes), coco_calibration, a TSV
    statistics: Optional[str] = None  # a statistics file in place of a calibration
    tuned: Optional[str] = None  # the `model` folder of a `train=qat` that began with this recipe
    report_prompts: int = 1  # calibration prompts of the per-layer error report; 0: no report
    target: Optional[float] = None  # auto_mixed: bound of the combined relative output error
    modelopt: bool = False  # keep ModelOpt's own full-size checkpoint too
