"""Published MLPerf results as records, to stand beside ours.   python -m sdxl import FOLDER|JSON"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import results
from sdxl.core import records, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import OK, UserError
from sdxl.core.paths import ROOT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the last line on standard output is one JSON object."""
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    words = _parser().parse_args(argv)
    if not words.place.exists():
        raise UserError("there is no such table or tree", words.place, "a JSON file or a folder")
    read = results.of_tree if words.place.is_dir() else results.of_table
    command = f"python -m sdxl import {words.place}"
    found = [record for result in read(words.place) for record in result.records(command)]
    if not found:
        expected = "a submission's tree, LoadGen's logs, or MLCommons' table of results"
        raise UserError("nothing in it is a result of SDXL", words.place, expected)
    paths = [records.write(record, words.out / _name(record)) for record in found]
    terminal.tell(f"{len(paths)} records in {words.out}; python -m sdxl report RECORDS {words.out}")
    return {"status": "ok", "records": [str(path) for path in paths], "exit_code": OK}


def _name(record: records.Record) -> str:
    """The folder of a record: what it is of, and the beginning of its key."""
    backend, config = record.config["backend"], record.config
    parts = (
        config["round"],
        backend["submitter"],
        backend["system"],
        config["scenario"]["name"],
        backend["of"],
        record.key[:8],
    )
    return re.sub(r"[^\w.-]+", "_", "-".join(map(str, parts))).lstrip(".-")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m sdxl import",
        description="A published submission (the tree of either layout), LoadGen's logs, or "
        "MLCommons' table of results becomes records of backend `published`: per system, and per "
        "accelerator where it has several.",
    )
    parser.add_argument("place", type=Path, metavar="FOLDER|JSON")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=ROOT / "published",
        help="where the records go (default: published/)",
    )
    return parser
