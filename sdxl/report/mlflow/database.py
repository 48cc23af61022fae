"""MLflow's SQLite file: made whole or not at all, and looked at before it is used."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import sqlite3
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sdxl.core.errors import SdxlError

_SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)(?P<options>\?.*)?")
_REVISION = re.compile(r"^(revision|down_revision)\s*=\s*['\"]?(\w+)", re.MULTILINE)
PATIENCE_S = 3


def file_of(uri: str) -> Path | None:
    """The file behind a SQLite address; None for servers, other databases, and memory."""
    found = _SQLITE.fullmatch(uri)
    path = found["path"] if found else ":memory:"
    return None if path.startswith((":memory:", "file:")) else Path(path).absolute()


def absolute(uri: str) -> str:
    """The address for processes that work in another folder."""
    path, found = file_of(uri), _SQLITE.fullmatch(uri)
    return f"sqlite{found[1] or ''}:///{path}{found['options'] or ''}" if path and found else uri


@contextlib.contextmanager
def ready(uri: str) -> Iterator[None]:
    """One writer at a time on a SQLite file that is there and whole; others are let through.

    Raises `SdxlError` with the line that helps, if it is not.
    """
    path = file_of(uri)
    if not path:
        yield
        return
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists() or not path.stat().st_size:
            _make(path)
        elif broken := problem_of(path):
            raise broken
        yield


def _make(path: Path) -> None:
    """MLflow's tables under another name, then renamed: some seconds, whole even after a kill."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f".{path.name}.new-*"):  # by a killed process: we hold the lock
        left.unlink()
    made = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:8]}")
    try:
        store = SqlAlchemyStore(f"sqlite:///{made}", (path.parent / "mlruns").as_uri())
        store.engine.dispose()
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def problem_of(path: Path) -> SdxlError | None:
    """Why the installed MLflow cannot use a database file, with the line that helps."""
    file, known = shlex.quote(str(path)), _revisions()
    aside = f"mv {file} {file}.broken   # the next run makes a new one"
    try:
        runs, version = _counted(path), _version(path)
    except sqlite3.OperationalError as error:  # locked, or not to be read
        return SdxlError(f"MLflow's database {path} cannot be read: {error}")
    except sqlite3.DatabaseError as error:
        return SdxlError(f"{path} is no MLflow database: {error}", fix=aside)
    if not known or version in known - _replaced():
        return None
    if version is None:
        what = f"MLflow's database {path} is not whole: whoever made it was interrupted"
        return SdxlError(what, expected="a schema version", fix=aside)
    if version not in known:
        what = f"MLflow's database {path} is of a newer MLflow"
        update = "python -m pip install --upgrade mlflow"
        return SdxlError(what, f"schema {version}", "one the installed MLflow knows", update)
    what = f"MLflow's database {path} is of an older MLflow, or was not made whole"
    upgrade = (
        f"cp {file} {file}.old && python -m mlflow db upgrade {shlex.quote(f'sqlite:///{path}')}"
    )
    return SdxlError(what, f"schema {version}, {runs[0]} runs", fix=upgrade if runs[0] else aside)


def runs(path: Path) -> tuple[int, int]:
    """(runs, those of them that are unfinished) in a whole database."""
    return _counted(path)


def _counted(path: Path) -> tuple[int, int]:
    if not _answer(path, "SELECT name FROM sqlite_master WHERE name = 'runs'"):
        return 0, 0
    (found,) = _answer(path, "SELECT count(*), coalesce(sum(status = 'RUNNING'), 0) FROM runs")
    return int(found[0]), int(found[1])


def _version(path: Path) -> str | None:
    if not _answer(path, "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"):
        return None
    found = _answer(path, "SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None


def _answer(path: Path, question: str) -> list[tuple[Any, ...]]:
    address = f"{path.resolve().as_uri()}?mode=ro"
    opened = sqlite3.connect(address, uri=True, timeout=PATIENCE_S)
    with contextlib.closing(opened):
        return opened.execute(question).fetchall()


@cache
def _migrations() -> list[dict[str, str]]:
    """`revision` and `down_revision` of each step, read without importing MLflow (seconds)."""
    found = importlib.util.find_spec("mlflow")
    package = Path(found.origin).parent if found and found.origin else Path()
    files = package.glob("store/db_migrations/versions/*.py")
    return [dict(_REVISION.findall(file.read_text())) for file in files]


def _revisions() -> set[str]:
    return {each["revision"] for each in _migrations() if "revision" in each}


def _replaced() -> set[str]:
    """Schema versions that a later one builds on; what is left is the installed MLflow's own."""
    return {each["down_revision"] for each in _migrations() if "down_revision" in each}
