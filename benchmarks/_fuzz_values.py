"""Odd values through `load`: what it accepts must suit LoadGen, clocks and JSON."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _fuzz_cases as cases

from sdxl.core.paths import CONF

HANG_S = 60.0


class Hang(BaseException):
    """The case took too long."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Hang` in this process after so many processor seconds, or four times as long."""

    def stop(*_: Any) -> None:
        raise Hang

    timers = (signal.SIGPROF, signal.ITIMER_PROF, 1), (signal.SIGALRM, signal.ITIMER_REAL, 4)
    before = [signal.signal(number, stop) for number, *_ in timers]
    for _, timer, factor in timers:
        signal.setitimer(timer, seconds * factor)
    try:
        yield
    finally:
        for (number, timer, _), old in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, old)


BASES = (
    ("run", "backend=fake"), ("run", "backend=torch", "quant=int8"), ("run", "backend=ort"),
    ("run", "backend=trt", "quant=fp8"), ("run", "backend=fake", "scenario=Server"),
    ("run", "backend=torch", "scenario=SingleStream", "quant=auto_mixed", "target=0.2"),
    ("run", "backend=fake", "scenario=MultiStream", "quality=none"), ("run", "quality=full"),
    ("run", "model=scenes", "dataset=scenes"), ("run", "dataset=coco", "quant=int4_weight_only"),
    ("run", "model=sdxl", "quality=mlperf", "mode=accuracy"), ("run", "model=sdxl_random"),
    ("quantize", "quant=int8"), ("export", "backend=ort"), ("train", "train=unet"),
    ("train", "train=finetune"), ("train", "train=qat", "quant=int8"),
)  # fmt: skip
"""What values are put into."""


class Values:
    """Odd values in composed configurations."""

    def __init__(self) -> None:
        from hydra import compose, initialize_config_dir
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        from sdxl.config.registry import register

        register()
        self._parse = OverridesParser.create().parse_overrides
        with initialize_config_dir(str(CONF), version_base="1.3"):
            self._bases = [compose(name, list(words)) for name, *words in BASES]
        self._keys = [
            [key for key in cases.LEAVES if OmegaConf.select(base, key, default=self) is not self]
            for base in self._bases
        ]

    def case(self, seed: int, number: int) -> tuple[list[str], list[str]]:
        """The words of case `number`, and what is wrong with what came of them."""
        draw = random.Random(f"value {seed} {number}")
        which = draw.randrange(len(self._bases))
        keys = draw.sample(self._keys[which], draw.choice((1, 1, 1, 2, 3)))
        words = [f"{key}={cases.value(draw, cases.LEAVES[key])}" for key in keys]
        try:
            with limited(HANG_S):
                wrong = self._wrong(which, words)
        except Hang:
            wrong = f"no end within {HANG_S:g} s"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return [*BASES[which], *words], [wrong] if wrong else []

    def _wrong(self, which: int, words: list[str]) -> str | None:
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        from sdxl.config.load import load
        from sdxl.core.errors import UserError

        base, before = self._bases[which], []
        try:
            for override in self._parse(words):
                if override.is_sweep_override():
                    return None
                key = override.key_or_group
                before.append((key, OmegaConf.to_container(base)))
                OmegaConf.update(base, key, override.value())
            config: Any = load(base)
        except (UserError, HydraException, OmegaConfBaseException):
            return None  # refused, in words
        finally:
            for key, old in reversed(before):
                OmegaConf.update(base, key, _at(old, key), force_add=True)
        try:
            return unsuitable(config)
        except UserError:
            return None  # refused where it is used


def _at(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[part]
    return node


def unsuitable(config: Any) -> str | None:
    """What LoadGen, a clock or JSON cannot take of an accepted configuration."""
    from sdxl.bench.loadgen import WarmUp, test_settings
    from sdxl.config.content_key import plain
    from sdxl.config.derive import batch_size, effective
    from sdxl.run import estimate
    from sdxl.run.doctor.preflight import output_bytes

    text = json.dumps([plain(config), effective(config)], allow_nan=False)
    for prompts in (1, 64, 5000):
        test_settings(config, prompts, WarmUp(0.01, 100.0))
        if estimate.images(config, prompts) >= 1 << 53:
            return "more images than a float counts"
    for name in ("startup_s", "stall_s"):
        if not 0 < getattr(config.scenario, name) < threading.TIMEOUT_MAX:
            return f"no clock takes scenario.{name}"
    if not 0 < batch_size(config) <= 1 << 20 or output_bytes(config) >= 1 << 63:
        return "sizes that no machine has"
    return None if len(text) < 1 << 20 else "a configuration of a megabyte"
