"""Settings of the model: what is generated, and in which dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from sdxl.config.choices import Device, DType, Noise
from sdxl.config.content_key import added, note

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
"""The benchmark's model, by its hub id."""


@dataclass
class Model:
    """What is generated: architecture, size, steps, guidance, noise."""

    name: str = MISSING  # the option of `model=`
    device: Device = Device.auto  # auto: CUDA, else MPS, else the CPU; meta: shapes only
    height: int = MISSING  # pixels of a picture
    width: int = MISSING  # pixels of a picture
    steps: int = 20  # denoising steps
    guidance: float = 8.0  # classifier-free guidance scale; 1: none
    negative_prompt: Optional[str] = MISSING  # what guidance leads away from; null: nothing
    noise: Noise = Noise.shared  # first latents: one for all prompts (MLPerf), or one for each
    latents: Optional[str] = None  # .npy (1, 4, height/8, width/8) float32; null: drawn from `seed`
    unet: Optional[str] = None  # another UNet in its place: a folder (diffusers), or a .safetensors
    vae: Optional[str] = added(None)  # another VAE, also a tiny one: a folder, or a .safetensors
    diffusers_src: Optional[str] = None  # a diffusers checkout to use in place of the installed one


@dataclass
class TinyModel(Model):
    """SDXL's architecture in miniature, random weights from `seed`."""

    unet_config: Optional[str] = None  # a diffusers UNet config.json in place of the built-in one


@dataclass
class ScenesModel(Model):
    """The miniature of SDXL trained on rendered scenes; its weights are in the package."""

    lora: Any = added(None)  # LoRAs, fused before quantizing: FILE or FOLDER, or a list [A,B@0.7]
    lora_scale: float = added(1.0)  # strength of those without one of their own


@dataclass
class StudentModel(ScenesModel):
    """Its student, which draws in four steps and without guidance."""


@dataclass
class SdxlModel(Model):
    """SDXL weights from a local directory or, failing that, the Hugging Face hub."""

    path: str = MISSING  # diffusers folder, MLCommons layout, single .safetensors file, or hub id
    config: Optional[str] = added(None)  # a diffusers folder that completes and describes the file
    variant: Optional[str] = None  # file variant, such as fp16; plain files where there is none
    revision: Optional[str] = None  # hub revision
    lora: Any = None  # LoRAs, fused before quantizing: FILE or FOLDER, or a list [A,B@0.7]
    lora_scale: float = 1.0  # strength of those without one of their own


@dataclass
class RandomModel(Model):
    """True SDXL base 1.0 shapes with random weights, made in the asked dtype and device."""

    unet_config: Optional[str] = None  # a diffusers UNet config.json in place of SDXL's


@dataclass
class Precision:
    """One dtype per component."""

    text_encoder: DType = MISSING  # dtype of both text encoders
    unet: DType = MISSING  # dtype of the UNet
    vae: DType = MISSING  # dtype of the VAE decoder
    auto: bool = note(False)  # fp32 or bf16 for all three, whichever this processor computes faster
