"""What the load benchmarks share: a backend under LoadGen, every sample accounted for."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from hydra import compose, initialize_config_dir

from sdxl.bench import generators, loadgen, logs
from sdxl.bench.keep import Keeper
from sdxl.bench.sut import Sut
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import ROOT
from sdxl.model import prompts

EVERY, NEAR = 32, 8
"""Of the pixels that are compared, and steps of 255 by which they may differ."""


def configure(*words: str):
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("run", ["backend=fake", *words]))


def opened(config):
    """What a worker opens; it and `config` are sent there."""
    return generators.open_generator(config, {}, asked(config))


def asked(config):
    """The prompts of a configuration."""
    return prompts.load(config.dataset, config.limit, config.seed)


class Account:
    """Who was issued, who was answered, and with which picture: by id, by index, by content.

    A model's pictures differ by its rounding from those of another batch size: `NEAR` at most.
    """

    def __init__(self, config, count: int, room: int) -> None:
        drawn = opened(config).generate(list(range(count)))
        self.expected = drawn[:, ::EVERY, ::EVERY].astype(np.int16)
        self.near = 0 if config.backend.name == "fake" else NEAR
        self._ids = np.ones(room, np.uint64)  # of the answered: memory that does not grow
        self._answers = 0
        self.wrong = 0
        self._lock = threading.Lock()

    def take(self, batch, pictures) -> None:
        indices = [sample.index for sample in batch]
        apart = np.abs(pictures[:, ::EVERY, ::EVERY] - self.expected[indices])
        right = (apart <= self.near).all(axis=(1, 2, 3))
        with self._lock:
            end = self._answers + len(batch)
            if end > len(self._ids):
                self._ids = np.concatenate([self._ids, np.ones_like(self._ids)])
            self._ids[self._answers : end] = [sample.id for sample in batch]
            self._answers = end
            self.wrong += int(len(batch) - np.count_nonzero(right))

    def lost(self, sut: Sut, detail: dict) -> list[str]:
        """What does not add up; empty if every sample was answered once with its own picture."""
        issued = sut.counts.issued
        answered = len(np.unique(self._ids[: self._answers]))
        each = {"answered": answered, "done": sut.counts.done}
        if "result_query_count" in detail:
            queries, size = detail["result_query_count"], detail["effective_samples_per_query"]
            each["LoadGen's"] = queries * size
        found = [f"{n} {v:,} of {issued:,}" for n, v in each.items() if v != issued]
        twice = self._answers - answered
        found += [f"{twice} answered twice"] if twice else []
        return found + ([f"{self.wrong} with another's picture"] if self.wrong else [])


def measure(config, lanes, folder: Path, rate: float):
    """One LoadGen test; returns its detail log, what was lost, and the SUT."""
    count = len(asked(config))
    room = int(1.2 * rate * config.scenario.min_duration_ms / 1e3) + 1000
    account = Account(config, count, room)
    keeper = Keeper(folder / "images", prompts.load(config.dataset), 8, False)

    def on_images(batch, pictures) -> None:
        keeper.take(batch, pictures)
        account.take(batch, pictures)

    def on_error(error: BaseException) -> None:
        raise SystemExit(f"failed: {error}")

    settings = loadgen.test_settings(config, count, loadgen.WarmUp(1 / rate, rate))
    sut = loadgen.Test(config, settings, count, lanes, on_images, on_error, folder).run()
    detail = logs.parse_detail(folder / "mlperf_log_detail.txt")
    return detail, account.lost(sut, detail), sut


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
