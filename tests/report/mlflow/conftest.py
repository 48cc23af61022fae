"""A finished run, measured once, and MLflow stores to put it in."""

import os
import shutil
from types import SimpleNamespace

import pytest

from sdxl.config import schema
from sdxl.report.mlflow import client
from tests import forked
from tests.conftest import ROOT, words_of
from tests.report.mlflow.mlflow_store import FAST, runs


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """The folder of a finished run that was not tracked."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    line = [str(ROOT / "run.py"), *words_of(FAST, folder)]
    forked.run(line, cwd=folder.parent, env=os.environ, timeout=120).check_returncode()
    return folder


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """An MLflow database without runs; making one takes seconds, copying none."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    client._client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty, tmp_path):
    """An MLflow store of this test's own."""
    shutil.copy(empty, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return SimpleNamespace(
        uri=uri,
        settings=schema.Tracking("mlflow", True, uri, "trial"),
        client=client._client(uri),
        runs=lambda name="trial": runs(client._client(uri), name),
    )
