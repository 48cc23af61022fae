"""Pass or fail, for the CI of a model.   python -m sdxl gate RECORD|DIR --min-psnr 40

Every record has to be VALID and to keep each limit; with `--against RECORD` also to be no slower
and no worse than that one by more than the tolerances. What was not measured does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sdxl.core import records, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import FAILED, OK, UserError
from sdxl.core.store import disk_error
from sdxl.quality.beside import decibels
from sdxl.report import cells
from sdxl.report.cell import Cell
from sdxl.report.limits import BOUNDS, Bound, Limits


@dataclass(frozen=True)
class Check:
    """One requirement on one record."""

    record: str
    check: str
    required: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Tolerance:
    """How much worse than the record `--against` a figure may be: a share of it, or a number."""

    bound: str
    option: str
    default: float
    share: bool
    what: str

    def limit(self, theirs: float, allowed: float, least: bool) -> float:
        """The figure that just passes."""
        change = theirs * allowed if self.share else allowed
        return theirs - change if least else theirs + change


TOLERANCES = (
    Tolerance("min_rate", "--max-slowdown", 0.05, True, "share of its images/s"),
    Tolerance("min_psnr", "--max-psnr-drop", 1.0, False, "dB"),
    Tolerance("min_accuracy", "--max-accuracy-drop", 0.02, False, "of attribute accuracy"),
    Tolerance("max_memory_gib", "--max-memory-growth", 0.1, True, "share of its memory"),
)
_BY_NAME = {bound.name: bound for bound in BOUNDS}


def checks(
    found: Sequence[Cell], limits: Limits, against: Cell | None, allowed: dict[str, float]
) -> list[Check]:
    """Every requirement on every record, in their order."""
    made = []
    for cell in found:
        status = cell.record.status
        told = f"{status}: {cell.record.reason}" if cell.record.reason else status
        made.append(Check(str(cell.path), "valid", "status ok", told, status == "ok"))
        made += [_check(cell, bound, limit, "") for bound, limit in limits.given()]
        if against:
            made += list(_beside(cell, against, allowed))
    return made


def _beside(cell: Cell, against: Cell, allowed: dict[str, float]) -> Iterator[Check]:
    """Requirements that come from another record; figures that it lacks ask nothing.

    Pictures are compared with what its own are; identical ones count as `decibels` has them.
    """
    cell = replace(cell, against=against.compared_with)
    for tolerance in TOLERANCES:
        bound = _BY_NAME[tolerance.bound]
        theirs = bound.measured(against)
        if theirs is not None:
            finite = decibels(None) if math.isinf(theirs) else theirs
            limit = tolerance.limit(finite, allowed[tolerance.bound], bound.least)
            yield _check(cell, bound, limit, f" (there {bound.form(theirs)})")


def _check(cell: Cell, bound: Bound, limit: float, note: str) -> Check:
    found = bound.measured(cell)
    doubt = f": {cell.meaningless}" if bound.of_speed and cell.meaningless else ""
    told = f"not measured{doubt}" if found is None else bound.form(found)
    side = "least" if bound.least else "most"
    required = f"at {side} {bound.form(limit)}{note}"
    return Check(str(cell.path), bound.what, required, told, bound.keeps(cell, limit))


def junit(made: Sequence[Check]) -> str:
    """The checks as JUnit XML, one test case each."""
    failures = sum(not each.passed for each in made)
    suite = ElementTree.Element(
        "testsuite", name="sdxl gate", tests=f"{len(made)}", failures=f"{failures}"
    )
    for each in made:
        case = ElementTree.SubElement(suite, "testcase", classname=each.record, name=each.check)
        if not each.passed:
            words = f"{each.measured}; required: {each.required}"
            ElementTree.SubElement(case, "failure", message=words)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command: exit code 0 if everything passes, 1 if anything fails."""
    return ended(lambda: _gate(argv))


def _gate(argv: Sequence[str] | None) -> dict[str, Any]:
    asked = _parser().parse_args(argv)
    limits = Limits(**{each.name: getattr(asked, each.name) for each in fields(Limits)})
    if not limits and not asked.against:
        raise UserError(
            "nothing is asked of the records", expected="a limit, or a record to compare with",
            fix="python -m sdxl gate RECORD --min-psnr 40",
        )  # fmt: skip
    against = Cell(asked.against, records.read(_file(asked.against))) if asked.against else None
    found = cells.load(asked.places)
    for path, why in found.unreadable:
        raise UserError("this is no record", f"{path}: {why}", "records that can be read")
    chosen = [cell for cell in found.cells if not _another(cell, found.cells)]
    if not chosen:
        raise UserError(
            "there is nothing to check", f"{len(found.trainings)} trainings, no measurement",
            "measurements", "python -m sdxl gate RECORD",
        )  # fmt: skip
    allowed = {each.bound: getattr(asked, _name(each.option)) for each in TOLERANCES}
    made = checks(chosen, limits, against, allowed)
    head = ("record", "check", "required", "measured", "")
    rows = [
        (_short(each.record), each.check, each.required, each.measured,
         "pass" if each.passed else "FAIL")
        for each in made
    ]  # fmt: skip
    terminal.console(stderr=True).print(terminal.table(head, rows))
    if asked.junit:
        try:
            asked.junit.write_text(junit(made), encoding="utf-8")
        except OSError as error:
            raise disk_error(error, asked.junit) from error
    failing = [each for each in made if not each.passed]
    reason = "; ".join(f"{each.check} {each.measured}, {each.required}" for each in failing)
    return {
        "status": "failed" if failing else "ok",
        **({"reason": reason} if failing else {}),
        "records": len(chosen),
        "failing": len(failing),
        **({"checks": [asdict(each) for each in made]} if asked.json else {}),
        "exit_code": FAILED if failing else OK,
    }


def _another(cell: Cell, all_of_them: Sequence[Cell]) -> bool:
    """Whether a record is here only for another: its baseline, or the same work once more."""
    baseline = any(each.baseline is cell and each is not cell for each in all_of_them)
    return baseline or bool(cell.record.performance.equal_to)


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:-1])


def _file(place: Path) -> Path:
    return place / "record.json" if place.is_dir() else place


def _name(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _parser() -> Parser:
    parser = Parser(prog="python -m sdxl gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("places", nargs="+", type=Path, metavar="RECORD|DIR")
    limits = parser.add_argument_group("limits, of every record")
    for bound in BOUNDS:
        option = f"--{bound.name.replace('_', '-')}"
        limits.add_argument(option, type=float, metavar="X", help=f"{bound.what},{bound.unit}")
    beside = parser.add_argument_group("beside another record")
    beside.add_argument("--against", type=Path, metavar="RECORD", help="the record to keep up with")
    for each in TOLERANCES:
        beside.add_argument(
            each.option, type=float, default=each.default, metavar="X",
            help=f"tolerated, {each.what} (default {each.default:g})",
        )  # fmt: skip
    out = parser.add_argument_group("output")
    out.add_argument("--junit", type=Path, metavar="FILE", help="the checks as JUnit XML")
    out.add_argument("--json", action="store_true", help="every check in the one line of output")
    return parser
