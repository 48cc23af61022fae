"""Settings of shortcuts: operations of the UNet that a picture leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

# OmegaConf reads annotations at run time and wants `Optional[X]`, hence the spelling below.


@dataclass
class Shortcut:
    """What of the UNet a picture leaves out; `none` computes everything at every step."""

    name: str = MISSING  # the option of `shortcut=`


@dataclass
class GuidanceCutoff(Shortcut):
    """Guidance in a part of the steps only; the others have one UNet row a picture, not two."""

    start: float = 0.0  # share of the steps before the first guided one
    until: float = 0.5  # share of the steps after which guidance ends


@dataclass
class DeepCache(Shortcut):
    """Deep features of one step serve the steps after it."""

    interval: int = 3  # all of the UNet is computed at every n-th step, the top alone at others
    branch: int = 0  # skip connections computed at every step: 0 the first alone, 1 two, ...
    deep_steps: Optional[list[int]] = None  # steps from 0 that compute all; null: by `interval`


@dataclass
class TGate(Shortcut):
    """Cross-attention kept from the gate on, and no guidance from there."""

    gate: float = 0.4  # share of the steps before the gate


@dataclass
class TokenMerging(Shortcut):
    """Like tokens are merged before self-attention, and copied back after it."""

    ratio: float = 0.5  # share of the tokens that are merged into others
    levels: int = 1  # levels of the UNet that merge, from the finest with attention


@dataclass
class DeepCacheCutoff(DeepCache, GuidanceCutoff):
    """Deep features kept, and guidance in a part of the steps."""


@dataclass
class DeepCacheTGate(DeepCache, TGate):
    """Deep features kept, and cross-attention from the gate on."""


SHORTCUTS: dict[str, type] = {
    "none": Shortcut,
    "guidance_cutoff": GuidanceCutoff,
    "deepcache": DeepCache,
    "tgate": TGate,
    "token_merging": TokenMerging,
    "deepcache_cutoff": DeepCacheCutoff,
    "deepcache_tgate": DeepCacheTGate,
}
"""The group's options by name."""
