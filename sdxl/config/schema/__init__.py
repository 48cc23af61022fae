"""Every setting: its type and its meaning. Values live in `conf/`, rules in `sdxl.config.load`.

Option files start from these nodes (`/schema/model/tiny@_here_`), so a key that an option would
ignore does not exist there and is refused. Dataclasses are not frozen: OmegaConf could not compose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from omegaconf import MISSING

from sdxl.config.choices import (
    Calls,
    Compliance,
    Convolutions,
    Device,
    DType,
    Foreign,
    Format,
    Mode,
    Noise,
    Prediction,
    Rerun,
    Round,
    Rules,
    Spacing,
    Steps,
)
from sdxl.config.content_key import added
from sdxl.config.schema.model import (
    SDXL_BASE,
    Model,
    Precision,
    RandomModel,
    ScenesModel,
    SdxlModel,
    StudentModel,
    TinyModel,
)
from sdxl.config.schema.quant import Quant
from sdxl.config.schema.scenario import (
    LoadCurve,
    MultiStream,
    Offline,
    Scenario,
    Server,
    SingleStream,
)
from sdxl.config.schema.scheduler import Ddim, Edm, Lcm, Scheduler, Spaced, Tcd
from sdxl.config.schema.shortcut import (
    SHORTCUTS,
    DeepCache,
    DeepCacheCutoff,
    DeepCacheTGate,
    GuidanceCutoff,
    Shortcut,
    TGate,
    TokenMerging,
)
from sdxl.core.types import Build

__all__ = [
    "GROUPS",
    "KEEP_IMAGES",
    "QUANT_KEYS",
    "SDXL_BASE",
    "Backend",
    "Calls",
    "Compliance",
    "Config",
    "Convolutions",
    "Cost",
    "DType",
    "Dataset",
    "Ddim",
    "DeepCache",
    "DeepCacheCutoff",
    "DeepCacheTGate",
    "Device",
    "Edm",
    "Export",
    "Foreign",
    "Format",
    "GuidanceCutoff",
    "Lcm",
    "LinesDataset",
    "LoadCurve",
    "Mode",
    "Model",
    "MultiStream",
    "Noise",
    "Offline",
    "Precision",
    "Prediction",
    "Quality",
    "Quant",
    "RandomModel",
    "Rerun",
    "Round",
    "Rules",
    "Scenario",
    "ScenesDataset",
    "ScenesModel",
    "Scheduler",
    "SdxlModel",
    "Server",
    "Shortcut",
    "SingleStream",
    "Spaced",
    "Spacing",
    "Steps",
    "StudentModel",
    "TGate",
    "Tcd",
    "TextDataset",
    "TinyModel",
    "TokenMerging",
    "Tracking",
    "TsvDataset",
]

# OmegaConf reads annotations at run time and wants `Optional[X]`, hence the spelling below.


@dataclass
class Dataset:
    """Prompts, and how many of them."""

    name: str = MISSING  # the option of `dataset=`
    shuffle: bool = False  # with `limit`: a subset drawn with `seed` in place of the first rows


@dataclass
class TsvDataset(Dataset):
    """Captions in a tab-separated file; row number = query sample index."""

    path: str = MISSING  # the caption file
    padded: bool = added(False)  # rows with id 0, or the last image again, only fill it up: dropped


@dataclass
class ScenesDataset(Dataset):
    """Captions of rendered scenes that no training has seen."""

    prompts: int = 2048  # captions drawn


@dataclass
class TextDataset(Dataset):
    """The one caption of `prompt`."""

    text: str = MISSING  # the caption


@dataclass
class LinesDataset(Dataset):
    """The file of `prompts`."""

    path: str = MISSING  # one caption a line, or a TSV


@dataclass
class Backend:
    """Who executes the model. Each backend module adds its own fields."""

    name: str = MISSING  # the option of `backend=`
    batch_size: Optional[int] = None  # images per batch; null: what the scenario wants
    devices: Optional[list[int]] = None  # one worker process for each; null: no extra process
    restarts: int = 1  # how often a worker that dies is replaced before the run fails


KEEP_IMAGES = 8
"""Pictures kept in performance mode where `quality.keep_images` does not say."""


@dataclass
class Quality:
    """What is kept of the images and how they are judged."""

    name: str = MISSING  # the option of `quality=`
    baseline: bool = True  # measure the unquantized baseline of a quantized cell, and compare
    keep_images: Optional[int] = None  # of the first prompts; null: 8, in accuracy mode all


@dataclass
class Export:
    """How ONNX graphs are made."""

    opset: Optional[int] = None  # null: the lowest that holds the number formats
    dynamic_size: bool = False  # height and width stay free, not only the batch
    sizes: Optional[list[str]] = added(None)  # that engines of it span; null: the model's buckets
    parity: bool = False  # compare each graph with torch, layer by layer
    convolutions: Optional[Convolutions] = None  # of quantized graphs; null: as the backend likes


@dataclass
class Cost:
    """What the machine costs."""

    per_hour: Optional[float] = None  # price of an hour of it, in any currency; null: unknown


@dataclass
class Tracking:
    """Where MLflow keeps runs."""

    name: str = MISSING  # the option of `tracking=`
    enabled: bool = True  # log to MLflow
    uri: Optional[str] = None  # null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the project
    experiment: str = "sdxl"  # MLflow experiment that the runs belong to
    timeout_s: float = 60.0  # seconds that MLflow may take; the record is uploaded later otherwise


@dataclass
class Config:
    """One experiment, resolved."""

    model: Model = MISSING
    precision: Precision = MISSING
    scheduler: Scheduler = MISSING
    shortcut: Shortcut = field(default_factory=lambda: Shortcut("none"))
    quant: Quant = MISSING
    dataset: Dataset = MISSING
    backend: Backend = MISSING
    scenario: Scenario = MISSING
    quality: Quality = MISSING
    tracking: Tracking = MISSING
    export: Export = field(default_factory=Export)
    cost: Cost = field(default_factory=Cost)
    quant_level: Optional[float] = None  # quant.level; null: the recipe's own
    alpha: Optional[float] = None  # quant.alpha; null: the recipe's own
    percentile: Optional[float] = None  # quant.percentile; null: the recipe's own
    calib_size: Optional[int] = None  # quant.calib_size; null: the recipe's own
    target: Optional[float] = None  # quant.target; null: the recipe's own
    prompt: Optional[str] = added(None)  # one caption in place of `dataset`: a quick look
    prompts: Optional[str] = added(None)  # a file of them, one a line (or a TSV), in its place
    size: Optional[str] = added(None)  # WIDTHxHEIGHT, in place of model.width and model.height
    limit: Optional[int] = None  # prompts used; null: all
    seed: int = 0  # of noise, random weights, subsets and, with round=custom, LoadGen
    mode: Mode = Mode.performance  # LoadGen's mode
    submission: bool = False  # accuracy mode: LoadGen logs whole pictures, not their SHA-256
    rules: Rules = Rules.auto  # MLPerf's division; auto: closed for the benchmark's own weights
    round: Round = Round("v6.1")  # MLPerf Inference round; custom: LoadGen's seeds from `seed`
    compliance: Optional[Compliance] = None  # MLPerf's audit in place of a plain measurement
    foreign: Foreign = Foreign.warn  # other people's work on this machine: note it, or fail
    build: Build = Build.auto  # missing artifacts: make them on the way, or stop
    find_peak: bool = False  # Server: search the highest rate that keeps the latency limit
    repeat: int = 1  # measurements of the cell; the median counts
    rerun: Optional[Rerun] = None  # null: a multirun continues (failed), a single run measures
    fail_fast: bool = False  # a failed cell ends the multirun
    timeout_s: Optional[float] = None  # longest a measurement may take; null: only `stall_s`
    profile: bool = False  # after the measurement: time by module and kernel, and a trace
    preset: Optional[str] = None  # whose steps and scheduler these are; set by +preset=NAME
    plan: bool = False  # say what would run, and run nothing


GROUPS: dict[str, dict[str, type]] = {
    "model": {
        "tiny": TinyModel,
        "scenes": ScenesModel,
        "scenes_4step": StudentModel,
        "sdxl": SdxlModel,
        "sdxl_random": RandomModel,
    },
    "precision": {"base": Precision},
    "scheduler": {
        "plain": Scheduler,
        "spaced": Spaced,
        "ddim": Ddim,
        "lcm": Lcm,
        "tcd": Tcd,
        "edm": Edm,
    },
    "shortcut": SHORTCUTS,
    "quant": {"base": Quant},
    "dataset": {"builtin": Dataset, "tsv": TsvDataset, "scenes": ScenesDataset},
    "scenario": {
        node.__name__: node for node in (Offline, Server, SingleStream, MultiStream, LoadCurve)
    },
    "quality": {"base": Quality},
    "tracking": {"base": Tracking},
}
"""Schema nodes by group; backends add theirs in `sdxl.config.registry`."""


QUANT_KEYS = {
    "quant_level": "level",
    "alpha": "alpha",
    "percentile": "percentile",
    "calib_size": "calib_size",
    "target": "target",
}
"""Top-level keys that override the recipe's own value, by the recipe's field."""
