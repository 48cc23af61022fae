"""Pictures made elsewhere, beside others of the same names.   python -m sdxl score A B

A holds the pictures to judge, B those to compare with; a picture's name is its path in its folder
without the ending. Means have a 95 % interval over the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.config.schema import Device
from sdxl.core import store, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import ConfigError, Problem, UserError, did_you_mean
from sdxl.core.record import Paired
from sdxl.core.types import Prompt
from sdxl.model import pictures
from sdxl.quality import baseline, extra, frechet, named_pictures, needs, paired
from sdxl.quality.beside import KINDS, decibels
from sdxl.quality.named_pictures import Matched
from sdxl.quality.per_prompt import Kind
from sdxl.quality.settings import Scored

BATCH = 8
"""Pairs of one size that go through a metric's network at once."""


@dataclass
class Found:
    """Figures of each pair, of the pictures themselves (ours, theirs), and of both sets."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    distances: dict[str, list[float]] = field(default_factory=dict)
    single: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    sets: dict[str, float] = field(default_factory=dict)


def main(words: Sequence[str]) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(words))


def _run(words: Sequence[str]) -> dict[str, Any]:
    asked = _parser().parse_args(list(words))
    quality = Scored("score", extra=asked.extra, weights=asked.weights)
    problems = [*_unfit(quality, asked.captions), *_missing(quality, asked.inception)]
    if problems:
        raise ConfigError(problems)
    matched = named_pictures.match(asked.ours, asked.theirs)
    for place, names in zip((asked.theirs, asked.ours), matched.only, strict=True):
        if names:
            terminal.say(f"not in {place}, hence not scored: {named_pictures.listed(names)}")
    texts = (
        named_pictures.captions(asked.captions, matched)
        if asked.captions
        else [""] * len(matched.names)
    )
    found = measure(matched, texts, quality, asked.inception, Device(asked.device))
    line = data(found, matched, extra.asked(quality))
    line = {"status": "ok", "a": str(asked.ours), "b": str(asked.theirs), **line, "exit_code": 0}
    if not asked.json:
        show(line)
    return line


def measure(
    matched: Matched, texts: Sequence[str], quality: Scored, inception_weights: Path | None,
    device: Device,
) -> Found:  # fmt: skip
    """Every figure; the pictures are read once, a batch at a time."""
    from sdxl.quality.extras import Extras

    prompts = [Prompt(n, text, n) for n, text in enumerate(texts)]
    extras = Extras(quality, device, prompts)
    fid = _Fid(inception_weights, device) if inception_weights else None
    found = Found()
    for places, ours, theirs in _batches(matched):
        found.pairs += [baseline.pair(*pair) for pair in zip(theirs, ours, strict=True)]
        for name, values in extras.beside(ours, theirs).items():
            found.distances.setdefault(name, []).extend(map(_number, values))
        sides = extras.single(places, ours), extras.single(places, theirs)
        for name in sides[0]:
            kept = found.single.setdefault(name, ([], []))
            for values, side in zip(kept, sides, strict=True):
                values.extend(map(_number, side[name]))
        if fid:
            fid.add(ours, theirs)
    found.sets = {**extras.sets(), **({"fid": fid.distance()} if fid else {})}
    return found


def data(found: Found, matched: Matched, metrics: dict[str, extra.Metric]) -> dict[str, Any]:
    """The comparison as JSON."""
    figures = {
        "psnr_db": [decibels(each["psnr_db"]) for each in found.pairs],
        **{name: [each[name] for each in found.pairs] for name in ("ssim", "mean_deviation")},
        **found.distances,
    }
    kinds = {**KINDS, **{name: Kind(each.higher_is_better) for name, each in metrics.items()}}
    worst = min(zip(figures["psnr_db"], matched.names, strict=True))[1]
    return {
        "pairs": len(found.pairs),
        "identical": sum(each["psnr_db"] is None for each in found.pairs),
        "worst_pair": worst,
        "metrics": {name: _summary(each, kinds[name]) for name, each in figures.items()},
        "sets": found.sets,
        "a_minus_b": [
            paired.compare(name, ours, theirs, kinds[name]).to_json()
            for name, (ours, theirs) in found.single.items()
        ],
        "only_in_a": matched.only[0],
        "only_in_b": matched.only[1],
    }


def show(line: dict[str, Any]) -> None:
    """Tables on standard output."""
    console = terminal.console(width=100)
    rows = [
        [f"{name} {_arrow(each['higher_is_better'])}", f"{each['mean']:.5g}",
         f"{each['low']:.5g} to {each['high']:.5g}", f"{each['worst']:.5g}"]
        for name, each in line["metrics"].items()
    ]  # fmt: skip
    title = f"{line['pairs']} pairs, {line['identical']} identical; worst: {line['worst_pair']}"
    head = ("A beside B", "mean", "95 %", "worst")
    console.print(terminal.table(head, rows, title, head[1:]))
    told = [
        [each["metric"], f"{each['ours']:.5g}", f"{each['theirs']:.5g}",
         paired.sentence(Paired.from_json(each))]
        for each in line["a_minus_b"]
    ]  # fmt: skip
    if told:
        console.print(terminal.table(("", "A", "B", "A beside B"), told, "", ("A", "B")))
    for name, value in line["sets"].items():
        console.print(f"{name} of the two sets: {value:.5g}")


class _Fid:
    """The Frechet distance of Inception's features between both sets."""

    def __init__(self, weights: Path, device: Device) -> None:
        from sdxl.model.components import torch_device
        from sdxl.quality import inception

        self._network = inception.load(weights, torch_device(device))
        self._sides = [frechet.Moments(inception.FEATURES) for _ in range(2)]

    def add(self, *sides: np.ndarray) -> None:
        """Pictures of both sides, each alone through the network."""
        for moments, images in zip(self._sides, sides, strict=True):
            moments.add(np.concatenate([self._network.features(each[None]) for each in images]))

    def distance(self) -> float:
        """Of all so far."""
        return frechet.distance(*(moments.statistics() for moments in self._sides))


def _batches(matched: Matched) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Places of pairs with both their pictures, uint8 (B, H, W, 3), all of one size."""
    waiting: list[tuple[int, np.ndarray, np.ndarray]] = []
    for place, name in enumerate(matched.names):
        one, other = matched.ours[name], matched.theirs[name]
        pair = pictures.load(one), pictures.load(other)
        if pair[0].shape != pair[1].shape:
            sizes = " and ".join(f"{each.shape[1]} x {each.shape[0]}" for each in pair)
            raise UserError(
                f"the pictures `{name}` differ in size", sizes, f"one size: {one}, {other}"
            )
        if waiting and (len(waiting) == BATCH or waiting[0][1].shape != pair[0].shape):
            yield _stacked(waiting)
            waiting = []
        waiting.append((place, *pair))
    yield _stacked(waiting)


def _stacked(
    waiting: list[tuple[int, np.ndarray, np.ndarray]],
) -> tuple[list[int], np.ndarray, np.ndarray]:
    places, ours, theirs = zip(*waiting, strict=True)
    return [*places], np.stack(ours), np.stack(theirs)


def _unfit(quality: Scored, given: Path | None) -> Iterator[Problem]:
    """Metrics that are not there, and words that would be ignored."""
    known, asked = extra.metrics(), quality.extra or []
    for name in asked:
        if name not in known:
            close = did_you_mean(name, [*known])
            expected = f"did you mean `{close}`?" if close else f"some of: {' '.join(known)}"
            yield Problem(f"there is no metric `{name}`", None, expected)
    if len(set(asked)) < len(asked):
        yield Problem("--extra names each metric once", " ".join(asked))
    single = [name for name, metric in extra.asked(quality).items() if metric.kind == "single"]
    if single and not given:
        yield Problem(f"{' '.join(single)} judge pictures by captions", fix="--captions FILE")
    if given and not single:
        expected = " ".join(name for name, metric in known.items() if metric.kind == "single")
        yield Problem("--captions would be ignored", str(given), f"--extra with some of {expected}")
    for name in extra.given_weights(quality):
        if name not in asked or name not in known or not known[name].weights:
            yield Problem(f"--weights {name} would be ignored", expected="a metric of --extra")


def _missing(quality: Scored, inception_weights: Path | None) -> Iterator[Problem]:
    """What metrics lack, in the words of this command."""
    for each in extra.missing(quality):
        what = each.what.replace("quality.extra=[", "--extra ").replace("]", "")
        fix = (each.fix or "").replace("quality.weights=[", "--weights ").removesuffix("]")
        yield Problem(what, each.got, each.expected, fix if "--weights" in fix else each.fix)
    if inception_weights:
        yield from needs.without_scipy("FID")
        if not inception_weights.is_file():
            path = str(inception_weights)
            yield Problem("FID's Inception weights are missing", path, fix=needs.DOWNLOAD)


def _summary(values: Sequence[float], kind: Kind) -> dict[str, Any]:
    low, high = paired.interval(values)
    worst = min(values) if kind.higher_is_better else max(values)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "worst": worst,
            "higher_is_better": kind.higher_is_better}  # fmt: skip


def _arrow(higher_is_better: bool) -> str:
    return "↑" if higher_is_better else "↓"


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m sdxl score",
        description="PSNR, SSIM and further metrics of pictures beside others of the same names, "
        "wherever they were made.",
    )
    parser.add_argument("ours", type=Path, metavar="A", help="the folder to judge")
    parser.add_argument("theirs", type=Path, metavar="B", help="the folder to compare with")
    parser.add_argument(
        "--captions", type=Path, metavar="FILE",
        help="a .tsv with pictures' names as `id`, or a line for each picture of A",
    )  # fmt: skip
    parser.add_argument("--extra", nargs="+", metavar="METRIC", help=" ".join(extra.metrics()))
    parser.add_argument(
        "--weights", nargs="+", metavar="METRIC:PATH", help="default: those in the store"
    )  # fmt: skip
    parser.add_argument(
        "--inception", type=store.resolve, metavar="FILE", help="FID's network: FID of A to B"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser
