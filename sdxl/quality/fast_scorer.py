"""The scores of `quality=fast`: scenes by our own networks, anything by EfficientNet's features.

None is an official metric. `clip_scenes` is 100 x the cosine of caption and picture in our
contrastive pair; `fid_scenes` the Frechet distance to rendered held-out scenes in the features of
our picture encoder; `*_accuracy` the shares of pictures in which our detector finds what the
caption asks for. They know rendered scenes only. `fd_efficientnet` and `kid_efficientnet` compare
ImageNet features of any two sets of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.config import schema
from sdxl.config.content_key import key
from sdxl.core import paths, store
from sdxl.core.paths import BUNDLED
from sdxl.core.types import Figures, Prompt
from sdxl.model.scenes import captions, render, world
from sdxl.quality import efficientnet, frechet, needs, settings
from sdxl.quality.scenes import judge, networks

_DISTANCES = "fd_efficientnet, kid_efficientnet"
_REASON = "own scores (quality=fast), not the official metrics"


class Quick:
    """Scores pictures as they come."""

    kinds = judge.KINDS

    def __init__(self, config: schema.Config, prompts: Sequence[Prompt]) -> None:
        assert isinstance(config.quality, settings.Fast)
        self.scenes = Scenes(config, prompts) if config.dataset.name == needs.SCENES else None
        real = settings.real_pictures(config.quality)
        self.judge = _judge(real, self.scenes is not None, config.model.height)
        self.count = 0
        self.unscored: dict[str, str] = {}
        if not self.scenes:
            self.unscored["clip_scenes, fid_scenes, *_accuracy"] = (
                f"they know rendered scenes only, and these are pictures of "
                f"dataset={config.dataset.name}: model=scenes dataset=scenes"
            )
        if not efficientnet.installed():
            self.unscored[_DISTANCES] = f"EfficientNet is not installed: {needs.INSTALL}"
        elif not self.judge:
            self.unscored[_DISTANCES] = (
                f"dataset={config.dataset.name} has no real pictures to compare with: "
                "quality.reference=FOLDER"
            )

    def add(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """Score uint8 images (B, H, W, 3) of these prompts."""
        self.count += len(images)
        if self.judge:
            self.judge.add(indices, images)
        return self.scenes.add(indices, images) if self.scenes else {}

    def look(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """What scenes show, in other pictures of these prompts."""
        return self.scenes.look(indices, images) if self.scenes else {}

    def result(self) -> dict[str, Any]:
        """The scores, never comparable with published ones; `unscored`: why others are absent."""
        metrics: dict[str, float] = {}
        unscored = dict(self.unscored)
        if self.count < 2 and (self.scenes or self.judge):
            distances = [
                *(["fid_scenes"] if self.scenes else []),
                *([_DISTANCES] * bool(self.judge)),
            ]
            unscored[", ".join(distances)] = "they need two pictures"
        found: dict[str, Any] = {}
        if self.scenes:
            metrics |= self.scenes.metrics()
            found["unrelated"] = self.scenes.unrelated()
        if self.judge:
            metrics |= self.judge.metrics()
            found["floor"] = self.judge.floor()
        return {
            "metrics": metrics,
            "unscored": unscored,
            "comparable": False,
            "comparable_reason": _REASON if metrics else "nothing was scored",
            **found,
        }


@dataclass(frozen=True)
class _Seen:
    """A batch in the networks' eyes: features, both halves of the fit, the solids found."""

    features: np.ndarray
    pictures: np.ndarray
    texts: np.ndarray
    found: list[Any]


class Scenes:
    """Alignment, distance and correctness of pictures of scenes."""

    def __init__(self, config: schema.Config, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts
        assert isinstance(config.dataset, schema.ScenesDataset)
        wanted = captions.held_out(config.dataset.prompts)
        self.captions = [wanted[prompt.row] for prompt in prompts]
        self.encoder, self.detector = networks.picture_encoder(), networks.detector()
        self.alignment = networks.Alignment()
        reference = BUNDLED / networks.FOLDER / networks.REFERENCE
        self.reference = frechet.read(reference, networks.FEATURES)
        self.moments = frechet.Moments(networks.FEATURES)
        self.found: dict[int, Any] = {}
        self.pictures: list[np.ndarray] = []
        self.texts: list[np.ndarray] = []

    def add(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """Score these pictures."""
        seen = self._see(indices, images)
        self.moments.add(seen.features)
        self.pictures.append(seen.pictures)
        self.texts.append(seen.texts)
        self.found |= dict(zip(indices, seen.found, strict=True))
        return self._figures(indices, seen)

    def look(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """Fit of caption and picture, and every judged answer: 1 right, 0 wrong."""
        return self._figures(indices, self._see(indices, images))

    def examined(self, indices: Sequence[int], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features of pictures, and their cosines (B,) in the pair; nothing is added up."""
        seen = self._see(indices, images)
        return seen.features, (seen.pictures * seen.texts).sum(axis=1)

    def _see(self, indices: Sequence[int], images: np.ndarray) -> _Seen:
        features = networks.features(self.encoder, images)
        return _Seen(
            features,
            self.alignment.pictures(features),
            self.alignment.captions([self.prompts[i].text for i in indices]),
            self.detector.find(networks.to_tensor(images)),
        )

    def _figures(self, indices: Sequence[int], seen: _Seen) -> Figures:
        pairs = zip(indices, seen.found, strict=True)
        answers = [judge.agreement(self.captions[index], found) for index, found in pairs]
        clip = 100 * (seen.pictures * seen.texts).sum(axis=1)
        judged = {name: [answer[name] for answer in answers] for name in judge.FIELDS}
        return {"clip_scenes": clip.tolist(), **judged}

    def metrics(self) -> dict[str, float]:
        """By name; `fid_scenes` needs two pictures."""
        own = (np.concatenate(self.pictures) * np.concatenate(self.texts)).sum(axis=1)
        scores = {"clip_scenes": 100 * float(own.mean())}
        if self.moments.count > 1:
            scores["fid_scenes"] = frechet.distance(self.moments.statistics(), self.reference)
        order = sorted(self.found)
        shares = judge.accuracy([self.captions[i] for i in order], [self.found[i] for i in order])
        return {**scores, **shares}

    def unrelated(self) -> float | None:
        """What `clip_scenes` would be with each picture under another's caption."""
        pictures, texts = np.concatenate(self.pictures), np.concatenate(self.texts)
        count = len(pictures)
        if count < 2:
            return None
        every = float((pictures.sum(axis=0) * texts.sum(axis=0)).sum())
        return 100 * (every - float((pictures * texts).sum())) / (count * (count - 1))


class Judge:
    """Frechet and kernel distance of EfficientNet-Lite0 features to those of real pictures."""

    def __init__(self, reference: np.ndarray) -> None:
        self.network = efficientnet.load()
        self.reference = reference
        self.features: list[np.ndarray] = []

    def add(self, _: Sequence[int], images: np.ndarray) -> None:
        """Take these pictures' features."""
        self.features.append(efficientnet.features(self.network, images))

    def metrics(self) -> dict[str, float]:
        """Both distances; they need two pictures."""
        return _both(np.concatenate(self.features), self.reference)

    def floor(self) -> dict[str, float]:
        """What as many real pictures would score against the rest of them, at most half of all.

        Few pictures raise the Frechet distance even where nothing is wrong; the kernel one not.
        """
        count = min(sum(map(len, self.features)), len(self.reference) // 2)
        order = np.random.default_rng(0).permutation(len(self.reference))
        return _both(self.reference[order[:count]], self.reference[order[count:]])


def _both(ours: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Frechet and kernel distance; none below two pictures."""
    if min(len(ours), len(reference)) < 2:
        return {}
    statistics = []
    for features in (ours, reference):
        moments = frechet.Moments(efficientnet.FEATURES)
        moments.add(features)
        statistics.append(moments.statistics())
    return {
        "fd_efficientnet": frechet.distance(*statistics),
        "kid_efficientnet": kernel_distance(ours, reference),
    }


def kernel_distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """KID: unbiased squared MMD with the kernel (x.y/d + 1)^3 (Binkowski et al. 2018)."""

    def mean(one: np.ndarray, other: np.ndarray, same: bool) -> float:
        values = (one.astype(float) @ other.T.astype(float) / one.shape[1] + 1) ** 3
        if not same:
            return float(values.mean())
        count = len(one)
        return float(values.sum() - np.trace(values)) / (count * (count - 1))

    return (
        mean(ours, ours, True) + mean(reference, reference, True) - 2 * mean(ours, reference, False)
    )


REFERENCE_SCENES = 512
"""Rendered scenes that stand for real pictures of scenes."""
BUNDLED_SIZE = 128
"""Pixels of the rendered scenes whose features the package carries."""


def _judge(reference: str | None, scenes: bool, size: int) -> Judge | None:
    """The independent judge where its package and something to compare with are there."""
    if not efficientnet.installed() or not (reference or scenes):
        return None
    if reference:
        folder = store.resolve(reference)
        settings: dict[str, Any] = {"pictures": store.fingerprint(folder)}
        return Judge(_kept(settings, lambda: _features(efficientnet.folder(folder))))

    carried = paths.JUDGE / networks.INDEPENDENT
    if size == BUNDLED_SIZE and carried.is_file():
        return Judge(np.load(carried, allow_pickle=False).astype(np.float32))
    settings = {"scenes": REFERENCE_SCENES, "size": size, "look": world.LOOK}
    return Judge(_kept(settings, lambda: rendered_features(size)))


def _kept(settings: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Features from the store, made and put there the first time."""

    def build(target: Path) -> dict[str, Any]:
        np.save(target / "features.npy", make())
        return {}

    settings["features"] = "efficientnet-lite0-57934424"
    made = store.get("features", key(settings), build, settings=settings)
    found: np.ndarray = np.load(made.path / "features.npy", allow_pickle=False)
    return found


def rendered_features(size: int) -> np.ndarray:
    """EfficientNet's features (512, 1280) of rendered held-out scenes of so many pixels."""
    blocks = [range(start, start + 32) for start in range(0, REFERENCE_SCENES, 32)]
    return _features(render.render([world.held_out_scene(9, n) for n in b], size) for b in blocks)


def _features(batches: Iterable[np.ndarray]) -> np.ndarray:
    network = efficientnet.load()
    return np.concatenate([efficientnet.features(network, batch) for batch in batches])
