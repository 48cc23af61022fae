"""Pictures of a prompt, by the setting of a record.   python -m sdxl generate "a red cube" --n 4

No LoadGen: the backend, the precision, the quantization and the scheduler of the record draw, each
picture from noise of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.bench import generators
from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.config.schema import Config, Noise
from sdxl.core import gpu_locks, isolate
from sdxl.core.command import Parser, ended
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.paths import ROOT
from sdxl.core.progress import Progress
from sdxl.core.types import Prompt
from sdxl.model import checkout, images
from sdxl.run import artifacts, jobs, setting
from sdxl.run.doctor.preflight import preflight


@dataclass(frozen=True)
class Pictures:
    """What was drawn: PNG files in the order of the prompts, and what it took."""

    files: list[Path]
    sheet: Path
    seconds: float  # drawing all of them, the model being loaded and warm or not
    first_s: float  # from the start of the process that draws to its first batch's end
    setting: dict[str, Any]  # the generator's own facts


def draw(config: Config, prompts: Sequence[str], n: int, seed: int, folder: Path) -> Pictures:
    """Draw `n` pictures of each prompt into `folder`, in a process of its own.

    Raises what preparing and drawing raise: `ConfigError`, `StageError`, `WorkerDied`.
    """
    config = _drawing(config, seed, len(prompts) * n)
    if problems := preflight(config, folder):
        raise ConfigError(problems)
    wanted = [
        Prompt(index, text, index, "")
        for index, text in enumerate(text for text in prompts for _ in range(n))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{config.model.name} {config.backend.name}"
    with (
        Progress(title) as progress,
        gpu_locks.reserve(progress.say, config.backend.devices) as env,
    ):
        child = functools.partial(jobs.child, config, folder, progress.report, env)
        made = child(_draw, artifacts.build(config, child).loads, wanted, folder)
    files = [folder / name for name in made["files"]]
    sheet = folder / "sheet.png"
    images.sheet(files, [prompt.text for prompt in wanted], sheet)
    return Pictures(files, sheet, made["seconds"], made["first_s"], made["setting"])


def _drawing(config: Config, seed: int, count: int) -> Config:
    """The configuration with noise for each picture, drawn from `seed`."""
    model = dataclasses.replace(config.model, noise=Noise.per_prompt, latents=None)
    batch = min(batch_size(config), count)
    backend = dataclasses.replace(config.backend, batch_size=batch, devices=None, restarts=1)
    return dataclasses.replace(
        config, model=model, backend=backend, seed=seed, rules=schema.Rules.open
    )


def _draw(
    link: isolate.Link, config: Config, loads: dict[str, Path], prompts: list[Prompt], folder: Path
) -> dict[str, Any]:
    """In a child: all pictures in batches, written as they come."""
    began = time.perf_counter()
    link.report({"phase": "loading"})
    checkout.use(config.model)
    generator = generators.open_generator(config, loads, prompts)
    started, size, files, first_s = time.perf_counter(), batch_size(config), [], 0.0
    for start in range(0, len(prompts), size):
        block = range(start, min(start + size, len(prompts)))
        pictures = generator.generate(list(block))
        first_s = first_s or time.perf_counter() - began
        for index, picture in zip(block, pictures, strict=True):
            images.check(picture, index)
            files.append(f"{index:04d}.png")
            images.save(picture, folder / files[-1])
        link.report({"phase": "drawing", "done": len(files), "expected": len(prompts)})
    seconds = time.perf_counter() - started
    facts = generator.describe()
    generator.close()
    return {"files": files, "seconds": seconds, "first_s": first_s, "setting": facts}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    given = _parser().parse_intermixed_args(argv)  # settings may follow options
    if given.n < 1 or not given.prompt.strip():
        raise UserError(
            "there is nothing to draw", f"--n {given.n}, prompt `{given.prompt}`",
            "a prompt, and at least one picture", 'python -m sdxl generate "a red cube"',
        )  # fmt: skip
    if not 0 <= given.seed < 1 << 32:
        raise UserError("`--seed` is out of range", str(given.seed), f"0 to {(1 << 32) - 1}")
    typed = [word for word in given.words if setting.about_measuring(word)]
    if typed:
        raise UserError(
            f"`{typed[0]}` would be ignored: nothing is measured", typed[0],
            "settings of what draws: model, precision, quant, backend, ...",
        )  # fmt: skip
    config = setting.compose(given.record, given.words)
    folder = given.to or ROOT / "multirun" / time.strftime("%Y-%m-%d/generate-%H-%M-%S")
    made = draw(config, [given.prompt], given.n, given.seed, folder)
    return {
        "files": [str(file) for file in made.files],
        "sheet": str(made.sheet),
        "seconds_per_picture": round(made.seconds / len(made.files), 3),
        "first_picture_s": round(made.first_s, 3),
    }


def _parser() -> Parser:
    parser = Parser(prog="python -m sdxl generate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prompt", help="what the pictures show")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="settings, as for run.py: model=..., quant=...",
    )
    parser.add_argument("--n", type=int, default=1, help="pictures (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument(
        "--record", metavar="RECORD|last|best",
        help="whose setting draws: a record.json or its folder, the newest, or the newest answer",
    )  # fmt: skip
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="default: below multirun/")
    return parser
