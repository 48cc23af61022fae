"""What MLflow's own process does, by name.   Started by `process`, never by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core import secrets
from sdxl.core.errors import Problem, SdxlError
from sdxl.report.mlflow import client, curves, process, sweeps


def _upload(uri: str, experiment: str, record_path: str, parent: str | None) -> str:
    return client.upload(Path(record_path), _store(uri, experiment), parent)


def _open(uri: str, experiment: str) -> None:
    """Make the database, or see that it is whole."""
    with client.opened(_store(uri, experiment)):
        pass


def _search(uri: str, experiment: str, patience_s: int) -> None:
    """The doctor's question; the experiment is not made for it."""
    client.search(uri, patience_s)


def _on_store(action: Any) -> Any:
    """A job of `action(client, experiment id, **words)`."""

    def job(uri: str, experiment: str, **words: Any) -> Any:
        with client.opened(_store(uri, experiment)) as (opened, number):
            return action(opened, number, **words)

    return job


JOBS = {
    "upload": _upload,
    "open": _open,
    "search": _search,
    **{name: _on_store(action) for name, action in (sweeps.JOBS | curves.JOBS).items()},
}


def _store(uri: str, experiment: str) -> schema.Tracking:
    secrets.know(uri)
    return schema.Tracking("mlflow", True, uri, experiment)


def said(error: Exception) -> Problem:
    """An error in words for the user, without secrets."""
    if not isinstance(error, SdxlError):
        return Problem(client.reason(error))
    parts = vars(error.problems[0]).items()
    return Problem(**{name: secrets.hide(text) if text else text for name, text in parts})


if __name__ == "__main__":
    import mlflow  # noqa: F401  seconds, before the first deadline begins

    process.serve(JOBS, said)
