"""MLPerf's audits of SDXL: TEST01 (the answers of a timed run are right), TEST04 (none is cached).

Each is one performance run under an audit.config, verified against ordinary runs of the same work:
as the official scripts do (compliance/TEST01, TEST04 of mlcommons/inference), and strictly. The
official TEST01 compares the first byte of each answer; ours compares every byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf.rounds import MODEL
from sdxl.bench.mlperf.verdict import Gate
from sdxl.config import schema
from sdxl.config.schema import Compliance
from sdxl.core import records
from sdxl.core.record import Image, Record

SAMPLED = 128
"""Answers that TEST01 writes down, on average."""

SCORE = {
    "Offline": "result_samples_per_second",
    "Server": "result_completed_samples_per_sec",
    "SingleStream": "early_stopping_latency_ss",
    "MultiStream": "early_stopping_latency_ms",
}
"""LoadGen's key of a scenario's score; latencies are in nanoseconds."""

TOLERANCE = 0.10
SHORT_TOLERANCE = 0.20
SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}
"""Scores below which the official scripts allow `SHORT_TOLERANCE`."""

LEAST_MEDIAN = {"SingleStream": 1 / 1.2, "MultiStream": 1 / 1.2, "Server": 0.5}
"""TEST04's median latency over the plain run's: below this answers were cached.

Ours: the official test sees no cache in Server, whose rate is that of the arrivals, nor in the
tail of few queries, where one stumble hides it.
"""

_LINE = re.compile(rb'"seq_id" : (\d+), "qsl_idx" : (\d+), "data" : "([0-9A-Fa-f]*)"')
_CONFIG = {
    Compliance.test01: """\
*.*.mode = 2
*.*.accuracy_log_rng_seed = 720381539243781796
*.*.accuracy_log_sampling_target = 128
""",
    # The official file lowers Offline to 500 queries, which the official checker then refuses.
    Compliance.test04: """\
*.{scenario}.mode = 2
*.{scenario}.performance_issue_unique = 0
*.{scenario}.performance_issue_same = 1
*.{scenario}.performance_issue_same_index = 3
""",
}


def name_of(test: Compliance) -> str:
    """`TEST01`, as folders and files have it."""
    return test.value.upper()


def prepare(config: schema.Config, settings: Any, log_dir: Path) -> Path:
    """Put the audit's settings into LoadGen's `settings` and its file into `log_dir`.

    Returns the file's path, which is given to LoadGen in any case: it would otherwise take an
    audit.config of the working directory. `conf_type=2` is the one that LoadGen logs no error for.
    """
    path = log_dir / "audit.config"
    if config.compliance:
        path.write_text(_CONFIG[config.compliance].format(scenario=config.scenario.name))
        failed = settings.FromConfig(str(path), MODEL, config.scenario.name, 2)
        assert not failed, f"LoadGen refused {path}: {failed}"
    return path


@dataclass
class Answers:
    """The answers of TEST01 beside those of the accuracy run, counted as the official script does.

    `different` holds the prompts whose answer differs anywhere, `first_bytes` those whose first
    byte does (a byte is None where the accuracy run kept only the hash).
    """

    entries: int = 0
    matched: int = 0
    missing: int = 0
    first_bytes: list[int] = field(default_factory=list)
    different: list[int] = field(default_factory=list)
    size: int = 0


def responses(path: Path) -> Iterator[tuple[int, bytes]]:
    """(qsl index, answer) of each entry of an mlperf_log_accuracy.json, one line at a time."""
    with path.open("rb") as file:
        for line in file:
            if found := _LINE.search(line):
                yield int(found[2]), bytes.fromhex(found[3].decode())


def compare(log: Path, accuracy: Record, folder: Path) -> Answers:
    """TEST01's answers against the pictures of the accuracy run, whose record is in `folder`."""
    known = {image.index: image for image in accuracy.images}
    found = Answers()
    for index, answer in responses(log):
        found.entries += 1
        found.size = len(answer)
        image = known.get(index)
        if image is None:
            found.missing += 1
            continue
        found.matched += 1
        if hashlib.sha256(answer).hexdigest() != image.sha256:
            found.different.append(index)
            if _first_byte(folder, image) != answer[0]:
                found.first_bytes.append(index)
    return found


def _first_byte(folder: Path, image: Image) -> int | None:
    """The red of the first pixel, from the picture's file."""
    from sdxl.model.pictures import load

    path = folder / image.file
    return int(load(path).flat[0]) if path.is_file() else None


def accuracy_text(found: Answers, accuracy: Record) -> str:
    """verify_accuracy.txt of TEST01, line by line as the official script prints it."""
    passed = found.matched > 0 and not found.first_bytes
    return f"""\
Verifying accuracy. This might take a while...
Reading accuracy mode results...
Reading performance mode results...
num_acc_log_entries = {len(accuracy.images)}
num_acc_log_duplicate_keys = 0
num_acc_log_data_mismatch = 0
num_perf_log_entries = {found.entries}
num_perf_log_qsl_idx_match = {found.matched}
num_perf_log_data_mismatch = {len(found.first_bytes)}
num_missing_qsl_idxs = {found.missing}
TEST {"PASS" if passed else "FAIL"}

"""


@dataclass(frozen=True)
class Speeds:
    """The audit's score beside the plain run's; `bounds` is what the audit allows."""

    reference: float
    test: float
    low: float
    high: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Within the bounds, and nothing else wrong."""
        return not self.problem and self.low <= self.test <= self.high


def speeds(test: Compliance, audited: dict[str, Any], plain: dict[str, Any]) -> Speeds:
    """Both scores, from the detail logs of the audit and of the plain performance run.

    TEST01: within 10 % of the plain run (20 % for very short latencies). TEST04: less than 10 %
    better; latencies count as queries per second there, which makes it 20 % for SDXL's.
    """
    scenario = plain["effective_scenario"]
    reference, score = (float(detail.get(SCORE[scenario]) or 0) for detail in (plain, audited))
    tolerance, low = TOLERANCE, 0.0
    if test is Compliance.test04 and scenario in SHORT_NS:
        reference, score = (1e9 / value if value else 0.0 for value in (reference, score))
    if scenario in SHORT_NS and reference <= SHORT_NS[scenario]:
        tolerance = SHORT_TOLERANCE
    if test is Compliance.test01:
        low = reference * (1 - tolerance)
    return Speeds(
        reference, score, low, reference * (1 + tolerance), _unequal(audited, plain, scenario)
    )


def _unequal(audited: dict[str, Any], plain: dict[str, Any], scenario: str) -> str:
    """What forbids comparing the two scores at all."""
    if plain.get("result_validity") != "VALID":
        return "Reference results are invalid"
    if audited.get("result_validity") != "VALID":
        return "Test results are invalid"
    if audited.get("effective_scenario") != scenario:
        return "Test and reference scenarios do not match!"
    latency = "effective_target_latency_ns"
    if scenario == "Server" and audited.get(latency) != plain.get(latency):
        return "Server target latency mismatch"
    return ""


def performance_text(test: Compliance, found: Speeds) -> str:
    """verify_performance.txt as the official script of the test prints it."""
    word = "Reference" if test is Compliance.test01 else "reference"
    other = "Test" if test is Compliance.test01 else "test"
    lines = ["Verifying performance."]
    if not found.problem:
        lines += [f"{word} score = {found.reference}", f"{other} score = {found.test}"]
    ending = "TEST PASS" if found.passed else f"TEST FAIL: {found.problem or 'Test score invalid'}"
    return "\n".join([*lines, ending, ""])


def verify(
    test: Compliance, record: Record, folder: Path, plain: Path, accuracy: Path | None, place: Path
) -> list[Gate]:
    """Judge the audit in `folder` against the records `plain` and, for TEST01, `accuracy`.

    Leaves the official verify_*.txt in `place`.
    """
    place.mkdir(parents=True, exist_ok=True)
    audited, ordinary = (each.performance.loadgen.detail for each in (record, records.read(plain)))
    found = speeds(test, audited, ordinary)
    (place / "verify_performance.txt").write_text(performance_text(test, found))
    answers = None
    if test is Compliance.test01:
        assert accuracy
        reference = records.read(accuracy)
        log = folder / "loadgen" / "mlperf_log_accuracy.json"
        answers = compare(log, reference, accuracy.parent)
        (place / "verify_accuracy.txt").write_text(accuracy_text(answers, reference))
    return gates(test, record, ordinary, found, answers)


def gates(
    test: Compliance,
    record: Record,
    plain: dict[str, Any],
    found: Speeds,
    answers: Answers | None,
) -> list[Gate]:
    """The audit's own gates, the official ones and ours; `plain` is the ordinary run's log."""
    detail = record.performance.loadgen.detail
    required = f"{found.low:,.6g} to {found.high:,.6g}"
    measured = found.problem or f"{found.test:,.6g}"
    share = f"{found.test / found.reference - 1:+.1%}" if found.reference else ""
    name = name_of(test)
    rows = [Gate(f"{name} score", required, measured, found.passed, share, own=True)]
    if answers is None:
        rows += _median(record.config["scenario"]["name"], detail, plain)
        same = detail.get("effective_performance_issue_same")
        index = detail.get("effective_performance_issue_same_index")
        told = f"prompt {index} only" if same else "every prompt"
        rows.append(Gate(f"{name} queries", "prompt 3 only", told, told == "prompt 3 only"))
        return rows
    picture = record.config["model"]
    whole = 3 * picture["height"] * picture["width"]
    counts = record.performance.counts.done
    enough = min(SAMPLED, counts) // 2
    differing = f"{len(answers.different)} of {answers.matched} differ"
    if answers.different:
        differing += f": prompts {', '.join(map(str, sorted(set(answers.different))[:5]))}"
    return [
        *rows,
        Gate(f"{name} answers", f"at least {enough}", f"{answers.matched}",
             answers.matched >= max(1, enough), own=True),
        Gate(f"{name} size", f"{whole:,} bytes", f"{answers.size:,} bytes",
             answers.size == whole, own=True),
        Gate(f"{name} first bytes", "0 differ", f"{len(answers.first_bytes)} differ",
             not answers.first_bytes, own=True),
        Gate(f"{name} every byte", "0 differ", differing, not answers.different, own=True),
    ]  # fmt: skip


def _median(scenario: str, audited: dict[str, Any], plain: dict[str, Any]) -> list[Gate]:
    """TEST04 by the middle of the latencies, for scenarios that have them one by one."""
    if scenario not in LEAST_MEDIAN:
        return []
    key = "result_50.00_percentile_latency_ns"
    seen, usual = audited[key] / 1e6, plain[key] / 1e6
    least = LEAST_MEDIAN[scenario] * usual
    share = f"{seen / usual - 1:+.1%}"
    required, measured = f"at least {least:,.4g}", f"{seen:,.4g}"
    return [Gate("TEST04 median, ms", required, measured, seen >= least, share, own=True)]
