"""Weights, captions and statistics into the store.   python -m sdxl download coco [--from PATH]"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from filelock import FileLock, Timeout

from sdxl.core import store, terminal
from sdxl.core.command import Outcome, Parser, print_line, shown
from sdxl.core.errors import FAILED, Problem, SdxlError, UserError, did_you_mean
from sdxl.model import latents
from sdxl.model.download import http
from sdxl.model.download.catalogue import CATALOGUE, File, Target, calibration_tsv, load
from sdxl.model.weight_files import choose

NAMED = 3
"""Files named one by one in a message; of more, their number is given."""

Silent = dict[str, http.UnreachableError]
"""Hosts that did not answer, so that each is waited for once."""


class _AbsentError(UserError):
    """A user's folder lacks a file."""


def main(argv: Sequence[str] | None = None, catalogue: Path = CATALOGUE) -> int:
    """Run the command; the last line on standard output is one JSON object. Returns the exit code.

    The line: `status`, `files` (path, state, bytes), `exit_code`, and `reason` if it failed.
    0: everything is in the store. 2: something the user can fix (offline, a wrong file given).
    1: a failure (refused, damaged, broken off, disk full, interrupted).
    """
    done: list[dict[str, Any]] = []
    outcome = Outcome()
    try:
        targets = load(catalogue)
        words = _parser(targets).parse_args(argv)
        target = _target(words.what, targets, words.variant)
        terminal.say(f"{words.what}: {target.what}; licence: {target.licence}")
        run(words.what, target, words.source, words.variant or "fp32", done)
        terminal.say(f"use it: {target.use}")
    except KeyboardInterrupt:
        terminal.say("interrupted; the same command goes on from here")
        outcome = Outcome.failed("interrupted", FAILED)
    except Exception as error:
        outcome = shown(error)
    line = {"status": outcome.status, "files": done, "exit_code": outcome.exit_code}
    print_line({**line, **outcome.line(record=False)})
    return outcome.exit_code


def run(
    what: str, target: Target, source: Path | None, variant: str, done: list[dict[str, Any]]
) -> None:
    """Bring a target's files into the store, as many as can be had, and list them in `done`.

    Raises one error with all problems.
    """
    wanted = _wanted(what, target, source, variant)
    failures: list[tuple[File, SdxlError]] = []
    silent: Silent = {}
    lock = store.root() / "tmp" / f"download-{what}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock):
            for file in wanted:
                try:
                    state = obtain(file, source, silent)
                except SdxlError as error:
                    failures.append((file, error))
                    continue
                size = file.target.stat().st_size
                terminal.say(f"{state:<8} {file.target}  {size:,} bytes")
                done.append({"path": str(file.target), "state": state, "bytes": size})
    except OSError as error:
        raise store.disk_error(error, store.root()) from error
    if failures:
        raise _together(what, target, failures, source)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; whoever waits says so."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        terminal.say(f"another process is at it ({lock} is held); waiting")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def obtain(file: File, source: Path | None, silent: Silent) -> str:
    """Bring one file into the store; the returned word says how: there, copied, made, fetched."""
    if file.target.is_file():
        wrong = file.problem(file.target)
        if not wrong:
            return "there"
        terminal.say(f"{file.target} is replaced: {wrong}")
    if source:
        copy = _copy_of(file, source)
        if copy:
            _place_copy(file, copy)
            return "copied"
        if not any(_input_copy(each, source) for each in file.inputs):
            raise _AbsentError(f"{source} has no {file.inner}")
    if file.make == "latents":
        http.place(file.target, lambda path: np.save(path, latents.mlperf()), file.problem)
        return "made"
    if file.make == "calibration":
        archive, ids = (_input(each, source, silent) for each in file.inputs)
        http.place(file.target, lambda path: calibration_tsv(archive, ids, path), file.problem)
        return "made"
    copy = file.cached()
    if copy and not file.problem(copy):
        _place_copy(file, copy)
        return "copied"
    hosts = {urlsplit(url).netloc for url in file.urls}
    if hosts <= silent.keys():
        raise silent[hosts.pop()]
    try:
        http.fetch(file.urls, file.target, file.problem, file.bytes)
    except http.UnreachableError as error:
        silent.update(dict.fromkeys(hosts, error))
        raise
    return "fetched"


def _wanted(what: str, target: Target, source: Path | None, variant: str) -> list[File]:
    """The files asked for: one variant of the weights; of several, the one that is given alone."""
    wanted = _of_variant(target.files, variant)
    if not source:
        return wanted
    if not os.access(source, os.R_OK):
        state = "cannot be read" if source.exists() else "does not exist"
        raise UserError(f"--from: {source} {state}", expected="a file or a folder")
    if source.is_file() and len(wanted) > 1:
        wanted = [file for file in target.files if file.name == source.name]
        if len(wanted) != 1:
            names = ", ".join(dict.fromkeys(file.name for file in target.files))
            expected = "their folder" if wanted else f"their folder, or one of: {names}"
            raise UserError(f"--from: {source} is not one file of `{what}`", source.name, expected)
    return wanted


def _of_variant(files: list[File], variant: str) -> list[File]:
    """Of each component's weights the variant's files, or else the plain ones, as a run reads."""
    folders: dict[str, list[str]] = {}
    for file in files:
        if file.variant:
            folders.setdefault(str(Path(file.path).parent), []).append(file.name)
    read = None if variant == "fp32" else variant
    kept = {f"{f}/{name}" for f, names in folders.items() for name in choose(names, read).names}
    return [file for file in files if not file.variant or file.path in kept]


def _copy_of(file: File, source: Path) -> Path | None:
    """The user's copy of a file; a file given alone is it, unless it is what it is made of."""
    if source.is_dir():
        return file.within(source)
    return None if any(_input_copy(each, source) for each in file.inputs) else source


def _input_copy(file: File, source: Path) -> Path | None:
    """The user's copy of a file that another is made of."""
    if source.is_dir():
        return file.within(source)
    return source if source.suffix == Path(file.name).suffix else None


def _place_copy(file: File, copy: Path) -> None:
    if file.make == "latents":  # from .npy or .pt, kept as .npy
        found = latents.read(copy)
        write: Callable[[Path], object] = functools.partial(np.save, arr=found)
    else:
        write = functools.partial(shutil.copyfile, copy)
    try:
        http.place(file.target, write, file.problem)
    except http.WrongFileError as error:
        error.problems[0].what = f"{copy} is not {file.name} as it was published"
        raise


def _input(file: File, source: Path | None, silent: Silent) -> Path:
    """A file that another is made of: the user's copy where it lies, or the store's."""
    copy = _input_copy(file, source) if source else None
    if copy:
        wrong = file.problem(copy)
        if wrong:
            raise UserError(f"{copy} is not {file.name} as it was published", wrong)
        return copy
    obtain(file, None, silent)
    return file.target


def _together(
    what: str, target: Target, failures: list[tuple[File, SdxlError]], source: Path | None
) -> SdxlError:
    """One error for all that failed; what is out of reach, or absent from a folder, said once."""
    problems: list[Problem] = []
    silent = [error for _, error in failures if isinstance(error, http.UnreachableError)]
    if silent:
        hosts = ", ".join(dict.fromkeys(error.host for error in silent))
        files = [file for file, error in failures if isinstance(error, http.UnreachableError)]
        urls = [each.urls[0] for file in files for each in [file, *file.inputs] if each.urls]
        hint = target.offline.format(store=store.root())
        problems.append(
            Problem(
                f"{hosts} cannot be reached: {silent[0].reason}",
                expected=f"{hint}; published at {_listed(urls)}",
            )
        )
    absent = [file.inner for file, error in failures if isinstance(error, _AbsentError)]
    if absent:
        problems.append(Problem(f"{source} lacks files of `{what}`", _listed(absent)))
    for _, error in failures:
        if not isinstance(error, http.UnreachableError | _AbsentError):
            problems += error.problems
    for problem in problems:
        if source:
            problem.expected = problem.expected or "the published file"
            problem.fix = problem.fix or target.own
        else:
            problem.expected = problem.expected or target.offline.format(store=store.root())
            problem.fix = problem.fix or f"python -m sdxl download {what} --from PATH"
    user = all(isinstance(error, UserError) for _, error in failures)
    whole = (UserError if user else SdxlError)(problems[0].what)
    whole.problems = problems
    return whole


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f", and {more} more files" if more > 0 else "")


def _target(what: str, targets: dict[str, Target], variant: str | None) -> Target:
    if what not in targets:
        close = did_you_mean(what, targets)
        hint = f"did you mean `{close}`?" if close else "one of: " + " ".join(targets)
        raise UserError(f"there is no download `{what}`", expected=hint)
    if variant and not any(file.variant for file in targets[what].files):
        raise UserError("`--variant` would be ignored", f"{what} --variant {variant}", "sdxl")
    return targets[what]


def _parser(targets: dict[str, Target]) -> Parser:
    listing = "\n".join(f"  {name:<12}{each.what}" for name, each in targets.items())
    parser = Parser(
        prog="python -m sdxl download",
        description=f"Put weights, captions and statistics into the store.\n\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="|".join(targets))
    parser.add_argument(
        "--from", dest="source", metavar="PATH", type=lambda text: Path(text).expanduser(),
        help="take it from a local file or folder, checked, in place of the network",
    )  # fmt: skip
    parser.add_argument(
        "--variant", choices=("fp32", "fp16"),
        help="which of SDXL's weight files (default: fp32, which model.variant=null reads)",
    )  # fmt: skip
    return parser
