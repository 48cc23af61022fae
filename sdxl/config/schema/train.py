"""The settings of `train.py`; values live in `conf/train/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from sdxl.config.choices import DType, Prediction, Sd2Network, Weighting
from sdxl.config.content_key import added
from sdxl.config.schema import Config

# OmegaConf reads annotations at run time and wants `Optional[X]`, hence the spelling below.


@dataclass
class Training:
    """A stage: what it trains on, for how long, how fast."""

    name: str = MISSING  # the stage, a module of sdxl/training
    run: str = "scenes"  # folder of checkpoints below <store>/training
    scenes: int = 20000  # rendered scenes of the training set
    size: int = 64  # pixels of a picture
    steps: int = MISSING  # optimizer steps
    batch: int = 64  # samples per step, over all processes
    lr: float = 1e-3  # highest learning rate
    warmup_steps: int = 100  # over which the rate rises
    decay_share: float = 0.2  # of the steps, at the end: the rate falls to zero along a cosine
    base_lr: Optional[float] = added(None)  # the rate for each sample of the batch, in place of lr
    beta1: float = added(0.9)  # of AdamW: how slowly the mean of the gradients moves
    beta2: float = added(0.99)  # of AdamW: how slowly the mean of their squares moves
    epsilon: float = added(1e-8)  # of AdamW: added to the root of that mean
    weight_decay: float = 0.01  # of AdamW
    decay_all: bool = added(False)  # norms and biases decay, too
    accumulate: int = added(1)  # parts that a step's batch is computed in, one after the other
    clip_norm: Optional[float] = 1.0  # largest norm of the gradient; null: none
    ema: Optional[float] = 0.999  # largest decay of the averaged weights, at first less; null: none
    arithmetic: DType = DType.fp32  # fp32, or bf16 by autocast
    compile: bool = False  # by torch.compile: faster after minutes of compiling
    checkpoint_s: float = 120.0  # seconds between checkpoints
    evaluate_every: int = 50000  # samples between evaluations
    keep_every: Optional[int] = added(None)  # samples between weights that stay; null: the last
    max_s: Optional[float] = None  # stop, resumable, after so many seconds
    restart: bool = False  # begin anew instead of resuming


@dataclass
class Noising(Training):
    """A stage whose UNet learns what is noise in latents, and is told what they show."""

    dropped: float = added(0.1)  # share of the rows that are told nothing, or the negative prompt
    weighting: Weighting = added(Weighting.min_snr)  # of the timesteps in the loss


@dataclass
class Tuning(Training):
    """A stage that goes on from the UNet of `model=`; qat from what `quant=` makes of it."""

    shards: Optional[str] = None  # tar files with latents, FOLDER or GLOB; null: rendered scenes


@dataclass
class Finetune(Noising, Tuning):
    """All weights of an unquantized UNet."""

    prediction: Optional[Prediction] = added(None)  # what it learns to tell; null: as it does now

    gradient_checkpointing: bool = False  # less memory, a third more time


@dataclass
class Lora(Finetune):
    """Low-rank layers beside those of the UNet, quantized or not, for `model.lora`."""

    rank: int = 16  # width of the layers
    alpha: Optional[float] = None  # what they add counts alpha / rank; null: as much as rank
    targets: list[str] = MISSING  # regular expressions found in layers' names, as quant.include
    text_encoders: bool = False  # layers beside the attention of both text encoders, too


@dataclass
class Sd2(Noising):
    """MLPerf's training benchmark: the UNet of Stable Diffusion 2 from random weights."""

    network: Sd2Network = (
        Sd2Network.sd2_tiny
    )  # its shapes: a miniature that learns, or the true ones
    shards: Optional[str] = None  # tar files with moments, FOLDER or GLOB; sd2_random needs none
    eval_prompts: int = 64  # captions drawn at an evaluation
    eval_steps: int = 50  # of DDIM
    eval_batch: int = added(32)  # pictures drawn at once
    guidance: float = 8.0  # of the pictures drawn at an evaluation


@dataclass
class Distill(Training):
    """A student of few steps; the teacher is the model as `model=` has it, guidance included."""

    student_steps: int = 4  # steps that the student draws in
    teacher_steps: int = 20  # steps of the teacher, a multiple of them
    captions: Optional[str] = None  # a text file, all of its lines; null: of rendered scenes


KINDS: dict[str, type[Training]] = {
    "unet": Noising,
    "qat": Tuning,
    "finetune": Finetune,
    "lora": Lora,
    "sd2_mlperf": Sd2,
    "distill": Distill,
}
"""Stages with settings of their own."""


@dataclass
class TrainConfig(Config):
    """What `train.py` takes: a stage beside the groups of the other commands."""

    train: Training = MISSING
    evaluate: Optional[str] = None  # a training's folder: score the weights that it has kept


NODES: dict[str, type] = {
    "stage": Training,
    "noising": Noising,
    "tuning": Tuning,
    "finetune": Finetune,
    "lora": Lora,
    "sd2": Sd2,
    "distill": Distill,
}
"""Schemas of `train=`, as their files name them."""
