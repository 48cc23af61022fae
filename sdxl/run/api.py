"""The Python interface: `sdxl.run`, `sweep`, `generate`, `pack`, `load_record`, `records`.

Every measurement is the command that `python run.py` is, in a process of its own: what it prints
goes to standard error, its record comes back typed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.core import records as files
from sdxl.core.errors import INVALID, OK, USER, SdxlError, UserError
from sdxl.core.record import Record
from sdxl.report.cell import BASELINE, Cell
from sdxl.report.values import flatten

if TYPE_CHECKING:
    from pandas import DataFrame

Settings = Mapping[str, Any] | Sequence[str]
"""`{"model": "tiny", "quant_level": 3, "quality": {"keep_images": 4}}`, or words of a command."""


_PLAIN = re.compile(r"[A-Za-z_/][\w./@+-]*", re.ASCII)
_WORDS = ("null", "true", "false", "nan", "inf")
"""Text that Hydra takes for something else, unless it is quoted."""


def run(settings: Settings = (), folder: str | Path | None = None) -> Record:
    """Measure one setting; a failed or INVALID measurement is a record like any other.

    Raises `UserError` for a setting that `python run.py` refuses, `SdxlError` where it left no
    record.
    """
    place = [f"hydra.run.dir={_quoted(str(folder))}"] if folder else []
    line = _command("run", [*words(settings), *place])
    if line.get("record"):
        return load_record(line["record"])
    raise _failure(line)


def sweep(settings: Settings, folder: str | Path | None = None) -> Records:
    """Measure every combination of the values that stand in lists.

    Raises `UserError` if no cell could begin.
    """
    place = [f"hydra.sweep.dir={_quoted(str(folder))}"] if folder else []
    line = _command("run", ["-m", *words(settings, sweeps=True), *place])
    found = [Path(path) for path in line.get("records", []) if path]
    if not found:
        raise _failure(line)
    return Records(found)


def generate(
    prompt: str, settings: Settings = (), *, n: int = 1, seed: int = 0,
    record: str | Path | None = None, folder: str | Path | None = None,
) -> list[Path]:  # fmt: skip
    """Draw `n` pictures of a prompt, by the setting of a record; returns the PNG files.

    record: a path, "last" or "best". Raises `UserError` for bad settings, `SdxlError` if drawing
    failed.
    """
    options = [f"--n={n}", f"--seed={seed}"]
    options += [f"--record={record}"] if record else []
    options += [f"--to={folder}"] if folder else []
    line = _command("generate", [*options, "--", prompt, *words(settings)])
    if line["exit_code"] != OK:
        raise _failure(line)
    return [Path(file) for file in line["files"]]


@dataclass(frozen=True)
class Packed:
    """A pack, and what the other tool drew with it: see `sdxl.run.pack.check.Outcome`.

    reason: why it is not verified; psnr_db: None where every pixel is equal; largest: deviation
    in 1/255.
    """

    folder: Path
    verified: bool
    reason: str
    psnr_db: float | None
    largest: int | None


def pack(
    record: str | Path, to: str | Path, as_: str, *, check: int = 2,
    python: str | Path | None = None,
) -> Packed:  # fmt: skip
    """Write the model of a record as files of another tool, which draws its pictures again.

    record: a path, "last" or "best"; to: a new folder; as_: "diffusers", "onnx", "openvino",
    "tensorrt" or "comfyui"; check: pictures that are drawn; python: the interpreter that has the
    tool. Raises `UserError` for what cannot be packed, `SdxlError` where other pictures came.
    """
    options = [f"--to={to}", f"--as={as_}", f"--check={check}"]
    options += [f"--python={python}"] if python else []
    line = _command("pack", [*options, "--", str(record)])
    if line["exit_code"] != OK:
        raise _failure(line)
    told = [line[name] for name in ("verified", "reason", "psnr_db", "largest")]
    return Packed(Path(line["folder"]), *told)


def load_record(path: str | Path) -> Record:
    """A record from its file or its folder; raises `UserError` if there is none."""
    place = Path(path).expanduser()
    file = place / "record.json" if place.is_dir() else place
    try:
        return files.read(file)
    except OSError as error:
        raise UserError(
            "there is no such record", str(file), "a record.json or its folder"
        ) from error


def records(*places: str | Path) -> Records:
    """All records of files and folders, searched through; raises `UserError` if there is none."""
    return Records(files.find([Path(place).expanduser() for place in places]))


class Records(Sequence[Record]):
    """Records in the order of their files, `paths`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)
        self._read = [files.read(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, place: Any) -> Any:
        return self._read[place]

    def to_dataframe(self) -> DataFrame:
        """One row a record: figures first, then every setting as `config.NAME`."""
        import pandas

        return pandas.DataFrame(
            [_row(Cell(*each)) for each in zip(self.paths, self._read, strict=True)]
        )


def _row(cell: Cell) -> dict[str, Any]:
    record, measured = cell.record, cell.record.performance
    to_baseline = replace(cell, against=BASELINE)
    return {
        "record": str(cell.path),
        "started": record.started,
        "status": record.status,
        "reason": record.reason,
        "images_per_second": cell.speed,
        "metric": measured.metric,
        "value": measured.value,
        "latency_p50_ms": cell.latency.get("p50"),
        "latency_p99_ms": cell.latency.get("p99"),
        "speed_up": cell.speed_up,
        "speed_means_nothing": cell.meaningless or None,
        "compared_with": cell.compared_with if cell.psnr is not None else None,
        "psnr_db": cell.psnr,
        "ssim": cell.ssim,
        "baseline_psnr_db": to_baseline.psnr,
        "baseline_ssim": to_baseline.ssim,
        "memory_gib": cell.memory_gib,
        **record.quality.scores.metrics,
        **{f"config.{name}": value for name, value in flatten(record.config).items()},
    }


def words(settings: Settings, sweeps: bool = False) -> list[str]:
    """Settings as the words of a command, quoted as Hydra wants them.

    sweeps: a list is values to go through, not one value.
    """
    if not isinstance(settings, Mapping):
        return [str(word) for word in settings]
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += words({f"{name}.{key}": each for key, each in value.items()}, sweeps)
        elif sweeps and isinstance(value, list | tuple):
            found.append(f"{name}={','.join(map(_value, value))}")
        else:
            found.append(f"{name}={_value(value)}")
    return found


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, int | float):
        return f"{value}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else _quoted(text)


def _quoted(text: str) -> str:
    """In Hydra's quotes, where only a quote and the backslashes before it are escaped."""
    if text.endswith("\\") or "\\'" in text:
        text = text.replace("\\", "\\\\")
    return "'" + text.replace("'", "\\'") + "'"


def _command(name: str, typed: Sequence[str]) -> dict[str, Any]:
    """The JSON line that ends a command; what it says goes to our standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "sdxl", name, *typed], stdout=subprocess.PIPE, text=True
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise SdxlError(
            f"the command ended without its JSON line, exit code {done.returncode}",
            f"sdxl {name} {' '.join(typed)}",
        ) from error
    return found


def _failure(line: Mapping[str, Any]) -> SdxlError:
    reason = str(line.get("reason") or line.get("status"))
    return UserError(reason) if line.get("exit_code") in (USER, INVALID) else SdxlError(reason)
