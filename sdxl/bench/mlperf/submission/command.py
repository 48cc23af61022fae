"""MLPerf submissions.

python -m sdxl submission plan [RECORD|DIR ...] [model.path=FOLDER ...]
python -m sdxl submission describe SYSTEM.json
python -m sdxl submission build RECORD|DIR... --system SYSTEM.json --submitter NAME --out DIR
python -m sdxl submission check DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import rounds
from sdxl.bench.mlperf.submission import plan, systems
from sdxl.bench.mlperf.submission.check import check
from sdxl.bench.mlperf.submission.gather import Asked, gather
from sdxl.bench.mlperf.submission.tree import build
from sdxl.config.schema import Round
from sdxl.core import terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import OK, Problem, SdxlError, UserError
from sdxl.core.store import write_json

NEWEST = list(rounds.ROUNDS)[-1].value


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the last line on standard output is one JSON object."""
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    asked = _parser().parse_args(argv)
    return {"plan": _plan, "describe": _describe, "build": _build, "check": _check}[asked.command](
        asked
    )


def _plan(words: argparse.Namespace) -> dict[str, Any]:
    """Every run that a submission needs, in order, with what is there already."""
    asked = Asked(Round(words.round), words.division, "", "", words.system_type)
    allowed = rounds.scenarios_of(rounds.rules_of(asked.round), asked.system_type, asked.division)
    if allowed is None:
        raise UserError(
            f"{asked.round.value} takes no SDXL from {asked.system_type} systems in the closed "
            "division", rounds.rules_of(asked.round).status, "--round v5.1, or --division open",
        )  # fmt: skip
    places = [Path(each) for each in words.places if "=" not in each]
    found = plan.steps(places, asked, [each for each in words.places if "=" in each])
    left = [step for step in found if not step.record]
    for number, step in enumerate(found, 1):
        terminal.tell(f"{number:>2}  {step.scenario} {step.role}: {_told(step)}")
        terminal.tell(f"    {step.command}")
    known = [step.hours for step in left if step.hours is not None]
    hours = round(sum(known), 2) if len(known) == len(left) else None
    disk = sum(step.disk_bytes for step in left)
    took = "hours unknown: no record of this work yet" if hours is None else f"{hours:g} hours"
    terminal.tell(f"left: {len(left)} of {len(found)} runs, {took}, {disk / 1e9:.1f} GB")
    kind = f"--round {words.round} --system-type {words.system_type} --division {words.division}"
    start = "python -m sdxl submission build multirun --system box.json --submitter NAME"
    terminal.tell(f"then: {start} {kind} --out submission")
    return {"status": "ok", "runs": [step.row() for step in found], "left": len(left),
            "hours_left": hours, "disk_bytes_left": disk, "exit_code": OK}  # fmt: skip


def _told(step: plan.Step) -> str:
    """What is there of a run, or what it takes."""
    if step.record:
        return f"there: {step.record}"
    took = "hours unknown" if step.hours is None else f"{step.hours:.2f} hours"
    disk = f", {step.disk_bytes / 1e9:.1f} GB" if step.disk_bytes else ""
    return f"{took}{disk}" + (f"; again, since {step.refused}" if step.refused else "")


def _describe(asked: argparse.Namespace) -> dict[str, Any]:
    """A description of this machine to complete by hand."""
    if asked.file.exists():
        raise UserError("the description is there already", asked.file, "a new file")
    found = systems.describe()
    write_json(asked.file, found)
    empty = [name for name in systems.MEANINGFUL if found.get(name) == ""]
    terminal.tell(f"{asked.file}: fill in {', '.join(empty)}")
    return {"status": "ok", "file": asked.file, "to_fill_in": empty, "exit_code": OK}


def _build(words: argparse.Namespace) -> dict[str, Any]:
    """The tree, checked; one that breaks a rule is left for inspection and is a failure."""
    asked = Asked(
        Round(words.round), words.division, words.submitter, words.system.stem, words.system_type,
        words.draft, words.accept_rounding,
    )  # fmt: skip
    results = gather(words.places, asked)
    top = build(results, asked, systems.read(words.system, asked), words.out)
    found = check(words.out, asked.round)
    for each in found:
        terminal.tell(str(each))
    if found and not words.draft:
        raise SdxlError(f"{top} breaks {len(found)} rules of {words.round}", found[0])
    named = {result.scenario: sorted(result.runs) for result in results}
    return {"status": "draft" if words.draft else "ok", "submission": top, "scenarios": named,
            "complaints": [str(each) for each in found], "exit_code": OK}  # fmt: skip


def _check(words: argparse.Namespace) -> dict[str, Any]:
    if not words.folder.is_dir():
        raise UserError("there is no such folder", words.folder, "one with closed/ or open/")
    found = check(words.folder, Round(words.round))
    if found:
        error = SdxlError("")
        error.problems = [Problem(str(each)) for each in found]
        raise error
    terminal.tell(f"{words.folder} keeps the rules of {words.round}")
    return {"status": "ok", "round": words.round, "exit_code": OK}


def _parser() -> Parser:
    parser = Parser(
        prog="python -m sdxl submission",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    zero = commands.add_parser("plan", help="every run it needs: order, hours, disk, commands")
    zero.add_argument(
        "places", nargs="*", metavar="RECORD|DIR|WORD=VALUE",
        help="records so far; settings of the work (default: those of the newest record)",
    )  # fmt: skip
    one = commands.add_parser("describe", help="write what is known of this machine")
    one.add_argument("file", type=Path, metavar="SYSTEM.json")
    two = commands.add_parser("build", help="make the tree from records, and check it")
    two.add_argument("places", nargs="+", type=Path, metavar="RECORD|DIR")
    two.add_argument("--system", type=Path, required=True, metavar="SYSTEM.json",
                     help="description; its name names the system")  # fmt: skip
    two.add_argument("--submitter", required=True, metavar="NAME")
    two.add_argument("--out", type=Path, required=True, metavar="DIR")
    two.add_argument("--draft", action="store_true",
                     help="let in runs that miss the round's settings or bounds")  # fmt: skip
    two.add_argument("--accept-rounding", action="store_true",
                     help="a TEST01 whose answers agree in their first bytes only")  # fmt: skip
    three = commands.add_parser("check", help="check a tree, whoever made it")
    three.add_argument("folder", type=Path, metavar="DIR")
    for each in (zero, two):
        each.add_argument("--division", choices=("closed", "open"), default="closed")
        each.add_argument("--system-type", choices=rounds.SYSTEM_TYPES, default="edge")
    for each in (zero, two, three):
        each.add_argument("--round", choices=[r.value for r in rounds.ROUNDS], default=NEWEST)
    return parser
