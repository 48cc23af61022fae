"""Is everything there that a run needs?   python -m sdxl doctor [--checksums]"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sdxl.core import terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import FAILED, OK
from sdxl.run.doctor import checks
from sdxl.run.doctor.checks import Check

STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per check, then one JSON object; 1 if something is missing that run.py needs.

    A check that itself breaks is a warning with the reason: the doctor itself goes on.
    """
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = Parser(prog="python -m sdxl doctor", description=__doc__)
    parser.add_argument(
        "--checksums", action="store_true", help="read the store's files too (minutes for SDXL)"
    )
    asked = parser.parse_args(argv)
    found = list(examine(asked.checksums))
    code = FAILED if any(check.state == "missing" for check in found) else OK
    counts = {state: sum(check.state == state for check in found) for state in STYLES}
    return {
        "status": "ok" if code == OK else "failed",
        **counts,
        "checks": [dataclasses.asdict(check) for check in found],
        "exit_code": code,
    }


def examine(checksums: bool = False) -> Iterator[Check]:
    """Run every check, showing each line as soon as it is known."""
    from rich.text import Text

    console = terminal.console()
    for name, check in _all(checksums):
        try:
            lines = list(check())
        except Exception as error:
            lines = [Check(name, "warning", f"not checked: {type(error).__name__}: {error}")]
        for line in lines:
            text = Text.assemble((f"{line.state:<8}", STYLES[line.state]), f"{line.name:<22}",
                                 line.text)  # fmt: skip
            console.print(text, soft_wrap=True)
            if line.fix:
                console.print(Text(f"{'':<30}fix   {line.fix}", style="dim"), soft_wrap=True)
            yield line


def _all(checksums: bool) -> list[tuple[str, Callable[[], Iterator[Check]]]]:
    def store() -> Iterator[Check]:
        from sdxl.run.doctor.mlflow_store import mlflow_store

        return mlflow_store()

    return [
        ("Python", checks.python),
        ("packages", checks.packages),
        ("LoadGen", checks.loadgen),
        ("processor", checks.processor),
        ("GPU", checks.gpu),
        ("TensorRT", checks.tensorrt),
        ("OpenVINO", checks.openvino),
        ("disk", checks.disk),
        ("download", lambda: checks.downloads(checksums)),
        ("MLflow", store),
    ]
