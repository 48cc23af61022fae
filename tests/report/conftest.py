"""The sweep that the report is tried on, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdxl.report.cells import Cells, load
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from tests.sweep_of_records import sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cells, one of them half written."""
    return sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def found(folder: Path) -> Cells:
    """What the report reads of them."""
    return load([folder])


@pytest.fixture(scope="module")
def html(found: Cells) -> str:
    """The page of them."""
    return page(found, Limits(min_psnr=25))
