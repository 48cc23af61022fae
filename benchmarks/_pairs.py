"""Settings of the bundled model beside one reference, prompt by prompt; what is done is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import _scenes

from sdxl.bench import generators
from sdxl.config.schema import Config
from sdxl.core.progress import silent
from sdxl.core.record import Paired
from sdxl.core.types import Prompt
from sdxl.model import prompts
from sdxl.quality import fast_scorer, paired, per_prompt, reference, reference_pictures
from sdxl.quality.beside import Beside
from sdxl.quality.per_prompt import CHANGED, PerPrompt
from sdxl.run import artifacts, identity

_INT8 = ("quant=int8", "quant.calib_dataset=scenes", "quant.report_prompts=0")
SETTINGS = {
    "fp32": (),
    "ort_fp32": ("backend=ort",),
    "int8_weights": ("quant=int8_weight_only", "quant.report_prompts=0"),
    "bf16": ("precision=bf16",),
    "int8_level1": (*_INT8, "quant_level=1"),
    "int8_level2": (*_INT8, "quant_level=2"),
    "int8_level2.5": (*_INT8, "quant_level=2.5"),
    "int8_level3": (*_INT8, "quant_level=3"),
    "int4_weights": ("quant=int4_weight_only", "quant.report_prompts=0"),
}
"""Words of run.py, from the nearest to the reference to the farthest as far as is known."""
APART = (("int8_level3", "int4_weights"),)
"""Pairs that a figure of the task must tell apart, not only the pixels."""
TASK = ("attribute", CHANGED)
DISTANCE = "psnr_db"
BATCH = 16


class _Link:
    """Stands for the line to a parent process: nobody listens."""

    report = staticmethod(silent)


def configure(name: str, count: int) -> Config:
    """A setting on the first captions of the held-out ones, with the noise of every run."""
    return _scenes.configure([*SETTINGS[name], f"limit={count}"])


def asked(config: Config) -> list[Prompt]:
    """The prompts of a configuration."""
    return prompts.load(config.dataset, config.limit, config.seed)


def theirs(config: Config, say: Callable[[str], None]) -> dict[int, object]:
    """The reference's pictures, drawn now where nobody has."""
    chosen = reference.chosen(config, asked(config))
    drawing = reference.drawing(config)

    def opened():
        return generators.open_generator(drawing, {}, chosen)

    found = reference_pictures.get(config, chosen, opened, silent)
    say(f"reference: {found['made']} of {len(chosen)} pictures drawn now")
    return reference_pictures.read(found["blocks"], chosen)


def measure(name: str, count: int, folder: Path, say: Callable[[str], None]) -> PerPrompt:
    """The figures of a setting, from `folder` where an earlier run of the same left them."""
    config = configure(name, count)
    place = folder / f"{name}-{identity.identity(config)}"
    if (place / per_prompt.FILE).is_file():
        return per_prompt.read(place / per_prompt.FILE)
    chosen, pictures = asked(config), theirs(config, say)
    chain = artifacts.build(config, lambda work, *words: work(_Link, config, *words))
    generator = generators.open_generator(config, chain.loads, chosen)
    scorer, beside = fast_scorer.Quick(config, chosen), Beside(chosen, pictures)
    for at in range(0, len(chosen), BATCH):
        places = range(at, min(at + BATCH, len(chosen)))
        beside.take(scorer, places, generator.generate(places))
        say(f"{name}: {places.stop} of {len(chosen)}")
    generator.close()
    place.mkdir(parents=True, exist_ok=True)
    found = beside.result(place)
    (place / "reference.json").write_text(json.dumps(found["reference"], indent=1) + "\n")
    return per_prompt.read(place / per_prompt.FILE)


def row(name: str, table: PerPrompt) -> dict[str, object]:
    """What one setting shows beside the reference, with 95 % intervals."""
    distances = [*table.figures[DISTANCE].values.values()]
    answers = {each.metric: each for each in paired.against_reference(table)}
    changed = [*table.changed().values.values()]
    return {
        "setting": name,
        "prompts": len(distances),
        DISTANCE: [sum(distances) / len(distances), *paired.interval(distances)],
        CHANGED: [sum(changed) / len(changed), *paired.interval(changed)],
        "accuracy": answers["attribute"].to_json(),
    }


def steps(found: dict[str, PerPrompt]) -> list[tuple[str, str, list[Paired]]]:
    """Each setting beside the one before it in the order above."""
    names = [name for name in SETTINGS if name in found]
    wanted = dict.fromkeys([*pairwise(names), *APART])
    return [
        (one, other, paired.between(found[other], found[one]))
        for one, other in wanted
        if one in found and other in found
    ]


def problems(found: dict[str, PerPrompt], enough: int = 1024) -> list[str]:
    """What is not as it must be: a reversed step of distance, or `APART` not told apart."""
    wrong = []
    for one, other, pairs in steps(found):
        by_name = {each.metric: each for each in pairs}
        if by_name[DISTANCE].verdict == "better":
            wrong.append(f"{other} is nearer to the reference than {one}")
        told = any(by_name[name].verdict == "worse" for name in TASK if name in by_name)
        if (one, other) in APART and not told and by_name[DISTANCE].prompts >= enough:
            wrong.append(f"no figure of the task tells {other} from {one}")
    return wrong


def show(found: dict[str, PerPrompt]) -> None:
    """Both tables in Markdown."""
    head = ("setting", "PSNR to the reference, dB", "answers changed",
            "right to wrong, wrong to right", "accuracy, step from the reference")  # fmt: skip
    print(f"| {' | '.join(head)} |")
    print("|---|---|---|---|---|")
    ranked = sorted(found, key=lambda name: -row(name, found[name])[DISTANCE][0])
    for name in ranked:
        own = row(name, found[name])
        (mean, low, high), (share, least, most) = own[DISTANCE], own[CHANGED]
        answer = own["accuracy"]
        flips = f"{answer['right_to_wrong']}, {answer['wrong_to_right']}"
        step = f"{answer['difference']:+.4f} ({answer['low']:+.4f} to {answer['high']:+.4f})"
        print(f"| {name} | {mean:.2f} ({low:.2f} to {high:.2f}) | {share:.4f} ({least:.4f} to "
              f"{most:.4f}) | {flips} | {answer['ours']:.4f}, {step} |")  # fmt: skip
    print("\n| step | PSNR | answers changed | accuracy |\n|---|---|---|---|")
    for one, other, pairs in steps(found):
        by_name = {each.metric: paired.sentence(each) for each in pairs}
        said = " | ".join(by_name.get(name, "-") for name in (DISTANCE, CHANGED, "attribute"))
        print(f"| {one} -> {other} | {said} |")


def run(names: Sequence[str], count: int, folder: Path, say: Callable[[str], None]) -> int:
    """Measure, print, and return the exit code: 1 if something is not as it must be."""
    found = {name: measure(name, count, folder, say) for name in names}
    show(found)
    wrong = problems(found)
    for line in wrong:
        print(f"WRONG: {line}")
    rows = [row(name, table) for name, table in found.items()]
    pairs = [
        {"pair": [one, other], "paired": [each.to_json() for each in found_pairs]}
        for one, other, found_pairs in steps(found)
    ]
    print(json.dumps({"prompts": count, "settings": rows, "steps": pairs, "wrong": wrong}))
    return 1 if wrong else 0
