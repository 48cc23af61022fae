"""Our own verdict on records, gate by gate.   python -m sdxl verdict [RECORD|DIR ...]

The gates of an MLPerf round are asked of runs that mean to be official ones; a quick run is told
which of them nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import verdict
from sdxl.core import records, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import INVALID, OK
from sdxl.core.record import Record
from sdxl.report.terminal import gates as table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the gates of each record beside its partner; exit code 3 if one that counts fails."""
    return ended(lambda: _judge(argv))


def _judge(argv: Sequence[str] | None) -> dict[str, Any]:
    words = _parser().parse_args(argv)
    read = {path: records.read(path) for path in records.find(words.places)}
    judged = {path: found for path, found in read.items() if _can_be_judged(found)}
    failing: dict[str, list[str]] = {}
    unasked: dict[str, list[str]] = {}
    for path, record in judged.items():
        record.verdict = [gate.row() for gate in _gates(record, judged.values())]
        asked = words.official or verdict.asked(record)
        table.show(f"{path}, {record.config['round']}", record.verdict, asked)
        missed = [row for row in record.verdict if not row.passed]
        failing[str(path)] = [row.gate for row in missed if table.fails(row, asked)]
        unasked[str(path)] = [row.gate for row in missed if not table.fails(row, asked)]
    if not judged:
        terminal.say("nothing to judge: no record there has LoadGen's logs")
    code = INVALID if not judged or any(failing.values()) else OK
    status = "ok" if code == OK else "invalid"
    return {"status": status, "failing": failing, "not_asked_for": unasked, "exit_code": code}


def _parser() -> Parser:
    parser = Parser(
        prog="python -m sdxl verdict",
        description="What MLPerf's round requires, what was measured, and by what margin. An "
        "accuracy run and a performance run of the same work are judged together.",
    )
    parser.add_argument("places", nargs="+", type=Path, metavar="RECORD|DIR")
    parser.add_argument(
        "--official",
        action="store_true",
        help="ask the round's gates of quick runs, too: those of less than 600 s",
    )
    return parser


def _gates(record: Record, others: Iterable[Record]) -> list[verdict.Gate]:
    """All of a run whose logs are there, else those of its published scores."""
    if not record.performance.loadgen:
        return verdict.score_gates(record, record.quality, str(record.config["rules"]))
    return verdict.gates(record, _partner(record, others))


def _can_be_judged(record: Record) -> bool:
    """Whether there are logs, or at least the scores of a published row."""
    published = record.config.get("backend", {}).get("name") == "published"
    return bool(record.performance.loadgen) or (published and bool(record.quality.scores))


def _partner(record: Record, others: Iterable[Record]) -> Record | None:
    """The newest of `others` that did the same work in the other mode."""
    found = [
        other
        for other in others
        if other.performance.pair_key == record.performance.pair_key
        and other.config["mode"] != record.config["mode"]
        and not other.config.get("compliance")
    ]
    return max(found, key=lambda other: other.started, default=None)
